package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// watcher is an observer that keeps a line for each thing that it is told.
type watcher struct {
	sink.Func
	name string

	mu    sync.Mutex
	lines []string
}

type mark string

func (w *watcher) TagCommand(ctx context.Context, _ vehicle.Command) context.Context {
	w.note("tag command")
	return context.WithValue(ctx, mark("command"), w.name)
}

func (w *watcher) TagAttempt(ctx context.Context, at vehicle.Attempt) context.Context {
	w.note("tag attempt %d from %d", at.Number, at.ResumeFrom)
	return context.WithValue(ctx, mark("attempt"), at.Number)
}

func (w *watcher) Observe(ctx context.Context, e vehicle.Event) {
	switch e.(type) {
	case vehicle.ClientOpened, vehicle.ClientClosed:
	default:
		if ctx.Value(mark("command")) != w.name {
			w.note("an event in a context without the command's tag")
		}
	}
	switch e := e.(type) {
	case vehicle.CommandEnded:
		w.note("command ended: %s, %d chunks, %d replayed", e.Result.Status, e.Result.Chunks, e.Result.Replayed)
	case vehicle.StreamOpened:
		w.note("stream opened: %d", e.Attempt.Number)
	case vehicle.AttemptEnded:
		w.note("attempt %d ended: %v, in the context of %v", e.Attempt.Number, e.Code, ctx.Value(mark("attempt")))
	case vehicle.Retrying:
		w.note("retrying after %d: %v, %v", e.Attempt.Number, e.Code, e.Delay)
	case vehicle.SinkCalled:
		w.note("%s.%s: %v", e.Sink, e.Method, e.Err)
	case vehicle.ClientOpened:
		w.note("client opened: %+v", e.Client.Stats())
	case vehicle.ClientClosed:
		w.note("client closed: %+v", e.Client.Stats())
	}
}

func (w *watcher) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.lines
	w.lines = nil
	return lines
}

func TestObserverSees(t *testing.T) {
	t.Parallel()
	policy := vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Second, Jitter: -1})
	failing := sink.Func{OnBegin: func(context.Context, vehicle.Command) error { return errors.New("full") }}
	for name, test := range map[string]struct {
		scripts []vt.Script
		hide    func(*watcher) []vehicle.Sink // nil: the watcher alone
		want    []string
	}{
		"an answer": {
			scripts: []vt.Script{{vt.Answer(`0`)}},
			want: []string{
				"tag command", "*vehicle_test.watcher.Begin: <nil>", "tag attempt 1 from 0", "stream opened: 1",
				"attempt 1 ended: OK, in the context of 1", "*vehicle_test.watcher.Write: <nil>", "*vehicle_test.watcher.End: <nil>",
				"command ended: completed, 1 chunks, 0 replayed",
			},
		},
		"a link that broke, and the part that came again": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Delay(time.Millisecond), vt.Fail(codes.Unavailable, "tunnel")}, {vt.Delay(time.Millisecond), vt.Answer(`0`, `1`)}},
			want: []string{
				"tag command", "*vehicle_test.watcher.Begin: <nil>", "tag attempt 1 from 0", "stream opened: 1", "*vehicle_test.watcher.Write: <nil>",
				"attempt 1 ended: Unavailable, in the context of 1", "retrying after 1: Unavailable, 1s", "tag attempt 2 from 1", "stream opened: 2",
				"attempt 2 ended: OK, in the context of 2", "*vehicle_test.watcher.Write: <nil>", "*vehicle_test.watcher.End: <nil>",
				"command ended: completed, 2 chunks, 1 replayed",
			},
		},
		"an answer numbered from 1, shuffled, that is complete when the stream ends": {
			scripts: []vt.Script{{vt.NumberFrom(2), vt.Send(`2`), vt.NumberFrom(1), vt.Send(`1`), vt.NumberFrom(3), vt.Answer(`3`)}},
			want: []string{
				"tag command", "*vehicle_test.watcher.Begin: <nil>", "tag attempt 1 from 0", "stream opened: 1",
				"attempt 1 ended: OK, in the context of 1", "*vehicle_test.watcher.Write: <nil>", "*vehicle_test.watcher.End: <nil>",
				"command ended: completed, 3 chunks, 0 replayed",
			},
		},
		"a refusal": {
			scripts: []vt.Script{{vt.Fail(codes.NotFound, "no such vehicle")}},
			want: []string{
				"tag command", "*vehicle_test.watcher.Begin: <nil>", "tag attempt 1 from 0", "stream opened: 1",
				"attempt 1 ended: NotFound, in the context of 1", "*vehicle_test.watcher.End: <nil>", "command ended: failed, 0 chunks, 0 replayed",
			},
		},
		"a command that another sink refused before": {
			hide: func(w *watcher) []vehicle.Sink { return []vehicle.Sink{failing, w} },
			want: []string{"tag command", "sink.Func.Begin: full", "command ended: failed, 0 chunks, 0 replayed"},
		},
		"what a chain hides, and the sinks in it": {
			scripts: []vt.Script{{vt.Answer(`0`)}},
			hide: func(w *watcher) []vehicle.Sink {
				return []vehicle.Sink{sink.Chain(sink.Func{}, sink.BestEffort(sink.Tee(w, failing), nil))}
			},
			want: []string{
				"tag command", "sink.Func.Begin: <nil>", "*vehicle_test.watcher.Begin: <nil>", "sink.Func.Begin: full", "*vehicle_test.watcher.End: <nil>",
				"tag attempt 1 from 0", "stream opened: 1", "attempt 1 ended: OK, in the context of 1",
				"sink.Func.Write: <nil>", "sink.Func.End: <nil>", "command ended: completed, 1 chunks, 0 replayed",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := &watcher{}
				sinks := []vehicle.Sink{w}
				if test.hide != nil {
					sinks = test.hide(w)
				}
				server := vt.NewServer(t, vt.On("Scripted", test.scripts...))
				_, _ = server.Client(t, policy).Execute(t.Context(), command("Scripted"), vehicle.WithSink(sinks...))
				got := w.take()
				if name == "what a chain hides, and the sinks in it" { // a Tee calls its sinks at once
					slices.Sort(got)
					slices.Sort(test.want)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// What an observer adds to the contexts is seen by sinks and by gRPC's interceptors.
func TestObserversTagContexts(t *testing.T) {
	t.Parallel()
	w := &watcher{name: "w"}
	var inSink, inInterceptor []any
	look := sink.Func{OnEnd: func(ctx context.Context, _ vehicle.Result) error {
		inSink = append(inSink, ctx.Value(mark("command")), ctx.Value(mark("attempt")))
		return nil
	}}
	intercept := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		inInterceptor = append(inInterceptor, ctx.Value(mark("command")), ctx.Value(mark("attempt")))
		return open(ctx, desc, cc, method, opts...)
	}
	client := vt.NewServer(t).Client(t, vehicle.WithSink(look, w), vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(intercept)))
	if _, err := client.Execute(t.Context(), command("ClearDTC")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{"w", nil}, inSink); diff != "" {
		t.Errorf("in a sink (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{"w", 1}, inInterceptor); diff != "" {
		t.Errorf("in an interceptor (-want +got):\n%s", diff)
	}
}

// An observer that panics, or returns no context, harms nobody.
func TestObserversThatMisbehave(t *testing.T) {
	t.Parallel()
	w := &watcher{}
	client := vt.NewServer(t).Client(t, vehicle.WithSink(rude{}, w))
	res, err := client.Execute(t.Context(), command("ReadDTC"))
	if err != nil || res.Chunks != 3 {
		t.Errorf("got %d chunks, %v, want 3", res.Chunks, err)
	}
	if got := w.take(); !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "command ended: completed") }) {
		t.Errorf("got %q, want the other observer to see the end", got)
	}
}

type rude struct{ sink.Func }

func (rude) TagCommand(context.Context, vehicle.Command) context.Context { return nil }
func (rude) TagAttempt(context.Context, vehicle.Attempt) context.Context { panic("tag") }
func (rude) Observe(context.Context, vehicle.Event)                      { panic("observe") }

// A client's observers see it open and close; Stats says how it stands meanwhile.
func TestClientStats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server := vt.NewServer(t, vt.On("Held", vt.Script{vt.Until(release), vt.Answer(`0`)}), vt.WithServerOptions(grpc.MaxConcurrentStreams(2)))
		w := &watcher{}
		client := server.Client(t, vehicle.WithSink(w), vehicle.WithPoolSize(1))
		if diff := cmp.Diff([]string{fmt.Sprintf("client opened: %+v", vehicle.Stats{Idle: 1})}, w.take()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { _, _ = client.Execute(t.Context(), command("Held")) })
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff(vehicle.Stats{Ready: 1, Streams: 5, Waiting: 3}, client.Stats()); diff != "" {
			t.Errorf("with five commands of which two may run (-want +got):\n%s", diff)
		}
		close(release)
		wg.Wait()
		time.Sleep(time.Second)
		if diff := cmp.Diff(vehicle.Stats{Ready: 1}, client.Stats()); diff != "" {
			t.Errorf("after them (-want +got):\n%s", diff)
		}
		w.take()
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{fmt.Sprintf("client closed: %+v", vehicle.Stats{Failing: 1})}, w.take()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// An attempt ends before its command, also where that ends while much has been received.
func TestAnAttemptEndsBeforeItsCommand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		payloads := slices.Repeat([]string{"0"}, 6000)
		server := vt.NewServer(t, vt.On("Long", vt.Script{vt.Send(payloads...), vt.Stall()}))
		o := &ends{}
		o.OnWrite = func(context.Context, []vehicle.Chunk) error {
			time.Sleep(time.Second) // what waits for the sink is all that may
			return errors.New("full")
		}
		if _, err := server.Client(t).Execute(t.Context(), command("Long"), vehicle.WithSink(o)); !errors.Is(err, vehicle.ErrSink) {
			t.Errorf("got %v, want ErrSink", err)
		}
		if diff := cmp.Diff([]string{"attempt", "command"}, o.seen()); diff != "" {
			t.Errorf("what has ended when the call has (-want +got):\n%s", diff)
		}
	})
}

// leaving is an observer that ends its goroutine, as t.FailNow does, when an attempt has ended.
type leaving struct {
	sink.Func
	ended *atomic.Int32
}

func (leaving) TagCommand(ctx context.Context, _ vehicle.Command) context.Context { return ctx }
func (leaving) TagAttempt(ctx context.Context, _ vehicle.Attempt) context.Context { return ctx }

func (l leaving) Observe(_ context.Context, e vehicle.Event) {
	if _, ok := e.(vehicle.AttemptEnded); ok {
		l.ended.Add(1)
		runtime.Goexit()
	}
}

func TestAnAttemptEndsOnceThoughAnObserverEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	var ended atomic.Int32
	client := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`{`)})).Client(t, vehicle.WithSink(leaving{ended: &ended}))
	var running sync.WaitGroup
	running.Go(func() { _, _ = client.Execute(t.Context(), command("Scripted")) })
	running.Wait()
	if got := ended.Load(); got != 1 {
		t.Errorf("told %d times that the attempt has ended, want once", got)
	}
}

// What a sink runs is a command of its own: the observers of the sink's command are not told of that one's sinks.
func TestObserversSeeTheSinksOfTheirCommand(t *testing.T) {
	t.Parallel()
	w := &watcher{}
	server := vt.NewServer(t)
	other := server.Client(t, vehicle.WithSink(troubled{}))
	runs := sink.Func{OnEnd: func(ctx context.Context, _ vehicle.Result) error { return execute(ctx, other, command("ReadDTC")) }}
	if err := execute(t.Context(), server.Client(t, vehicle.WithSink(w, runs)), command("ClearDTC")); err != nil {
		t.Fatal(err)
	}
	calls := slices.DeleteFunc(w.take(), func(line string) bool { return !strings.HasSuffix(line, ": <nil>") })
	want := []string{
		"*vehicle_test.watcher.Begin: <nil>", "sink.Func.Begin: <nil>", "*vehicle_test.watcher.Write: <nil>", "sink.Func.Write: <nil>",
		"*vehicle_test.watcher.End: <nil>", "sink.Func.End: <nil>",
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An attempt that was announced ends, also where what it ends with cannot be asked for.
func TestAnAttemptEndsWhateverAnInterceptorDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		intercept := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := next(ctx, desc, cc, method, opts...)
			return withoutTrailer{stream}, err
		}
		server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Fail(codes.Unavailable, "asleep")}))
		client := server.Client(t, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(intercept)))
		_, err := client.Execute(t.Context(), command("ReadDTC"), vehicle.WithSink(w))
		wantSentinel(t, err, "ErrInternal")
		want := []string{
			"tag command", "*vehicle_test.watcher.Begin: <nil>", "tag attempt 1 from 0", "stream opened: 1",
			"attempt 1 ended: Canceled, in the context of 1", "*vehicle_test.watcher.End: <nil>", "command ended: failed, 0 chunks, 0 replayed",
		}
		if diff := cmp.Diff(want, w.take()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// withoutTrailer is a stream that fails, and does not say more.
type withoutTrailer struct{ grpc.ClientStream }

func (withoutTrailer) Trailer() metadata.MD { panic("no trailer") }

// An attempt's error says all that a command's does, and is the observer's to keep: what becomes of the command does not change it.
func TestAnAttemptsErrorIsCompleteAndTheObservers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		scripts []vt.Script
		want    []string
	}{
		"a refusal": {[]vt.Script{{vt.Fail(codes.NotFound, "no such vehicle")}}, []string{"1 attempts, 0 chunks, may have run: false"}},
		"a link that broke, and a service that failed": {
			[]vt.Script{{vt.Send(`0`), vt.Delay(time.Millisecond), vt.Fail(codes.Unavailable, "tunnel")}, {vt.Send(`0`, `1`), vt.Delay(time.Millisecond), vt.Fail(codes.Internal, "gone")}},
			[]string{"1 attempts, 1 chunks, may have run: true", "2 attempts, 2 chunks, may have run: true"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cmd := command("Scripted")
				var got []string
				var keeps sync.WaitGroup
				failures := &failed{see: func(e *vehicle.Error) {
					keeps.Go(func() { _ = e.Error() }) // the race detector sees who changes it
					if e.CommandID != cmd.ID || e.VehicleID != cmd.VehicleID || e.Name != cmd.Name {
						t.Errorf("got an error of %q, %s on %s, want one of the command's", e.Name, e.CommandID, e.VehicleID)
					}
					got = append(got, fmt.Sprintf("%d attempts, %d chunks, may have run: %t", e.Attempts, e.Chunks, e.MayHaveRun()))
				}}
				server := vt.NewServer(t, vt.On("Scripted", test.scripts...))
				_, _ = server.Client(t, quickly()).Execute(t.Context(), cmd, vehicle.WithSink(failures))
				keeps.Wait()
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// failed is an observer that sees the errors of attempts.
type failed struct {
	sink.Func
	see func(*vehicle.Error)
}

func (*failed) TagCommand(ctx context.Context, _ vehicle.Command) context.Context { return ctx }
func (*failed) TagAttempt(ctx context.Context, _ vehicle.Attempt) context.Context { return ctx }
func (o *failed) Observe(_ context.Context, e vehicle.Event) {
	if e, ok := e.(vehicle.AttemptEnded); ok {
		if failure, ok := errors.AsType[*vehicle.Error](e.Err); ok {
			o.see(failure)
		}
	}
}

// ends is an observer that notes what ends, and takes its time for an attempt.
type ends struct {
	sink.Func
	mu  sync.Mutex
	all []string
}

func (*ends) TagCommand(ctx context.Context, _ vehicle.Command) context.Context { return ctx }
func (*ends) TagAttempt(ctx context.Context, _ vehicle.Attempt) context.Context { return ctx }
func (o *ends) Observe(_ context.Context, e vehicle.Event) {
	switch e.(type) {
	case vehicle.AttemptEnded:
		time.Sleep(time.Second)
		o.note("attempt")
	case vehicle.CommandEnded:
		o.note("command")
	}
}

func (o *ends) note(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, what)
}

func (o *ends) seen() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.all)
}
