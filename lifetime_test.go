package vehicle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Who makes contexts from an attempt's sees it end as if it were package context's.
func TestLifetimeEndsWhatIsMadeFromIt(t *testing.T) {
	t.Parallel()
	type key struct{}
	for name, test := range map[string]struct {
		timeout time.Duration // 0: none
		end     func(l *lifetime)
		want    error
	}{
		"it is ended":           {time.Hour, func(l *lifetime) { l.end(context.Canceled) }, context.Canceled},
		"without a deadline":    {0, func(l *lifetime) { l.end(context.Canceled) }, context.Canceled},
		"its deadline passes":   {time.Second, func(*lifetime) { time.Sleep(time.Second); synctest.Wait() }, context.DeadlineExceeded},
		"its deadline is past":  {-time.Second, func(*lifetime) {}, context.DeadlineExceeded},
		"it is ended only once": {time.Second, func(l *lifetime) { l.end(context.Canceled); time.Sleep(time.Second) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l lifetime
				var deadline time.Time
				if test.timeout != 0 {
					deadline = time.Now().Add(test.timeout)
				}
				l.begin(t.Context(), true, deadline)
				made := map[string]context.Context{"it": &l}
				add := func(name string, parent context.Context) {
					ctx, cancel := context.WithCancel(parent)
					t.Cleanup(cancel)
					made[name] = ctx //nolint:fatcontext // they do not grow
				}
				add("the first", &l)
				add("the second", &l)
				add("one with a value", context.WithValue(&l, key{}, true))
				told := make(chan struct{})
				context.AfterFunc(&l, func() { close(told) })
				test.end(&l)
				if got := made["the first"].Err(); !errors.Is(got, test.want) {
					t.Errorf("the first is told at once: got %v, want %v", got, test.want)
				}
				synctest.Wait()
				for name, ctx := range made {
					if got := ctx.Err(); !errors.Is(got, test.want) {
						t.Errorf("%s: got %v, want %v", name, got, test.want)
					}
					if got := context.Cause(ctx); !errors.Is(got, test.want) {
						t.Errorf("the cause of %s: got %v, want %v", name, got, test.want)
					}
					<-ctx.Done()
				}
				add("one that comes too late", &l)
				<-made["one that comes too late"].Done()
				<-told
			})
		})
	}
}

// A stream that has ended is not kept by the attempt's context, and does not end it.
func TestLifetimeLetsGoOfItsChild(t *testing.T) {
	t.Parallel()
	var l lifetime
	l.begin(t.Context(), true, time.Time{})
	_, cancel := context.WithCancel(&l)
	cancel()
	if l.child != nil || l.Err() != nil {
		t.Errorf("after the child's end: it is kept: %t; the parent's error: %v", l.child != nil, l.Err())
	}
	next, cancel := context.WithCancel(&l)
	defer cancel()
	l.end(context.Canceled)
	<-next.Done()
}

// What is left of the time is told in whole milliseconds, never less than there is.
func TestLifetimeRoundsWhatIsLeft(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ passed, want time.Duration }{
		"all of it":             {0, 30 * time.Second},
		"some microseconds":     {17 * time.Microsecond, 30 * time.Second},
		"a nanosecond less":     {time.Millisecond - 1, 30 * time.Second},
		"a millisecond":         {time.Millisecond, 30*time.Second - time.Millisecond},
		"nearly all":            {30*time.Second - 1, time.Millisecond},
		"all":                   {30 * time.Second, 0},
		"what is past is exact": {30*time.Second + 17*time.Microsecond, -17 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l lifetime
				l.begin(t.Context(), true, time.Now().Add(30*time.Second))
				defer l.end(context.Canceled)
				time.Sleep(test.passed)
				deadline, ok := l.Deadline()
				if got := time.Until(deadline); !ok || got != test.want {
					t.Errorf("what is left: got %v, %t, want %v", got, ok, test.want)
				}
			})
		})
	}
}
