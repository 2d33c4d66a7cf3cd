package vehicle_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

func TestCloseRefusesNewCommands(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink))
	for range 2 {
		if err := client.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	cmd := command("ReadDTC")
	_, err := client.Execute(t.Context(), cmd)
	var e *vehicle.Error
	if !errors.Is(err, vehicle.ErrClosed) || !errors.As(err, &e) || e.MayHaveRun() {
		t.Errorf("Execute: got %v, want ErrClosed that has not run", err)
	}
	sink.check(cmd.ID, nil, nil)
	if err := client.WaitReady(t.Context()); !errors.Is(err, vehicle.ErrClosed) {
		t.Errorf("WaitReady: got %v, want ErrClosed", err)
	}
}

// Close returns when the sinks of all running commands have got End.
func TestCloseWaitsForEnd(t *testing.T) {
	t.Parallel()
	const n = 20
	server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", vt.Script{vt.Send(`0`), vt.Stall()}))
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink))
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := client.Execute(t.Context(), command("Scripted"))
			errs <- err
		}()
	}
	if _, err := server.WaitRequests(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if got := sink.ends(); got != n {
		t.Errorf("ends when Close returned: got %d, want %d", got, n)
	}
	for range n {
		if err := <-errs; !errors.Is(err, vehicle.ErrClosed) || errors.Is(err, context.Canceled) {
			t.Errorf("Execute: got %v, want ErrClosed and nothing that the caller did", err)
		}
	}
}

// A sink that heeds its ctx sees it end, and fails with the context's error. The caller has cancelled nothing all the same.
func TestCloseWhileASinkIsBusy(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Begin", "Write"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(`0`), vt.Stall()}))
			busy := make(chan struct{})
			untilTheEnd := func(ctx context.Context) error {
				close(busy)
				<-ctx.Done()
				return storeError{ctx.Err()}
			}
			sink := newRecorder(t)
			if call == "Begin" {
				sink.onBegin = func(ctx context.Context, _ vehicle.Command) error { return untilTheEnd(ctx) }
			} else {
				sink.onWrite = func(ctx context.Context, _ []vehicle.Chunk) error { return untilTheEnd(ctx) }
			}
			client := server.Client(t, vehicle.WithSink(sink))
			result := make(chan error, 1)
			go func() { result <- execute(t.Context(), client, command("Scripted")) }()
			<-busy
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			err := <-result
			if !errors.Is(err, vehicle.ErrClosed) || errors.Is(err, context.Canceled) {
				t.Errorf("Execute: got %v, context.Canceled %t; want ErrClosed and nothing that the caller did", err, errors.Is(err, context.Canceled))
			}
			if !errors.As(err, new(storeError)) {
				t.Errorf("Execute: got %v, want the sink's own error in it", err)
			}
		})
	}
}

// storeError is a sink's own error.
type storeError struct{ cause error }

func (e storeError) Error() string { return "storing: " + e.cause.Error() }
func (e storeError) Unwrap() error { return e.cause }

// Close from inside a command's own sink or loop does not wait for that command, but for all others.
func TestCloseFromInside(t *testing.T) {
	t.Parallel()
	other := vt.On("Other", vt.Script{vt.Send(`0`), vt.Stall()})
	scripted := vt.On("Scripted", vt.Script{vt.Answer(`0`, `1`)})
	inSink := map[string]func(*recorder, func()){
		"Begin": func(r *recorder, f func()) {
			r.onBegin = func(_ context.Context, cmd vehicle.Command) error {
				if cmd.Name == "Scripted" {
					f()
				}
				return nil
			}
		},
		"Write": func(r *recorder, f func()) {
			r.onWrite = func(_ context.Context, chunks []vehicle.Chunk) error {
				if chunks[0].Payload[0] == '1' || len(chunks) > 1 {
					f()
				}
				return nil
			}
		},
		"End": func(r *recorder, f func()) {
			r.onEnd = func(_ context.Context, res vehicle.Result) error {
				if res.Command.Name == "Scripted" {
					f()
				}
				return nil
			}
		},
	}
	for call, set := range inSink {
		t.Run("inside a sink's "+call, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.WithTCP(), other, scripted)
			var client *vehicle.Client
			sink := newRecorder(t)
			closed := 0
			set(sink, func() {
				closed++
				_ = client.Close()
				if got := sink.ends(); got < 1 {
					t.Errorf("ends when Close returned: got %d, want the other command's", got)
				}
			})
			client = server.Client(t, vehicle.WithSink(sink))
			done := make(chan error)
			go func() {
				_, err := client.Execute(t.Context(), command("Other"))
				done <- err
			}()
			if _, err := server.WaitRequests(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			cmd := command("Scripted")
			_, err := client.Execute(t.Context(), cmd)
			if call == "Begin" && !errors.Is(err, vehicle.ErrClosed) {
				t.Errorf("Execute: got %v, want ErrClosed", err)
			}
			if err != nil && !errors.Is(err, vehicle.ErrClosed) {
				t.Errorf("Execute: got %v, want nil or ErrClosed", err)
			}
			if err := <-done; !errors.Is(err, vehicle.ErrClosed) {
				t.Errorf("the other command: got %v, want ErrClosed", err)
			}
			if closed != 1 || sink.ends() != 2 {
				t.Errorf("got %d calls of Close and %d ends, want 1 and 2", closed, sink.ends())
			}
		})
	}
	for _, at := range []int{0, 1} {
		t.Run([]string{"inside a loop, before the final chunk", "inside a loop, at the final chunk"}[at], func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.WithTCP(), other, scripted)
			sink := newRecorder(t)
			client := server.Client(t, vehicle.WithSink(sink))
			done := make(chan error)
			go func() {
				_, err := client.Execute(t.Context(), command("Other"))
				done <- err
			}()
			if _, err := server.WaitRequests(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			stream := client.Stream(t.Context(), command("Scripted"))
			n := 0
			var last error
			for _, err := range stream.Chunks() {
				if last = err; n == at {
					if err := client.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
					if got := sink.ends(); got != 2 {
						t.Errorf("ends when Close returned: got %d, want 2", got)
					}
				}
				n++
			}
			res := stream.Result()
			if at == 0 && (!errors.Is(last, vehicle.ErrClosed) || !errors.Is(res.Err, vehicle.ErrClosed) || res.Status != vehicle.StatusFailed) {
				t.Errorf("got %v and %+v, want ErrClosed", last, res)
			}
			if at == 1 && (last != nil || res.Status != vehicle.StatusCompleted) {
				t.Errorf("got %v and %+v, want a completed command", last, res)
			}
			if err := <-done; !errors.Is(err, vehicle.ErrClosed) {
				t.Errorf("the other command: got %v, want ErrClosed", err)
			}
		})
	}
	t.Run("inside two sinks at once", func(t *testing.T) {
		t.Parallel()
		server := vt.NewServer(t, vt.WithTCP(), scripted)
		var client *vehicle.Client
		var both sync.WaitGroup
		both.Add(2)
		sink := newRecorder(t)
		sink.onBegin = func(context.Context, vehicle.Command) error {
			both.Done()
			both.Wait()
			return client.Close()
		}
		client = server.Client(t, vehicle.WithSink(sink))
		errs := make(chan error)
		for range 2 {
			go func() {
				_, err := client.Execute(t.Context(), command("Scripted"))
				errs <- err
			}()
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, vehicle.ErrClosed) {
				t.Errorf("Execute: got %v, want ErrClosed", err)
			}
		}
	})
}

// A sink may run a command on its own client: neither is waited for from inside both, but all others are, and a loop's own is ended.
func TestCloseFromACommandThatASinkRuns(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(ctx context.Context, client *vehicle.Client, closes func()) error{
		"inside its sink": func(ctx context.Context, client *vehicle.Client, closes func()) error {
			_, err := client.Execute(ctx, command("Inner"), vehicle.WithSink(sink.Func{OnEnd: func(context.Context, vehicle.Result) error { closes(); return nil }}))
			return err
		},
		"inside its loop": func(ctx context.Context, client *vehicle.Client, closes func()) error {
			var last error
			for _, last = range client.Stream(ctx, command("Inner")).Chunks() {
				closes()
			}
			return last
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := vt.Script{vt.Answer(`0`)}
			server := vt.NewServer(t, vt.WithTCP(), vt.On("Other", vt.Script{vt.Send(`0`), vt.Stall()}), vt.On("Outer", answer), vt.On("Inner", answer))
			sink := newRecorder(t)
			client, err := vehicle.New(server.Target(), append(server.Options(), vehicle.WithSink(sink))...)
			if err != nil {
				t.Fatal(err)
			}
			sink.onEnd = func(ctx context.Context, res vehicle.Result) error {
				if res.Command.Name != "Outer" {
					return nil
				}
				return run(ctx, client, func() {
					_ = client.Close()
					if got := sink.ends(); got != 3 {
						t.Errorf("ends when Close returned: got %d, want 3", got)
					}
				})
			}
			other := make(chan error, 1)
			go func() { other <- execute(t.Context(), client, command("Other")) }()
			if _, err := server.WaitRequests(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			outer := make(chan error, 1)
			go func() { outer <- execute(t.Context(), client, command("Outer")) }()
			wantReturned(t, outer)
			if err := <-other; !errors.Is(err, vehicle.ErrClosed) {
				t.Errorf("the other command: got %v, want ErrClosed", err)
			}
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// wantReturned wants a call that calls Close to return, and no error.
func wantReturned(t *testing.T, result <-chan error) {
	t.Helper()
	select {
	case err := <-result:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Close has not returned: it waits for who has called it")
	}
}

// A loop that somebody stopped pulling, or whose body takes its time, does not hold Close.
func TestCloseDoesNotWaitForALoopsBody(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`0`, `1`)}))
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink))
	stream := client.Stream(t.Context(), command("Scripted"))
	next, stop := iter.Pull2(stream.Chunks())
	defer stop()
	if _, err, ok := next(); err != nil || !ok {
		t.Fatalf("the first chunk: got %v, %t", err, ok)
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if sink.ends() != 1 {
		t.Errorf("ends when Close returned: got %d, want 1", sink.ends())
	}
	if _, err, _ := next(); !errors.Is(err, vehicle.ErrClosed) {
		t.Errorf("the loop went on with %v, want ErrClosed", err)
	}
}

// Commands, streams and Close in all orders at once: every command that began ends, once.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	for range 20 {
		server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", vt.Script{vt.Answer(numbered(20)...)}))
		sink := newRecorder(t)
		client := server.Client(t, vehicle.WithSink(sink))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for i := 0; ; i++ {
					for _, err := range client.Stream(t.Context(), command("Scripted")).Chunks() {
						if errors.Is(err, vehicle.ErrClosed) {
							return
						}
						if err != nil {
							t.Errorf("Chunks: %v", err)
						}
					}
				}
			})
		}
		if _, err := server.WaitRequests(t.Context(), 50); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			wg.Go(func() {
				if err := client.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				if begun, ended := len(sink.begun), sink.ends(); begun != ended {
					t.Errorf("when Close returned %d commands had begun and %d ended", begun, ended)
				}
			})
		}
		wg.Wait()
	}
}

func TestWaitReady(t *testing.T) {
	t.Parallel()
	t.Run("a server that is there", func(t *testing.T) {
		t.Parallel()
		server := vt.NewServer(t, vt.WithTCP())
		if err := server.Client(t).WaitReady(t.Context()); err != nil {
			t.Errorf("WaitReady: %v", err)
		}
		if got := len(server.Requests()); got != 0 {
			t.Errorf("requests: got %d, want none", got)
		}
	})
	t.Run("a server that is not there", func(t *testing.T) {
		t.Parallel()
		client, err := vehicle.New("127.0.0.1:1", vehicle.WithInsecure())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := client.WaitReady(ctx); !errors.Is(err, vehicle.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitReady: got %v, want ErrTimeout", err)
		}
	})
	t.Run("a client that is closed meanwhile", func(t *testing.T) {
		t.Parallel()
		client, err := vehicle.New("127.0.0.1:1", vehicle.WithInsecure())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- client.WaitReady(t.Context()) }()
		_ = client.Close()
		if err := <-done; !errors.Is(err, vehicle.ErrClosed) {
			t.Errorf("WaitReady: got %v, want ErrClosed", err)
		}
	})
}

// The end of a completed command's stream is awaited by a goroutine of ours, and interceptors and stats handlers are called in it.
func TestCloseFromAStatsHandler(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	closing, closed := make(chan *vehicle.Client, 1), make(chan error, 1)
	handler := vehicle.WithDialOptions(grpc.WithStatsHandler(atEnd{func() { closed <- (<-closing).Close() }}))
	client, err := vehicle.New(server.Target(), append(server.Options(), handler)...)
	if err != nil {
		t.Fatal(err)
	}
	closing <- client
	if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
		t.Fatal(err)
	}
	wantReturned(t, closed)
}

// A log handler is called where something waits for it, like a sink.
func TestCloseFromALogHandler(t *testing.T) {
	t.Parallel()
	for message, provoke := range map[string]func(t *testing.T, client *vehicle.Client, ca *vt.CA){
		"vehicle: a sink panicked": func(t *testing.T, client *vehicle.Client, _ *vt.CA) {
			t.Helper()
			wantSentinel(t, execute(t.Context(), client, command("ReadDTC")), "ErrSink")
		},
		"vehicle: TLS files reloaded": func(t *testing.T, _ *vehicle.Client, ca *vt.CA) {
			t.Helper()
			if err := ca.Rotate(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			ca := vt.NewCA(t)
			server := vt.NewServer(t, vt.WithTCP(), vt.WithMutualTLS(ca))
			closing, closed := make(chan *vehicle.Client, 1), make(chan error, 1)
			log := writerFunc(func(line []byte) (int, error) {
				if bytes.Contains(line, []byte(message)) {
					closed <- (<-closing).Close()
				}
				return len(line), nil
			})
			client, err := vehicle.New(server.Target(), append(server.Options(), vehicle.WithReloadInterval(20*time.Millisecond),
				vehicle.WithLogger(slog.New(slog.NewJSONHandler(log, nil))),
				vehicle.WithSink(troubled{write: func(context.Context) error { panic("in Write") }}))...)
			if err != nil {
				t.Fatal(err)
			}
			closing <- client
			var provoked sync.WaitGroup
			provoked.Go(func() { provoke(t, client, ca) })
			wantReturned(t, closed)
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			provoked.Wait()
		})
	}
}

// atEnd is a stats handler that is told of the end of an RPC.
type atEnd struct{ f func() }

func (atEnd) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (atEnd) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (atEnd) HandleConn(context.Context, stats.ConnStats)                       {}
func (h atEnd) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); ok {
		h.f()
	}
}
