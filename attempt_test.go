package vehicle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"google.golang.org/grpc/metadata"
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
			deadline := time.Now().Add(test.deadline)
			at.begin(t.Context(), true, deadline)
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
			if headers, _ := metadata.FromOutgoingContext(at.ctx); at.ctx.deadline != deadline || headers.Get("x-sovd-attempt") == nil {
				t.Errorf("its context: got deadline %v and headers %v, want %v and the first attempt's", at.ctx.deadline, headers, deadline)
			}
		})
	}
}

// What is left of the time is told in whole milliseconds, never less than there is.
func TestAnAttemptRoundsWhatIsLeftOfItsTime(t *testing.T) {
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
				var ctx attemptContext
				ctx.begin(t.Context(), time.Now().Add(30*time.Second))
				defer ctx.cancel()
				time.Sleep(test.passed)
				deadline, ok := ctx.Deadline()
				if got := time.Until(deadline); !ok || got != test.want {
					t.Errorf("what is left: got %v, %t, want %v", got, ok, test.want)
				}
			})
		})
	}
}

// A command's state is one allocation, of which the allocator's next size is a tenth larger.
func TestACommandsStateFitsItsSize(t *testing.T) {
	t.Parallel()
	const size, header = 1280, 8 // runtime's classes; its header is in front of what has pointers
	if got, most := unsafe.Sizeof(run{}), uintptr(size-header); got > most {
		t.Errorf("a run has %d bytes, want at most %d", got, most)
	}
}
