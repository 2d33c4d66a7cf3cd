package vehicle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Who makes contexts from one sees it end as if it were package context's.
func TestLifetimeEndsWhatIsMadeFromIt(t *testing.T) {
	t.Parallel()
	type key struct{}
	for name, test := range map[string]struct {
		timeout time.Duration // 0: none
		end     func(l *lifetime)
		want    error
	}{
		"it is ended":           {time.Hour, func(l *lifetime) { l.cancel() }, context.Canceled},
		"without a deadline":    {0, func(l *lifetime) { l.cancel() }, context.Canceled},
		"its deadline passes":   {time.Second, func(*lifetime) { time.Sleep(time.Second); synctest.Wait() }, context.DeadlineExceeded},
		"its deadline is past":  {-time.Second, func(*lifetime) {}, context.DeadlineExceeded},
		"it is ended only once": {time.Second, func(l *lifetime) { l.cancel(); time.Sleep(time.Second) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l lifetime
				var deadline time.Time
				if test.timeout != 0 {
					deadline = time.Now().Add(test.timeout)
				}
				l.begin(t.Context(), deadline)
				if got, ok := l.Deadline(); got != deadline || ok != (test.timeout != 0) {
					t.Errorf("its deadline: got %v, %t, want %v", got, ok, deadline)
				}
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
				if l.timer != nil && l.timer.Stop() {
					t.Error("its timer runs on after its end")
				}
			})
		})
	}
}

// Package context looks whether it has ended before it asks to be told of the end, which may come in between.
func TestLifetimeTellsWhoAsksTooLate(t *testing.T) {
	t.Parallel()
	for name, deadline := range map[string]time.Time{"it was ended": {}, "its time is over": time.Now().Add(-time.Second)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l lifetime
				l.begin(t.Context(), deadline)
				if deadline.IsZero() {
					l.cancel()
				}
				told := make(chan struct{})
				l.AfterFunc(func() { close(told) })
				<-told
			})
		})
	}
}

// A child that has ended is not kept, and does not end its parent.
func TestLifetimeLetsGoOfItsChild(t *testing.T) {
	t.Parallel()
	var l lifetime
	l.begin(t.Context(), time.Time{})
	_, cancel := context.WithCancel(&l)
	cancel()
	if l.child != nil || l.Err() != nil {
		t.Errorf("after the child's end: it is kept: %t; the parent's error: %v", l.child != nil, l.Err())
	}
	next, cancel := context.WithCancel(&l)
	defer cancel()
	l.cancel()
	<-next.Done()
}

// It ends in time also for who only asks now and then, and nobody's timer runs meanwhile.
func TestLifetimeNeedsNoTimerUntilSomebodyWaits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		passed time.Duration
		end    bool
		later  time.Duration
		want   error
	}{
		"before its deadline":           {time.Second - 1, false, 0, nil},
		"at its deadline":               {time.Second, false, 0, context.DeadlineExceeded},
		"ended before its deadline":     {time.Second - 1, true, 0, context.Canceled},
		"ended when its time is over":   {time.Second, true, 0, context.DeadlineExceeded},
		"long after its time is over":   {time.Hour, true, 0, context.DeadlineExceeded},
		"ended as soon as it has begun": {0, true, 0, context.Canceled},
		"ended, then its time is over":  {0, true, time.Hour, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l lifetime
				l.begin(t.Context(), time.Now().Add(time.Second))
				time.Sleep(test.passed)
				if test.end {
					l.cancel()
				}
				time.Sleep(test.later)
				if got := l.Err(); got != test.want { //nolint:errorlint // a context returns it as it is
					t.Errorf("its error: got %v, want %v", got, test.want)
				}
				if l.timer != nil {
					t.Error("a timer runs, and nobody waits")
				}
				select {
				case <-l.Done():
					if test.want == nil {
						t.Error("who waits is told of an end, and there was none")
					}
				default:
					if test.want != nil {
						t.Error("who waits is not told of the end")
					}
				}
				time.Sleep(2 * time.Second)
				<-l.Done()
			})
		})
	}
}

// A sink's mock prints the context that it is called with, while others may wait for its end.
func TestLifetimeCanBePrintedWhileItIsUsed(t *testing.T) {
	t.Parallel()
	var end lifetime
	end.begin(t.Context(), time.Now().Add(time.Hour))
	defer end.cancel()
	var attempt attemptContext
	attempt.begin(t.Context(), time.Now().Add(time.Hour))
	defer attempt.cancel()
	for name, ctx := range map[string]context.Context{"an End's": &end, "an attempt's": &attempt} {
		var others sync.WaitGroup
		others.Go(func() { ctx.Done() })
		if got, want := fmt.Sprint(ctx), "vehicle's context"; got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		others.Wait()
	}
}
