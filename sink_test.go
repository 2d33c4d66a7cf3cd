package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

var errSinkItself = errors.New("the sink's own error")

// trace is a sink that writes down its calls in a list that several share.
type trace struct {
	name   string
	mu     *sync.Mutex
	calls  *[]string
	fail   string // the call that fails, by name
	panics bool   // instead
}

func (s trace) call(name string) error {
	s.mu.Lock()
	*s.calls = append(*s.calls, s.name+"."+name)
	s.mu.Unlock()
	switch {
	case s.fail != name:
		return nil
	case s.panics:
		panic(errSinkItself)
	default:
		return fmt.Errorf("%s: %w", name, errSinkItself)
	}
}

func (s trace) Begin(context.Context, vehicle.Command) error { return s.call("Begin") }
func (s trace) Write(context.Context, []vehicle.Chunk) error { return s.call("Write") }
func (s trace) End(_ context.Context, res vehicle.Result) error {
	return s.call("End " + string(res.Status))
}

// Three sinks, one of which fails or panics in one call: which calls the others get, and what the caller gets.
func TestSinksFail(t *testing.T) {
	t.Parallel()
	answer := vt.Script{vt.Answer(`0`)}
	tests := map[string]struct {
		fail   string // of the second sink
		script vt.Script
		calls  []string
		asked  int
		err    error // besides the sink's own
	}{
		"no sink fails": {script: answer, asked: 1, calls: []string{
			"1.Begin", "2.Begin", "3.Begin", "1.Write", "2.Write", "3.Write", "1.End completed", "2.End completed", "3.End completed"}},
		"a sink that refuses Begin keeps the vehicle from being asked": {fail: "Begin", script: answer, err: vehicle.ErrSink, calls: []string{
			"1.Begin", "2.Begin", "1.End failed"}},
		"a sink that fails in Write ends the command": {fail: "Write", script: vt.Script{vt.Send(`0`), vt.Stall()}, asked: 1, err: vehicle.ErrSink, calls: []string{
			"1.Begin", "2.Begin", "3.Begin", "1.Write", "2.Write", "1.End failed", "2.End failed", "3.End failed"}},
		"a sink that fails in the Write of the final chunk ends the command": {fail: "Write", script: answer, asked: 1, err: vehicle.ErrSink, calls: []string{
			"1.Begin", "2.Begin", "3.Begin", "1.Write", "2.Write", "1.End failed", "2.End failed", "3.End failed"}},
		"a sink that fails in End fails a completed command, also for the sinks after it": {fail: "End completed", script: answer, asked: 1, err: vehicle.ErrSink, calls: []string{
			"1.Begin", "2.Begin", "3.Begin", "1.Write", "2.Write", "3.Write", "1.End completed", "2.End completed", "3.End failed"}},
		"a sink that fails in End hides no earlier error": {fail: "End failed", script: vt.Script{vt.Send(`0`)}, asked: 1, err: vehicle.ErrIncomplete, calls: []string{
			"1.Begin", "2.Begin", "3.Begin", "1.Write", "2.Write", "3.Write", "1.End failed", "2.End failed", "3.End failed"}},
	}
	for name, tt := range tests {
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by a panic: %t", name, panics), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var calls []string
				sinks := []vehicle.Sink{trace{name: "1", mu: &mu, calls: &calls}, trace{name: "2", mu: &mu, calls: &calls, fail: tt.fail, panics: panics}, trace{name: "3", mu: &mu, calls: &calls}}
				server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", tt.script))
				client := server.Client(t, vehicle.WithSink(sinks[0]))
				res, err := client.Execute(t.Context(), command("Scripted"), vehicle.WithSink(sinks[1:]...))
				if !errors.Is(err, tt.err) {
					t.Errorf("error: got %v, want %v", err, tt.err)
				}
				if tt.err == vehicle.ErrSink { //nolint:errorlint // a table's entry
					if !errors.Is(err, errSinkItself) {
						t.Errorf("error: got %v, want the sink's own error in reach", err)
					}
					if call, _, _ := strings.Cut(tt.fail, " "); !strings.Contains(err.Error(), "vehicle_test.trace."+call+": ") {
						t.Errorf("error: got %v, want the sink and the call named", err)
					}
				}
				if diff := cmp.Diff(tt.calls, calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if got := len(server.Requests()); got != tt.asked || res.Attempts != tt.asked {
					t.Errorf("the vehicle was asked %d times, and the result says %d; want %d", got, res.Attempts, tt.asked)
				}
				var e *vehicle.Error
				if errors.As(err, &e) && e.MayHaveRun() != (tt.asked > 0) {
					t.Errorf("MayHaveRun: got %t, want %t", e.MayHaveRun(), tt.asked > 0)
				}
			})
		}
	}
}

// What fails its checks is neither sent nor recorded.
func TestChecksComeFirst(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx    context.Context //nolint:containedctx // a table's
		change func(*vehicle.Command)
		opts   []vehicle.CallOption
		want   error
	}{
		"no name":                    {change: func(c *vehicle.Command) { c.Name = "" }, want: vehicle.ErrInvalidCommand},
		"no vehicle":                 {change: func(c *vehicle.Command) { c.VehicleID = [16]byte{} }, want: vehicle.ErrInvalidCommand},
		"a parameter without a JSON": {change: func(c *vehicle.Command) { c.Params = map[string]any{"x": make(chan int)} }, want: vehicle.ErrInvalidCommand},
		"an option out of range":     {opts: []vehicle.CallOption{vehicle.WithReorderWindow(-1)}, want: vehicle.ErrInvalidCommand},
		"a context that has ended":   {ctx: canceled, want: vehicle.ErrCanceled},
	}
	server := vt.NewServer(t)
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink))
	for name, tt := range tests {
		cmd := command("ReadDTC")
		if tt.change != nil {
			tt.change(&cmd)
		}
		if tt.ctx == nil {
			tt.ctx = t.Context()
		}
		res, err := client.Execute(tt.ctx, cmd, tt.opts...)
		var e *vehicle.Error
		if !errors.Is(err, tt.want) || !errors.As(err, &e) || e.MayHaveRun() {
			t.Errorf("%s: got %v, want %v that has not run", name, err, tt.want)
		}
		if res == nil || res.Status != vehicle.StatusFailed || res.Attempts != 0 || res.Command.ID != cmd.ID {
			t.Errorf("%s: got result %+v, want a failed one", name, res)
		}
		sink.check(cmd.ID, nil, nil)
	}
	if got := len(server.Requests()); got != 0 {
		t.Errorf("requests: got %d, want none", got)
	}
}

// phases are the places in a command's life where its caller may leave. Each gives a script, and the functions of a sink
// that tell when the place is reached and stay there until their ctx ends.
func phases(reached chan<- struct{}) map[string]struct {
	script  vt.Script
	sink    func(*recorder)
	written []string
} {
	signal := func() {
		select {
		case reached <- struct{}{}:
		default:
		}
	}
	stay := func(ctx context.Context) error { signal(); <-ctx.Done(); return ctx.Err() }
	step := func(context.Context, *vt.Call) error { signal(); return nil }
	type phase = struct {
		script  vt.Script
		sink    func(*recorder)
		written []string
	}
	return map[string]phase{
		"in Begin": {script: vt.Script{vt.Answer(`0`)}, sink: func(r *recorder) {
			r.onBegin = func(ctx context.Context, _ vehicle.Command) error { return stay(ctx) }
		}},
		"before the first chunk":     {script: vt.Script{step, vt.Stall()}},
		"between chunks":             {script: vt.Script{vt.Send(`0`), vt.Stall()}, written: []string{"0"}, sink: func(r *recorder) { r.onWrite = func(context.Context, []vehicle.Chunk) error { signal(); return nil } }},
		"in Write":                   {script: vt.Script{vt.Send(`0`), vt.Stall()}, sink: func(r *recorder) { r.onWrite = func(ctx context.Context, _ []vehicle.Chunk) error { return stay(ctx) } }},
		"in Write, with more queued": {script: vt.Script{vt.Send(numbered(5000)...), vt.Stall()}, sink: func(r *recorder) { r.onWrite = func(ctx context.Context, _ []vehicle.Chunk) error { return stay(ctx) } }},
		"while waiting for a retry":  {script: vt.Script{step, vt.Cut()}},
	}
}

// Each End has 10 s of its own, whatever became of the caller's ctx and of the sinks before.
func TestEachEndHasItsOwnTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		leave string // when the caller does
		want  error
	}{
		"of a completed command": {"", vehicle.ErrSink},
		"of a cancelled one":     {"before the answer", vehicle.ErrCanceled},
		"of one whose caller leaves while its final chunk is written": {"in Write", vehicle.ErrSink},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Delay(time.Second), vt.Answer(`0`)}))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.leave == "before the answer" {
					cancelAfter := time.AfterFunc(time.Millisecond, cancel)
					defer cancelAfter.Stop()
				}
				var got []time.Duration
				hangs := func(ctx context.Context, _ vehicle.Result) error {
					start := time.Now()
					<-ctx.Done()
					got = append(got, time.Since(start))
					return ctx.Err()
				}
				sinks := make([]vehicle.Sink, 2)
				for i := range sinks {
					r := newRecorder(t)
					r.onEnd, sinks[i] = hangs, r
					r.onWrite = func(context.Context, []vehicle.Chunk) error {
						if test.leave == "in Write" {
							cancel()
						}
						return nil
					}
				}
				_, err := server.Client(t, vehicle.WithSink(sinks...)).Execute(ctx, command("Scripted"))
				if !errors.Is(err, test.want) {
					t.Errorf("error: got %v, want %v", err, test.want)
				}
				if diff := cmp.Diff([]time.Duration{10 * time.Second, 10 * time.Second}, got); diff != "" {
					t.Errorf("the sinks' Ends had (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The caller leaves in each phase: by cancelling, by its deadline, by closing the client.
func TestLeaving(t *testing.T) {
	t.Parallel()
	ways := map[string]struct {
		leave func(*vehicle.Client, context.CancelCauseFunc)
		want  error
		also  error
	}{
		"cancels":              {leave: func(_ *vehicle.Client, cancel context.CancelCauseFunc) { cancel(nil) }, want: vehicle.ErrCanceled, also: context.Canceled},
		"cancels with a cause": {leave: func(_ *vehicle.Client, cancel context.CancelCauseFunc) { cancel(errSinkItself) }, want: vehicle.ErrCanceled, also: errSinkItself},
		"runs out of time":     {leave: func(_ *vehicle.Client, cancel context.CancelCauseFunc) { cancel(context.DeadlineExceeded) }, want: vehicle.ErrTimeout, also: context.DeadlineExceeded},
		"closes the client":    {leave: func(c *vehicle.Client, _ context.CancelCauseFunc) { _ = c.Close() }, want: vehicle.ErrClosed, also: vehicle.ErrClosed},
	}
	for way, leaving := range ways {
		for phase := range phases(nil) {
			reached := make(chan struct{}, 1)
			p := phases(reached)[phase]
			t.Run("the caller "+way+" "+phase, func(t *testing.T) {
				t.Parallel()
				server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", p.script))
				sink := newRecorder(t)
				if p.sink != nil {
					p.sink(sink)
				}
				client := server.Client(t, vehicle.WithSink(sink))
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if way == "runs out of time" {
					expired := make(chan struct{})
					ctx, cancel = expiring{ctx, expired}, func(error) { close(expired) }
				}
				type outcome struct {
					res *vehicle.Result
					err error
				}
				done := make(chan outcome, 1)
				cmd := command("Scripted")
				go func() {
					res, err := client.Execute(ctx, cmd)
					done <- outcome{res, err}
				}()
				<-reached
				leaving.leave(client, cancel)
				got := <-done
				if !errors.Is(got.err, leaving.want) || !errors.Is(got.err, leaving.also) {
					t.Errorf("error: got %v, want %v and %v", got.err, leaving.want, leaving.also)
				}
				if phase == "in Begin" {
					if sink.ends() != 0 {
						t.Error("a sink whose Begin failed got End")
					}
				} else {
					sink.check(cmd.ID, &vehicle.Result{Status: vehicle.StatusFailed, Chunks: len(p.written), Attempts: 1}, p.written)
				}
			})
		}
	}
}

// expiring is a context whose deadline passes when the test says so.
type expiring struct {
	context.Context
	expired chan struct{}
}

func (c expiring) Done() <-chan struct{} { return c.expired }

func (c expiring) Err() error {
	select {
	case <-c.expired:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// The caller leaves the loop: by breaking out, by a panic, by ending its goroutine.
func TestLeavingTheLoop(t *testing.T) {
	t.Parallel()
	ways := map[string]func(){
		"breaks out":         nil,
		"panics":             func() { panic("the caller's own") },
		"ends its goroutine": runtime.Goexit,
	}
	for way, leave := range ways {
		for after, status := range []vehicle.Status{vehicle.StatusFailed, vehicle.StatusFailed, vehicle.StatusCompleted} {
			for _, with := range []string{"without a sink", "with a sink"} {
				t.Run(fmt.Sprintf("the caller %s after chunk %d of 3 %s", way, after+1, with), func(t *testing.T) {
					t.Parallel()
					server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", vt.Script{vt.Answer(`0`, `1`, `2`)}))
					sink := newRecorder(t)
					var opts []vehicle.Option
					if with == "with a sink" {
						opts = append(opts, vehicle.WithSink(sink))
					}
					stream := server.Client(t, opts...).Stream(t.Context(), command("Scripted"))
					left := make(chan any)
					go func() {
						defer func() { left <- recover() }()
						n := 0
						for _, err := range stream.Chunks() {
							if err != nil {
								t.Errorf("Chunks: %v", err)
							}
							if n++; n == after+1 {
								if leave == nil {
									break
								}
								leave()
							}
						}
					}()
					if got := <-left; got != nil && got != "the caller's own" {
						t.Errorf("recovered %v, want the caller's own panic", got)
					}
					res := stream.Result()
					if res == nil || res.Status != status {
						t.Fatalf("Result: got %+v, want %s", res, status)
					}
					if failed := status == vehicle.StatusFailed; failed != errors.Is(res.Err, vehicle.ErrCanceled) || failed != errors.Is(res.Err, context.Canceled) {
						t.Errorf("Result.Err: got %v, want ErrCanceled: %t", res.Err, failed)
					}
					if with == "with a sink" && sink.ends() != 1 {
						t.Errorf("ends: got %d, want 1", sink.ends())
					}
				})
			}
		}
	}
}

// A caller that cancels in its loop sees no further chunk, whether the others came in the same batch or wait in the
// next one.
func TestCancelInTheLoop(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]vt.Script{
		"the others are in the same batch": {vt.Answer(`0`, `1`, `2`)},
		"the others wait in the next one":  {vt.Send(`0`), vt.Delay(time.Second), vt.Answer(`1`, `2`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sink := newRecorder(t)
				client := vt.NewServer(t, vt.On("Scripted", script)).Client(t, vehicle.WithSink(sink))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var got []error
				for _, err := range client.Stream(ctx, command("Scripted")).Chunks() {
					got = append(got, err)
					time.Sleep(2 * time.Second) // everything has come
					cancel()
				}
				if len(got) != 2 || got[0] != nil || !errors.Is(got[1], vehicle.ErrCanceled) {
					t.Errorf("got %v, want a chunk and then ErrCanceled", got)
				}
			})
		})
	}
}

// What a sink may keep, and that it is given what is documented.
func TestSinkSeesWhatTheCallerSees(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.NumberFrom(1), vt.Answer(numbered(2000)...)}))
	sink := newRecorder(t)
	var kept [][]byte
	sink.onWrite = func(_ context.Context, chunks []vehicle.Chunk) error {
		for _, c := range chunks {
			kept = append(kept, c.Payload)
		}
		return nil
	}
	cmd := command("Scripted")
	cmd.Params = map[string]any{"a": "b"}
	var seen []vehicle.Chunk
	for chunk, err := range server.Client(t, vehicle.WithSink(sink)).Stream(t.Context(), cmd).Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, chunk)
	}
	if diff := cmp.Diff(seen, sink.chunks[cmd.ID]); diff != "" {
		t.Errorf("chunks of the loop and of the sink differ (-loop +sink):\n%s", diff)
	}
	for i, payload := range numbered(2000) {
		if string(kept[i]) != payload {
			t.Fatalf("kept payload %d: got %s, want %s", i, kept[i], payload)
		}
	}
	if !slices.IsSortedFunc(seen, func(a, b vehicle.Chunk) int { return int(a.Seq - b.Seq) }) || seen[0].Seq != 1 {
		t.Error("chunks are not in order from 1")
	}
	if got := sink.ended[cmd.ID][0].Command; !cmp.Equal(got, cmd) {
		t.Errorf("the sink's command: got %+v, want %+v", got, cmd)
	}
}

// Sinks know a command by its ID: of two runs at once they would mix the calls.
func TestACommandIsNotServedTwiceAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`0`, `1`)}))
		var mu sync.Mutex
		var calls []string
		served := vehicle.WithSink(trace{name: "sink", mu: &mu, calls: &calls})
		client := server.Client(t)
		cmd := command("Scripted")
		cmd.ID = uuid.New()
		again := func(opts ...vehicle.CallOption) error {
			_, err := client.Execute(t.Context(), cmd, opts...)
			return err
		}
		for chunk, err := range client.Stream(t.Context(), cmd, served).Chunks() {
			if err != nil {
				t.Fatal(err)
			}
			if chunk.Final {
				continue
			}
			for range 2 {
				err := again(served)
				if e, ok := errors.AsType[*vehicle.Error](err); !ok || !errors.Is(err, vehicle.ErrInvalidCommand) || e.MayHaveRun() || e.CommandID != cmd.ID {
					t.Errorf("while it runs: got %v, want ErrInvalidCommand of this command, which has not run", err)
				}
				if err := again(); err != nil {
					t.Errorf("while it runs, without sinks: %v", err)
				}
			}
		}
		if err := again(served); err != nil {
			t.Errorf("when it has run: %v", err)
		}
		want := []string{"sink.Begin", "sink.Write", "sink.End completed", "sink.Begin", "sink.Write", "sink.End completed"}
		if diff := cmp.Diff(want, slices.Compact(calls)); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		if got := len(server.Requests()); got != 4 {
			t.Errorf("the vehicle was asked %d times, want 4", got)
		}
	})
}

type textless struct{ text string }

func (e *textless) Error() string { return e.text }

// An error that is a nil pointer, and has no text, is what the sink has done: no panic of ours, and Close does not wait for it.
func TestAnErrorWithoutATextIsItsSinksPanic(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]sink.Func{
		"Begin": {OnBegin: func(context.Context, vehicle.Command) error { return (*textless)(nil) }},
		"Write": {OnWrite: func(context.Context, []vehicle.Chunk) error { return (*textless)(nil) }},
		"End":   {OnEnd: func(context.Context, vehicle.Result) error { return (*textless)(nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := vt.NewServer(t).Client(t)
				_, err := client.Execute(t.Context(), command("ReadDTC"), vehicle.WithSink(s))
				if !errors.Is(err, vehicle.ErrSink) || !strings.Contains(err.Error(), "sink.Func."+name+": panic at ") {
					t.Errorf("got %v, want ErrSink and the panic", err)
				}
				if err := client.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
		})
	}
}

// The idle timeout is the vehicle's: who reads the chunks may take as long as it likes.
func TestWhatALoopsBodyTakesIsNotIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(`0`), vt.Delay(11 * time.Second), vt.Answer(`1`)}))
		stream := server.Client(t).Stream(t.Context(), command("Scripted"), vehicle.WithIdleTimeout(5*time.Second))
		for _, err := range stream.Chunks() {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		if got := stream.Result().Attempts; got != 1 {
			t.Errorf("got %d attempts, want 1", got)
		}
	})
}

// A vehicle that is silent for too long is not a slow sink, also while one writes: a sink's time does not count.
func TestTheIdleTimeoutIsTheVehiclesAlsoWhileASinkWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(`0`), vt.Delay(3 * time.Second), vt.Answer(`1`)}, vt.Script{vt.Answer(`0`, `1`)}))
		slow := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { time.Sleep(2 * time.Second); return nil }}
		res, err := server.Client(t).Execute(t.Context(), command("Scripted"), vehicle.WithSink(slow), vehicle.WithIdleTimeout(time.Second))
		if err != nil || res.Attempts != 2 || res.Chunks != 2 {
			t.Errorf("got %d attempts, %d chunks, %v, want 2 and 2", res.Attempts, res.Chunks, err)
		}
	})
}
