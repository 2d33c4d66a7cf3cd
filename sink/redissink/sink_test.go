package redissink_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
)

func TestWhatIsPublished(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSink(t, rdb, opts...)
			cmd := newCommand()
			failedCmd := newCommand()
			sub := rdb.Subscribe(t.Context(), "response:"+cmd.ID.String(), "response:"+failedCmd.ID.String())
			defer sub.Close()
			for range 2 {
				_, err := sub.Receive(t.Context())
				must(t, err)
			}
			chunks := answer(cmd, 2)
			chunks[0].Payload = []byte("{ \"part\": \"<A&B>\",\n \"n\": 1.50 }")
			play(t, s, cmd, chunks)
			must(t, s.Begin(t.Context(), failedCmd))
			must(t, s.End(t.Context(), vehicle.Result{
				Command: failedCmd, Status: vehicle.StatusFailed, FinishedAt: completed(cmd).FinishedAt,
				Err: errors.New("password=hunter2"),
			}))
			id, failedID := cmd.ID.String(), failedCmd.ID.String()
			for _, want := range []string{
				`{"event":"response","command_id":"` + id + `","response_id":"` + chunks[0].ID().String() + `","response_payload":{ "part": "<A&B>",` + "\n" + ` "n": 1.50 },"sequence_number":0,"is_final":false}`,
				`{"event":"response","command_id":"` + id + `","response_id":"` + chunks[1].ID().String() + `","response_payload":{"dtc":"P0001"},"sequence_number":1,"is_final":true}`,
				`{"event":"status","command_id":"` + id + `","status":"completed","completed_at":"2026-03-01T12:30:00.000000Z"}`,
				`{"event":"error","command_id":"` + failedID + `","status":"failed","completed_at":"2026-03-01T12:30:00.000000Z","error_message":"vehicle: command failed"}`,
			} {
				msg, err := sub.ReceiveMessage(t.Context())
				must(t, err)
				if diff := cmp.Diff(want, msg.Payload); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestErrorMessages(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	s := newSink(t, rdb, streams())
	inner := &vehicle.Error{Code: 14, Message: "the gateway is away", Name: "ReadDTC", Attempts: 2}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"an error of the SDK":                 {inner, inner.Error()},
		"one that is wrapped":                 {fmt.Errorf("secret: %w", inner), inner.Error()},
		"a sink's, as sink.Chain hands it on": {fmt.Errorf("%w: %w", vehicle.ErrSink, errors.New("secret")), "vehicle: sink failed"},
		"any other":                           {errors.New("secret"), "vehicle: command failed"},
		"none":                                {nil, "vehicle: command failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := newCommand()
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.End(t.Context(), vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: test.err}))
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			must(t, err)
			if len(got) != 1 || got[0].ErrorMessage != test.want {
				t.Errorf("got %+v, want the message %q", got, test.want)
			}
		})
	}
}

func TestARunThatHasBeenReplacedIsNotPublished(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	old, successor := newSink(t, rdb, streams()), newSink(t, rdb, streams())
	chunks := answer(cmd, 4)
	must(t, old.Begin(t.Context(), cmd))
	must(t, old.Write(t.Context(), chunks[:2]))
	must(t, successor.Begin(t.Context(), cmd))
	if err := old.Write(t.Context(), chunks[2:]); !errors.Is(err, redissink.ErrSuperseded) {
		t.Errorf("Write of the first: got %v, want ErrSuperseded", err)
	}
	if err := old.End(t.Context(), completed(cmd)); !errors.Is(err, redissink.ErrSuperseded) {
		t.Errorf("End of the first: got %v, want ErrSuperseded", err)
	}
	must(t, successor.Write(t.Context(), chunks))
	must(t, successor.End(t.Context(), completed(cmd)))
	got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
	wantEvents(t, got, err, events(cmd, chunks))
}

func TestTwoRunsInOneProcessAreNotMixed(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cmd := newSink(t, connect(t, sharedURL), opts...), newCommand()
			chunks := answer(cmd, 4)
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks[:2]))
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks[:3]))
			if err := s.Write(t.Context(), chunks[2:]); !errors.Is(err, redissink.ErrSuperseded) {
				t.Errorf("the first run goes on: got %v, want ErrSuperseded", err)
			}
			var wg sync.WaitGroup
			for range 8 { // the race detector looks on
				wg.Go(func() { _ = s.Write(t.Context(), chunks[3:]) })
			}
			wg.Wait()
		})
	}
}

func TestAClockThatIsBehindStillReplacesTheStream(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	future := fmt.Sprintf("%d-7", time.Now().Add(24*time.Hour).UnixMicro())
	must(t, rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: redissink.StreamOf(cmd.ID), ID: future, Values: []string{"p", "0", "e", ""}}).Err())
	chunks := answer(cmd, 3)
	play(t, newSink(t, rdb, streams()), cmd, chunks)
	got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
	wantEvents(t, got, err, events(cmd, chunks))
}

// A Begin whose caller gave up may reach Redis when another has begun.
func TestABeginThatComesLateChangesNothing(t *testing.T) {
	t.Parallel()
	rdb, other, cmd := connect(t, sharedURL), connect(t, sharedURL), newCommand()
	late, g := newSink(t, rdb, streams()), newGate(t)
	rdb.AddHook(g)
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan error, 1)
	go func() { begun <- late.Begin(ctx, cmd) }()
	<-g.entered
	cancel()
	if err := <-begun; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	s, chunks := newSink(t, other, streams()), answer(cmd, 4)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks[:2]))
	g.open()
	must(t, late.Close(t.Context())) // it has arrived
	must(t, s.Write(t.Context(), chunks[2:]))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := collect(redissink.Follow(t.Context(), other, cmd.ID))
	wantEvents(t, got, err, events(cmd, chunks))
}

// The same Begin may reach Redis again, when the run has gone on.
func TestABeginThatIsRepeatedLateChangesNothing(t *testing.T) {
	t.Parallel()
	rdb, other, cmd := connect(t, sharedURL), connect(t, sharedURL), newCommand()
	var sent []any
	rdb.AddHook(after(func(cmds []redis.Cmder) {
		if sent == nil && cmds[0].Name() == "evalsha" {
			sent = cmds[0].Args()
		}
	}))
	s, chunks := newSink(t, rdb, streams()), answer(cmd, 4)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks[:2]))
	must(t, other.Do(t.Context(), sent...).Err())
	must(t, s.Write(t.Context(), chunks[2:]))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := collect(redissink.Follow(t.Context(), other, cmd.ID))
	wantEvents(t, got, err, events(cmd, chunks))
}

// halfway is a hook that lets the first publications of one pipeline through, and loses the connection at the
// next.
type halfway struct {
	left atomic.Int32
}

func (*halfway) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*halfway) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *halfway) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n := int(h.left.Swap(0))
		if n == 0 || cmds[0].Name() != "publish" {
			return next(ctx, cmds)
		}
		if err := next(ctx, cmds[:n]); err != nil {
			return err
		}
		for _, cmd := range cmds[n:] {
			cmd.SetErr(io.ErrUnexpectedEOF)
		}
		return io.ErrUnexpectedEOF
	}
}

func TestARetryGoesOnWhereTheConnectionBroke(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	h := new(halfway)
	h.left.Store(3)
	rdb.AddHook(h)
	s, chunks := newSink(t, rdb), answer(cmd, 10)
	sub := connect(t, sharedURL).Subscribe(t.Context(), redissink.ChannelOf(cmd.ID))
	defer sub.Close()
	_, err := sub.Receive(t.Context())
	must(t, err)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks))
	must(t, s.End(t.Context(), completed(cmd)))
	var got []redissink.Event
	for len(got) <= len(chunks) {
		msg, err := sub.ReceiveMessage(t.Context())
		must(t, err)
		var e redissink.Event
		must(t, e.UnmarshalJSON([]byte(msg.Payload)))
		got = append(got, e)
	}
	wantEvents(t, got, nil, events(cmd, chunks))
}

func TestCallsOutOfPlace(t *testing.T) {
	t.Parallel()
	s, cmd := newSink(t, connect(t, sharedURL)), newCommand()
	must(t, s.Write(t.Context(), nil))
	ended := newCommand()
	play(t, s, ended, answer(ended, 1))
	const text = "the command has not begun, or has ended"
	for name, call := range map[string]func() error{
		"Write before Begin": func() error { return s.Write(t.Context(), answer(cmd, 1)) },
		"End before Begin":   func() error { return s.End(t.Context(), completed(cmd)) },
		"Write after End":    func() error { return s.Write(t.Context(), answer(ended, 1)) },
		"End after End":      func() error { return s.End(t.Context(), completed(ended)) },
	} {
		if err := call(); err == nil || !strings.HasSuffix(err.Error(), text) {
			t.Errorf("%s: got %v, want that %s", name, err, text)
		}
	}
}

func TestCallsAfterClose(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cmd := redissink.New(connect(t, sharedURL), opts...), newCommand()
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Close(t.Context()))
			must(t, s.Close(t.Context()))
			for call, err := range map[string]error{
				"Begin": s.Begin(t.Context(), newCommand()),
				"Write": s.Write(t.Context(), answer(cmd, 1)),
				"End":   s.End(t.Context(), completed(cmd)),
			} {
				if !errors.Is(err, redissink.ErrClosed) {
					t.Errorf("%s: got %v, want ErrClosed", call, err)
				}
			}
		})
	}
}

// gate is a hook that holds pipelines until it is opened, and counts them.
type gate struct {
	mu        sync.Mutex
	pipelines int
	commands  int
	holds     map[string]bool // channels; nil: all
	entered   chan struct{}
	closed    chan struct{}
	once      sync.Once
}

// newGate makes one that is opened with the end of the test at the latest.
func newGate(t *testing.T) *gate {
	g := &gate{entered: make(chan struct{}, 1000), closed: make(chan struct{})}
	t.Cleanup(g.open)
	return g
}

func (g *gate) open() { g.once.Do(func() { close(g.closed) }) }

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if slices.ContainsFunc(cmds, g.held) {
			g.mu.Lock()
			g.pipelines++
			g.commands += len(cmds)
			g.mu.Unlock()
			g.entered <- struct{}{}
			<-g.closed
		}
		return next(ctx, cmds)
	}
}

// hanging is how many pipelines have come to it.
func (g *gate) hanging() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pipelines
}

func (g *gate) held(cmd redis.Cmder) bool {
	if g.holds == nil {
		return cmd.Name() == "publish" || strings.HasPrefix(cmd.Name(), "eval")
	}
	channel, _ := cmd.Args()[1].(string)
	return g.holds[channel]
}

func TestConcurrentCommandsShareAPipeline(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	s, g := newSink(t, rdb), newGate(t)
	rdb.AddHook(g)
	var wg sync.WaitGroup
	const commands = 100
	for range commands {
		cmd := newCommand()
		must(t, s.Begin(t.Context(), cmd))
		wg.Go(func() {
			if err := s.Write(t.Context(), answer(cmd, 3)); err != nil {
				t.Error(err)
			}
		})
	}
	<-g.entered
	eventually(t, "all have come", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return redissink.Waiting(s)+g.commands/3 == commands
	})
	g.open()
	wg.Wait()
	if g.pipelines > 4 { // two at first, and two for those that came meanwhile
		t.Errorf("got %d pipelines for %d commands that wrote at once", g.pipelines, commands)
	}
}

func TestWhatIsRefusedToOneIsNotRefusedToItsCompany(t *testing.T) {
	t.Parallel()
	direct, rdb := connect(t, sharedURL), connect(t, sharedURL)
	s, g := newSink(t, rdb, streams()), newGate(t)
	rdb.AddHook(g)
	begin := func(cmd vehicle.Command) <-chan error {
		begun := make(chan error, 1)
		go func() { begun <- s.Begin(t.Context(), cmd) }()
		return begun
	}
	for range 2 { // as many as there are pipelines
		begin(newCommand())
		<-g.entered
	}
	refused, cmd := newCommand(), newCommand()
	must(t, direct.Set(t.Context(), redissink.StreamOf(refused.ID), "no stream", time.Minute).Err())
	one, other := begin(refused), begin(cmd)
	eventually(t, "both wait", func() bool { return redissink.Waiting(s) == 2 })
	g.open()
	if err := <-one; err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("got %v, want WRONGTYPE", err)
	}
	must(t, <-other)
}

func TestACallThatWasGivenUpComesBeforeItsSuccessor(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb, other := connect(t, sharedURL), connect(t, sharedURL)
			s, g, cmd := newSink(t, rdb, opts...), newGate(t), newCommand()
			chunks := answer(cmd, 2)
			must(t, s.Begin(t.Context(), cmd))
			rdb.AddHook(g)
			f := follow(t, t.Context(), other, cmd.ID)
			ctx, cancel := context.WithCancel(t.Context())
			written := make(chan error, 1)
			go func() { written <- s.Write(ctx, chunks[:1]) }()
			<-g.entered
			cancel()
			if err := <-written; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want Canceled while Redis was busy", err)
			}
			ended := make(chan error, 1)
			go func() { ended <- s.End(t.Context(), completed(cmd)) }()
			g.open()
			must(t, <-ended)
			got, err := f.rest()
			want := events(cmd, chunks)
			wantEvents(t, got, err, []redissink.Event{want[0], want[2]})
		})
	}
}

func TestACallThatWasGivenUpInTheQueueIsNotMade(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	s, g := newSink(t, rdb), newGate(t)
	rdb.AddHook(g)
	first := make(chan error, 2)
	for range 2 { // as many as there are pipelines
		cmd := newCommand()
		must(t, s.Begin(t.Context(), cmd))
		go func() { first <- s.Write(t.Context(), answer(cmd, 1)) }()
		<-g.entered
	}
	cmd := newCommand()
	f := follow(t, t.Context(), connect(t, sharedURL), cmd.ID)
	must(t, s.Begin(t.Context(), cmd))
	ctx, cancel := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() { written <- s.Write(ctx, answer(cmd, 1)) }()
	eventually(t, "the third waits", func() bool { return redissink.Waiting(s) == 1 })
	cancel()
	if err := <-written; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	g.open()
	must(t, <-first)
	must(t, <-first)
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := f.rest()
	wantEvents(t, got, err, events(cmd, nil))
}

func TestCloseWaitsAndGivesUp(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	g := newGate(t)
	rdb.AddHook(g)
	s, cmd := redissink.New(rdb), newCommand()
	must(t, s.Begin(t.Context(), cmd))
	written := make(chan error, 1)
	go func() { written <- s.Write(t.Context(), answer(cmd, 1)) }()
	<-g.entered
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close while Redis is busy: got %v, want DeadlineExceeded", err)
	}
	g.open()
	<-written // given up, or done in time
	must(t, s.Close(t.Context()))
}

// The client's hooks are the application's: where one fails, the call does, and what comes after it is published.
func TestAHookThatFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		does func(payload string)
		want string
	}{
		{"it panics", func(payload string) { panic(payload) }, "the Redis client panicked with a string"},
		{"it ends its goroutine, as t.FailNow does", func(string) { runtime.Goexit() }, "ended its goroutine"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rdb := connect(t, sharedURL)
			hook := &fails{does: test.does}
			hook.times.Store(1)
			rdb.AddHook(hook)
			s, cmd := newSink(t, rdb, redissink.WithRetryFor(0)), newCommand()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			must(t, s.Begin(ctx, cmd))
			err := s.Write(ctx, answer(cmd, 1))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "P0000") {
				t.Errorf("got %v, want %q, without the payload", err, test.want)
			}
			must(t, s.End(ctx, vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: err}))
			must(t, s.Close(ctx))
		})
	}
}

// All that send are in a hook that ends their goroutines, and a third command waits for them.
func TestWhatWaitsIsPublishedThoughHooksEndGoroutines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pipelines = 2
		rdb, over := connect(t, sharedURL), make(chan struct{})
		hook := &fails{does: func(string) { <-over; runtime.Goexit() }}
		hook.times.Store(pipelines)
		rdb.AddHook(hook)
		s := newSink(t, rdb, redissink.WithRetryFor(0))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		results := make(chan error, pipelines+1)
		for range pipelines + 1 {
			cmd := newCommand()
			must(t, s.Begin(ctx, cmd))
			go func() { results <- s.Write(ctx, answer(cmd, 1)) }()
			synctest.Wait()
		}
		close(over)
		published := 0
		for range pipelines + 1 {
			switch err := <-results; {
			case err == nil:
				published++
			case !strings.Contains(err.Error(), "ended its goroutine"):
				t.Error(err)
			}
		}
		if published != 1 {
			t.Errorf("got %d answers published, want the one that waited", published)
		}
		must(t, s.Close(ctx))
	})
}

// fails is a hook that fails with so many pipelines of events.
type fails struct {
	does  func(payload string)
	times atomic.Int32
}

func (*fails) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*fails) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (f *fails) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "publish" && f.times.Add(-1) >= 0 {
			f.does(fmt.Sprint(cmds[0].Args()))
		}
		return next(ctx, cmds)
	}
}
