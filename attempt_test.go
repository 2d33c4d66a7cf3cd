package vehicle

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Whatever moment an attempt's end comes at while its stream moves to another connection, it is not lost, and a move that
// comes too late changes nothing.
func TestAnAttemptThatMovesCanBeEnded(t *testing.T) {
	t.Parallel()
	gone := errors.New("the caller has gone")
	const never = time.Hour
	for name, test := range map[string]struct {
		deadline time.Duration
		steps    []string
		want     error // why the attempt has ended; nil: it goes on
	}{
		"a move":                                 {never, []string{"move", "moved", "begin"}, nil},
		"an end alone":                           {never, []string{"end"}, gone},
		"an end after the move was asked for":    {never, []string{"move", "end", "moved"}, gone},
		"an end before the move was asked for":   {never, []string{"end", "move", "moved"}, gone},
		"an end before it begins again":          {never, []string{"move", "moved", "end", "begin"}, gone},
		"an end after it has begun again":        {never, []string{"move", "moved", "begin", "end"}, gone},
		"a second move":                          {never, []string{"move", "moved", "begin", "move", "moved", "begin"}, nil},
		"an end of several":                      {never, []string{"end", "other end"}, gone},
		"a deadline that has passed, and a move": {-time.Second, []string{"move", "moved"}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := new(attempt)
			at.begin(t.Context(), true, time.Now().Add(test.deadline))
			defer func() { at.cancel(context.Canceled) }()
			for _, step := range test.steps {
				switch step {
				case "move":
					at.cancel(errMoved)
				case "end":
					at.cancel(gone)
				case "other end":
					at.cancel(errIdle)
				case "begin":
					at.again()
				case "moved":
					again := test.want == nil || test.steps[len(test.steps)-1] != "moved"
					if got := at.moved(); got != again {
						t.Fatalf("moved: got %t, want %t", got, again)
					}
				}
			}
			if got := at.why(); !errors.Is(got, test.want) {
				t.Errorf("why: got %v, want %v", got, test.want)
			}
			if ended := at.ctx.Err() != nil; ended != (test.want != nil) {
				t.Errorf("its context has ended: got %t, want %t", ended, test.want != nil)
			}
		})
	}
}
