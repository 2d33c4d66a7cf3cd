package sinkcall_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sovd-go/vehicle/internal/sinkcall"
	"github.com/sovd-go/vehicle/internal/within"
)

// noted are the calls that were reported, a line each.
type noted []string

func (n *noted) report(sink any, method string, took time.Duration, err error) {
	*n = append(*n, fmt.Sprintf("%v.%s took %v: %v", sink, method, took, err))
}

// silent is an error whose nil pointer has no text.
type silent struct{ text string }

func (s *silent) Error() string { return s.text }

// A call comes to the same whether somebody looks on or not.
func TestCalls(t *testing.T) {
	t.Parallel()
	full := errors.New("the disk is full")
	for name, test := range map[string]struct {
		call  func() error
		is    error
		panic bool
		want  string
	}{
		"one that is well":                       {func() error { return nil }, nil, false, "<nil>"},
		"one that fails":                         {func() error { return full }, full, false, "the disk is full"},
		"one that panics":                        {func() error { panic(full) }, full, true, ""},
		"one whose error has no text to it":      {func() error { return (*silent)(nil) }, nil, true, ""},
		"one that is seen to be within a sink's": {func() error { return fmt.Errorf("within %d", within.Inside(TestCalls)) }, nil, false, "within 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var got noted
				for _, ctx := range []context.Context{t.Context(), sinkcall.With(t.Context(), got.report)} {
					err := sinkcall.Do(ctx, "file", "Write", func() error { time.Sleep(time.Second); return test.call() })
					if _, panicked := errors.AsType[*within.PanicError](err); panicked != test.panic || test.is != nil && !errors.Is(err, test.is) {
						t.Errorf("got %v, want %v, of a panic: %t", err, test.is, test.panic)
					}
					if !test.panic && fmt.Sprint(err) != test.want {
						t.Errorf("got %v, want %s", err, test.want)
					}
					test.want = fmt.Sprint(err)
				}
				if diff := cmp.Diff(noted{"file.Write took 1s: " + test.want}, got); diff != "" {
					t.Errorf("what was reported (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Reports wait until they are released, and those of a goroutine that a sink has left behind come as they are.
func TestHeldReports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got noted
		call := func(ctx context.Context, sink string, err error) {
			_ = sinkcall.Do(ctx, sink, "End", func() error { time.Sleep(time.Second); return err })
		}
		held, release := sinkcall.Hold(sinkcall.With(t.Context(), got.report))
		call(held, "first", nil)
		call(held, "second", errors.New("full"))
		if len(got) > 0 {
			t.Errorf("before the release: got %v, want none", got)
		}
		release()
		want := noted{"first.End took 1s: <nil>", "second.End took 1s: full"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("released (-want +got):\n%s", diff)
		}
		call(held, "late", nil)
		if diff := cmp.Diff(append(want, "late.End took 1s: <nil>"), got); diff != "" {
			t.Errorf("after the release (-want +got):\n%s", diff)
		}
	})
}

func TestNobodyAsked(t *testing.T) {
	t.Parallel()
	var got noted
	reported := sinkcall.With(t.Context(), got.report)
	held, release := sinkcall.Hold(sinkcall.Unreported(reported))
	_ = sinkcall.Do(held, "file", "Write", func() error { return nil })
	release()
	if len(got) > 0 {
		t.Errorf("got %v, want none", got)
	}
	if ctx := t.Context(); sinkcall.Unreported(ctx) != ctx {
		t.Error("a context that reports nothing: got another, want it back")
	}
}
