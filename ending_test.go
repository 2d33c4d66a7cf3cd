package vehicle

import (
	"context"
	"errors"
	"testing"
	"time"
)

// The first that ends a command is why, and the attempt is told, whether it was there before or comes later.
func TestEnding(t *testing.T) {
	t.Parallel()
	gone := errors.New("the caller has gone")
	cancelled := func(t *testing.T) (context.Context, func()) {
		t.Helper()
		ctx, cancel := context.WithCancelCause(t.Context())
		return ctx, func() { cancel(gone) }
	}
	for name, test := range map[string]struct {
		caller     func(t *testing.T) (context.Context, func()) // with what the caller does
		steps      []string
		err, cause error
	}{
		"nothing":                       {cancelled, nil, nil, nil},
		"Close":                         {cancelled, []string{"close"}, context.Canceled, ErrClosed},
		"the caller":                    {cancelled, []string{"caller"}, context.Canceled, gone},
		"the caller, and it is told":    {cancelled, []string{"caller", "told"}, context.Canceled, gone},
		"the caller, then Close":        {cancelled, []string{"caller", "close"}, context.Canceled, gone},
		"Close, then the caller":        {cancelled, []string{"close", "caller", "told"}, context.Canceled, ErrClosed},
		"the end of the command":        {cancelled, []string{"over"}, context.Canceled, context.Canceled},
		"Close after the command's end": {cancelled, []string{"over", "close"}, context.Canceled, context.Canceled},
		"the caller's deadline": {func(t *testing.T) (context.Context, func()) {
			t.Helper()
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
			return ctx, cancel
		}, []string{"told"}, context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caller, leave := test.caller(t)
			defer leave()
			e := &ending{Context: caller}
			follow := func() *attempt {
				at := new(attempt)
				at.begin(t.Context(), true, time.Time{})
				e.follow(at)
				return at
			}
			before := follow()
			waits := e.Done()
			for _, step := range test.steps {
				switch step {
				case "close":
					e.end(ErrClosed)
				case "over":
					e.end(context.Canceled)
				case "caller":
					leave()
				case "told":
					e.end(nil)
				}
			}
			ctx := context.WithValue(e, new(int), 1)
			if got := ctx.Err(); !errors.Is(got, test.err) {
				t.Errorf("Err: got %v, want %v", got, test.err)
			}
			if got := causeOf(ctx); !errors.Is(got, test.cause) {
				t.Errorf("the cause: got %v, want %v", got, test.cause)
			}
			if len(test.steps) == 0 || test.steps[len(test.steps)-1] == "caller" {
				return // it is told in a moment
			}
			<-waits
			<-e.Done()
			late := &ending{Context: caller}
			late.end(ErrClosed)
			<-late.Done() // nobody has asked for it before
			for when, at := range map[string]*attempt{"before": before, "after": follow()} {
				if got := at.why(); !errors.Is(got, test.cause) {
					t.Errorf("why an attempt that began %s ended: got %v, want %v", when, got, test.cause)
				}
			}
		})
	}
}

// A command that an interceptor of another one runs, with its context, ends for its own reasons.
func TestCauseOfACommandWithinACommand(t *testing.T) {
	t.Parallel()
	outer := &ending{Context: t.Context()}
	inner, cancel := context.WithCancelCause(outer)
	gone := errors.New("the inner one's caller has gone")
	if err := causeOf(inner); err != nil {
		t.Errorf("before: got %v, want none", err)
	}
	cancel(gone)
	if err := causeOf(inner); !errors.Is(err, gone) {
		t.Errorf("the inner command: got %v, want %v", err, gone)
	}
	outer.end(ErrClosed)
	if err := causeOf(inner); !errors.Is(err, gone) {
		t.Errorf("the inner command, after the outer one: got %v, want %v", err, gone)
	}
	if err := causeOf(context.WithValue(outer, endingKey{}, outer)); !errors.Is(err, ErrClosed) {
		t.Errorf("the outer command: got %v, want %v", err, ErrClosed)
	}
}
