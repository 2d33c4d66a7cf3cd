package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// commands yields n commands of a name and counts how many were pulled.
func commands(n int, name string, pulled *atomic.Int64) iter.Seq[vehicle.Command] {
	return func(yield func(vehicle.Command) bool) {
		for range n {
			pulled.Add(1)
			if !yield(command(name)) {
				return
			}
		}
	}
}

// Results come in the order in which commands end, and one failure stops nothing.
func TestExecuteAllOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t,
			vt.On("Slow", vt.Script{vt.Delay(3 * time.Second), vt.Answer(`0`)}),
			vt.On("Quick", vt.Script{vt.Delay(time.Second), vt.Answer(`0`)}),
			vt.On("Broken", vt.Script{vt.Delay(2 * time.Second), vt.Fail(codes.Internal, "broken")}))
		client := server.Client(t)
		cmds := func(yield func(vehicle.Command) bool) {
			_ = yield(command("Slow")) && yield(command("Broken")) && yield(vehicle.Command{Name: "Invalid"}) && yield(command("Quick"))
		}
		var got []string
		for res, err := range client.ExecuteAll(t.Context(), cmds) {
			if (err == nil) != (res.Err == nil) {
				t.Errorf("%s: got %v beside a result with %v", res.Command.Name, err, res.Err)
			}
			got = append(got, fmt.Sprint(res.Command.Name, " ", res.Status))
		}
		if diff := cmp.Diff([]string{"Invalid failed", "Quick completed", "Broken failed", "Slow completed"}, got); diff != "" {
			t.Errorf("results (-want +got):\n%s", diff)
		}
	})
}

// No more commands run at once than was said, and no more are pulled than there is room for.
func TestExecuteAllIsBoundedAndLazy(t *testing.T) {
	t.Parallel()
	const n, limit = 300, 7
	var running, most, pulled, seen atomic.Int64
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{func(context.Context, *vt.Call) error {
		now := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
		}
		runtime.Gosched()
		return nil
	}, vt.Answer(`0`)}))
	client := server.Client(t)
	for _, err := range client.ExecuteAll(t.Context(), commands(n, "Scripted", &pulled), vehicle.WithConcurrency(limit)) {
		if err != nil {
			t.Errorf("ExecuteAll: %v", err)
		}
		// In flight, one for which the source waits for room, and one whose result is at hand.
		if ahead := pulled.Load() - seen.Add(1); ahead > limit+1 {
			t.Errorf("pulled %d commands more than were seen, want at most %d", ahead, limit+1)
		}
	}
	if seen.Load() != n || most.Load() > limit {
		t.Errorf("saw %d results, and %d commands at once; want %d and at most %d", seen.Load(), most.Load(), n, limit)
	}
}

// A source that waits for the result of what it gave before gets it.
func TestExecuteAllFeedsBack(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	results := make(chan vehicle.Status, 1)
	source := func(yield func(vehicle.Command) bool) {
		for range 3 {
			if !yield(command("ReadDTC")) {
				return
			}
			select {
			case <-results:
			case <-t.Context().Done():
				return
			}
		}
	}
	n := 0
	for res := range server.Client(t).ExecuteAll(t.Context(), source) {
		n++
		results <- res.Status
	}
	if n != 3 {
		t.Errorf("results: got %d, want 3", n)
	}
}

// Breaking out, or a panic, ends every command that began, recorded, before the loop is left.
func TestExecuteAllIsLeft(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"break", "panic", "Goexit"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var quick atomic.Bool
			others := make(chan struct{}, 8)
			server := vt.NewServer(t, vt.WithTCP(), vt.WithResponder(func(*vt.Request) vt.Script {
				if quick.CompareAndSwap(false, true) { // and ends when others are under way
					return vt.Script{vt.Until(others), vt.Until(others), vt.Answer(`0`)}
				}
				others <- struct{}{}
				return vt.Script{vt.Send(`0`), vt.Stall()}
			}))
			sink := newRecorder(t)
			client := server.Client(t, vehicle.WithSink(sink))
			var pulled atomic.Int64
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				for _, err := range client.ExecuteAll(t.Context(), commands(1_000_000, "Scripted", &pulled), vehicle.WithConcurrency(8)) {
					if err != nil {
						t.Errorf("ExecuteAll: %v", err)
					}
					switch way {
					case "panic":
						panic("the caller's own")
					case "Goexit":
						runtime.Goexit()
					}
					break
				}
			}()
			if got := <-done; (got != nil) != (way == "panic") {
				t.Errorf("recovered: got %v", got)
			}
			sink.mu.Lock()
			begun := len(sink.begun)
			sink.mu.Unlock()
			if begun != sink.ends() || begun < 2 {
				t.Errorf("%d commands began and %d ended; want several, and the same", begun, sink.ends())
			}
			if pulled.Load() > 20 {
				t.Errorf("pulled %d commands, want no more than had room", pulled.Load())
			}
		})
	}
}

// When ctx ends the running commands end, and an endless source is asked no more.
func TestExecuteAllContextEnds(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Stall()}))
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_, _ = server.WaitRequests(ctx, 4)
		cancel()
	}()
	endless := func(yield func(vehicle.Command) bool) {
		for yield(command("Scripted")) {
		}
	}
	n := 0
	for res, err := range client.ExecuteAll(ctx, endless, vehicle.WithConcurrency(4)) {
		if n++; !errors.Is(err, vehicle.ErrCanceled) || !errors.Is(res.Err, vehicle.ErrCanceled) {
			t.Errorf("got %v, want ErrCanceled", err)
		}
	}
	if n < 4 || n > 6 || sink.ends() != len(sink.begun) {
		t.Errorf("got %d results, %d begun and %d ended; want 4 to 6, and as many ends as begins", n, len(sink.begun), sink.ends())
	}
}

func TestExecuteAllSourcePanics(t *testing.T) {
	t.Parallel()
	client := vt.NewServer(t).Client(t)
	source := func(yield func(vehicle.Command) bool) {
		yield(command("ReadDTC"))
		panic("the source's own")
	}
	n := 0
	defer func() {
		if got := recover(); got != "the source's own" || n != 1 {
			t.Errorf("recovered %v after %d results, want the source's own panic after 1", got, n)
		}
	}()
	for range client.ExecuteAll(t.Context(), source) {
		n++
	}
}

// A sink that ends its goroutine, as FailNow does, ends its command alone.
func TestExecuteAllOutlivesAGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := vt.NewServer(t).Client(t)
		var pulled, ended atomic.Int64
		leaving := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error {
			if ended.Add(1) == 1 {
				runtime.Goexit()
			}
			return nil
		}}
		var failed, completed int
		for _, err := range client.ExecuteAll(t.Context(), commands(3, "ClearDTC", &pulled), vehicle.WithSink(leaving), vehicle.WithConcurrency(1)) {
			if errors.Is(err, vehicle.ErrCanceled) {
				failed++
			} else if err == nil {
				completed++
			}
		}
		if failed != 1 || completed != 2 {
			t.Errorf("got %d commands that failed and %d that completed, want 1 and 2", failed, completed)
		}
	})
}

// A sink that ends its goroutine in End, as t.FailNow does, has failed.
func TestExecuteAllWhereASinkEndsItsGoroutineInEnd(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]vt.Script{
		"of a command that failed":  {vt.Fail(codes.NotFound, "no such vehicle")},
		"of one that has completed": {vt.Answer(`0`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.On("Scripted", script))
			var ends []vehicle.Status
			client := server.Client(t, vehicle.WithSink(
				sink.Func{OnEnd: func(context.Context, vehicle.Result) error { runtime.Goexit(); return nil }},
				sink.Func{OnEnd: func(_ context.Context, res vehicle.Result) error { ends = append(ends, res.Status); return nil }}))
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("ExecuteAll panicked: %v", v)
				}
			}()
			for res, err := range client.ExecuteAll(t.Context(), commands(1, "Scripted", new(atomic.Int64))) {
				if res == nil || err == nil {
					t.Errorf("got %v, %v, want a Result and its error", res, err)
				}
			}
			if diff := cmp.Diff([]vehicle.Status{vehicle.StatusFailed}, ends); diff != "" {
				t.Errorf("the second sink's Ends (-want +got):\n%s", diff)
			}
		})
	}
}
