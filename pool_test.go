package vehicle_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// 2,000 commands at once against a server that takes ten streams on a connection: all complete, and no connection stays
// idle while commands wait at another.
func TestStreamLimit(t *testing.T) {
	t.Parallel()
	const n, limit, size = 2000, 10, 16
	var running, most atomic.Int64
	server := vt.NewServer(t, vt.WithTCP(), vt.WithServerOptions(grpc.MaxConcurrentStreams(limit)),
		vt.On("Scripted", vt.Script{func(context.Context, *vt.Call) error {
			now := running.Add(1)
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			return nil
		}, vt.Answer(`0`, `1`, `2`), func(context.Context, *vt.Call) error { running.Add(-1); return nil }}))
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink), vehicle.WithPoolSize(size), vehicle.WithAttemptTimeout(0))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if _, err := client.Execute(t.Context(), command("Scripted")); err != nil {
				t.Errorf("Execute: %v", err)
			}
		})
	}
	wg.Wait()
	if sink.ends() != n {
		t.Errorf("ends: got %d, want %d", sink.ends(), n)
	}
	conns := map[int]int{}
	for _, r := range server.Requests() {
		conns[r.Conn]++
	}
	if len(conns) != size {
		t.Errorf("connections used: got %d, want %d", len(conns), size)
	}
	if most.Load() > limit*size {
		t.Errorf("commands at once: got %d, want at most %d", most.Load(), limit*size)
	}
}

// A connection that is full does not hold a command while another has room, or could be opened.
func TestNotHeldByAFullConnection(t *testing.T) {
	t.Parallel()
	replaced := vehicle.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials()))
	for _, tt := range []struct {
		name    string
		limit   int
		options []vehicle.Option
	}{
		{"a server that takes one stream on a connection", 1, nil},
		{"a server that takes 3 streams on a connection", 3, nil},
		{"a server that takes 10 streams on a connection", 10, nil},
		{"credentials that do not tell the limit", 3, []vehicle.Option{replaced}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // where nothing is slow, only waiting takes time
				const size = 4
				release := make(chan struct{})
				server := vt.NewServer(t, vt.WithServerOptions(grpc.MaxConcurrentStreams(uint32(tt.limit))),
					vt.On("Scripted", vt.Script{vt.Until(release), vt.Answer(`0`)}))
				client := server.Client(t, append(tt.options, vehicle.WithPoolSize(size), vehicle.WithoutRetry())...)
				n := tt.limit * size
				var wg sync.WaitGroup
				for range n {
					wg.Go(func() {
						if _, err := client.Execute(t.Context(), command("Scripted")); err != nil {
							t.Errorf("Execute: %v", err)
						}
					})
				}
				time.Sleep(time.Second)
				if got := len(server.Requests()); got != n { // all of them at once
					t.Errorf("requests: %d came, want %d", got, n)
				}
				close(release)
				wg.Wait()
			})
		})
	}
}

// A command that waits at a connection whose streams go on for long takes the first place that becomes free anywhere.
func TestMovesToTheConnectionWithRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		releases := map[int]chan struct{}{1: make(chan struct{}), 2: make(chan struct{})} // by connection
		server := vt.NewServer(t, vt.WithServerOptions(grpc.MaxConcurrentStreams(2)),
			vt.WithResponder(func(r *vt.Request) vt.Script { return vt.Script{vt.Until(releases[r.Conn]), vt.Answer(`0`)} }))
		client := server.Client(t, vehicle.WithPoolSize(2), vehicle.WithoutRetry())
		var wg sync.WaitGroup
		for range 8 { // two on each connection, and four that wait
			wg.Go(func() {
				if _, err := client.Execute(t.Context(), command("Scripted")); err != nil {
					t.Errorf("Execute: %v", err)
				}
			})
		}
		time.Sleep(time.Second)
		if got := len(server.Requests()); got != 4 {
			t.Errorf("requests while both connections are full: got %d, want 4", got)
		}
		close(releases[2]) // the streams on the other one go on
		time.Sleep(time.Second)
		requests := server.Requests()
		for _, r := range requests[4:] {
			if r.Conn != 2 {
				t.Errorf("a command that waited came on connection %d, want 2, which had room", r.Conn)
			}
		}
		if len(requests) != 8 {
			t.Errorf("requests when one connection has room: got %d, want 8", len(requests))
		}
		close(releases[1])
		wg.Wait()
	})
}

// A command that waits at a full connection takes one that was broken, once it is connected again.
func TestMovesToTheConnectionThatHasRecovered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const outage, waiting = time.Minute, 5
		release := make(chan struct{})
		server := vt.NewServer(t, permitPings(), vt.WithServerOptions(grpc.MaxConcurrentStreams(1)), vt.On("Held", vt.Script{vt.Until(release), vt.Answer(`0`)}))
		back := time.Now().Add(outage)
		var dials atomic.Int64
		dial := func(ctx context.Context, addr string) (net.Conn, error) {
			if dials.Add(1) > 1 && time.Now().Before(back) {
				return nil, errors.New("no route to the gateway")
			}
			return server.Dial(ctx, addr)
		}
		client := server.Client(t, exactly(), vehicle.WithPoolSize(2), vehicle.WithAttemptTimeout(0), vehicle.WithDialOptions(grpc.WithContextDialer(dial)))
		var held, others sync.WaitGroup
		run := func(wg *sync.WaitGroup, name string) {
			wg.Go(func() {
				if _, err := client.Execute(t.Context(), command(name)); err != nil {
					t.Errorf("Execute: %v", err)
				}
			})
		}
		run(&held, "Held")
		time.Sleep(time.Second)
		for range waiting {
			run(&others, "ReadDTC")
		}
		time.Sleep(outage - 2*time.Second)
		if got := len(server.Requests()); got != 1 {
			t.Errorf("requests while the other connection is broken: got %d, want 1", got)
		}
		time.Sleep(outage) // gRPC tries again within less than it has been down
		if got := len(server.Requests()); got != 1+waiting {
			t.Errorf("requests when it has recovered: got %d, want %d", got, 1+waiting)
		}
		close(release)
		held.Wait()
		others.Wait()
	})
}

// Streams that have brought all, and that the server has not ended, count for it. Who waits behind them moves, and once they have
// ended their connection is as good as any.
func TestNotHeldByStreamsThatHaveBroughtAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server := vt.NewServer(t, vt.WithServerOptions(grpc.MaxConcurrentStreams(2)),
			vt.On("Scripted", vt.Script{vt.Answer(`0`), vt.Delay(time.Hour)}),
			vt.On("Held", vt.Script{vt.Until(release), vt.Answer(`0`)}))
		client := server.Client(t)
		for n := range 4 {
			before := time.Now()
			if _, err := client.Execute(t.Context(), command("Scripted")); err != nil {
				t.Fatalf("Execute: %v", err)
			}
			if took := time.Since(before); took > 100*time.Millisecond {
				t.Errorf("command %d took %v, want less than 100ms", n, took)
			}
		}
		time.Sleep(2 * time.Second)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := client.Execute(t.Context(), command("Held")); err != nil {
					t.Errorf("Execute: %v", err)
				}
			})
		}
		time.Sleep(time.Second)
		if got := client.Stats().Ready; got != 2 {
			t.Errorf("3 commands at once, after those: %d connections, want the 2 that there were", got)
		}
		close(release)
		wg.Wait()
	})
}

// One connection serves a hundred streams before another is opened, and the least busy one gets the next.
func TestPoolGrowsAsLoadAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server := vt.NewServer(t, vt.On("Held", vt.Script{vt.Until(release), vt.Answer(`0`)}))
		client := server.Client(t)
		perConn := func() []int {
			conns := map[int]int{}
			for _, r := range server.Requests() {
				conns[r.Conn]++
			}
			return slices.Sorted(maps.Values(conns))
		}
		for range 200 {
			if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
				t.Errorf("Execute: %v", err)
			}
		}
		if diff := cmp.Diff([]int{200}, perConn()); diff != "" {
			t.Errorf("commands on each connection, one at a time (-want +got):\n%s", diff)
		}
		var wg sync.WaitGroup
		for range 250 {
			wg.Go(func() {
				if _, err := client.Execute(t.Context(), command("Held"), vehicle.WithAttemptTimeout(0)); err != nil {
					t.Errorf("Execute: %v", err)
				}
			})
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff([]int{50, 100, 300}, perConn()); diff != "" {
			t.Errorf("commands on each connection, and 250 at once (-want +got):\n%s", diff)
		}
		close(release)
		wg.Wait()
	})
}

// A stream that takes long to open, for what an interceptor does or because the machine is busy, is none that the server refuses: it
// has said how many it takes.
func TestSlowOpeningIsNotTheServersLimit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		limit  uint32
		secure bool
	}{
		{"a server without a limit", math.MaxUint32, false},
		{"a server that takes more", 60, false},
		{"a server that takes more, with TLS", 60, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				options := []vt.Option{vt.WithServerOptions(grpc.MaxConcurrentStreams(tt.limit))}
				if tt.secure {
					options = append(options, vt.WithMutualTLS(vt.NewCA(t)))
				}
				release := make(chan struct{})
				server := vt.NewServer(t, append(options, vt.On("Held", vt.Script{vt.Until(release), vt.Answer(`0`)}))...)
				client := server.Client(t, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(new(slowOpening).intercept)))
				var wg sync.WaitGroup
				run := func(name string) {
					wg.Go(func() {
						if _, err := client.Execute(t.Context(), command(name)); err != nil {
							t.Errorf("Execute: %v", err)
						}
					})
				}
				run("Held")
				time.Sleep(2 * time.Second) // it is open: it may be all that the server takes
				for range 50 {
					run("ReadDTC")
				}
				time.Sleep(10 * time.Second)
				close(release)
				wg.Wait()
				conns := map[int]int{}
				for _, r := range server.Requests() {
					conns[r.Conn]++
				}
				if diff := cmp.Diff(map[int]int{1: 51}, conns); diff != "" {
					t.Errorf("commands on each connection (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A command alone is opened once, however long interceptors and credentials take: no server refuses a connection's first stream.
func TestSlowOpeningOfACommandAlone(t *testing.T) {
	t.Parallel()
	replaced := grpc.WithTransportCredentials(insecure.NewCredentials())
	for _, tt := range []struct {
		name    string
		options func(*slowOpening) []grpc.DialOption
	}{
		{"an interceptor", func(s *slowOpening) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithChainStreamInterceptor(s.intercept)}
		}},
		{"an interceptor, and credentials that do not tell the limit", func(s *slowOpening) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithChainStreamInterceptor(s.intercept), replaced}
		}},
		{"credentials for each call", func(s *slowOpening) []grpc.DialOption { return []grpc.DialOption{grpc.WithPerRPCCredentials(s)} }},
		{"credentials for each call, and others that do not tell the limit", func(s *slowOpening) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithPerRPCCredentials(s), replaced}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t)
				slow := new(slowOpening)
				client := server.Client(t, vehicle.WithDialOptions(tt.options(slow)...))
				const commands = 3
				for range commands {
					begun := time.Now()
					if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
						t.Errorf("Execute: %v", err)
					}
					if took := time.Since(begun); took != time.Second {
						t.Errorf("a command took %v, want 1s", took)
					}
				}
				if got := slow.opened.Load(); got != commands {
					t.Errorf("%d streams were opened, want %d", got, commands)
				}
				if got := client.Stats().Ready; got != 1 {
					t.Errorf("%d connections, want 1", got)
				}
			})
		})
	}
}

// slowOpening takes a second, as an interceptor and as credentials.
type slowOpening struct{ opened atomic.Int64 }

func (s *slowOpening) intercept(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s.opened.Add(1)
	time.Sleep(time.Second)
	return open(ctx, desc, cc, method, opts...)
}

func (s *slowOpening) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	s.opened.Add(1)
	time.Sleep(time.Second)
	return nil, nil
}

func (*slowOpening) RequireTransportSecurity() bool { return false }

// After an outage that was longer than gRPC's patience, the next attempt finds the service at once.
func TestServiceComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t)
		back := time.Now().Add(10 * time.Minute)
		dial := func(ctx context.Context, addr string) (net.Conn, error) {
			if time.Now().Before(back) {
				return nil, errors.New("no route to the gateway")
			}
			return server.Dial(ctx, addr)
		}
		client := server.Client(t, vehicle.WithDialOptions(grpc.WithContextDialer(dial)),
			vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 1000, BaseDelay: 7 * time.Second, Multiplier: 1, Jitter: -1}))
		start := time.Now()
		if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
			t.Fatalf("Execute: %v", err)
		}
		if late := time.Since(start) - 10*time.Minute; late > 14*time.Second {
			t.Errorf("the command ended %v after the service was back, want two waits of 7s at most", late)
		}
	})
}

// A connection that broke is passed over while another is healthy.
func TestBrokenConnectionIsPassedOver(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.WithTCP())
	client := server.Client(t, quickly())
	for range 20 {
		server.CutConnections()
		if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
			t.Fatalf("Execute: %v", err)
		}
	}
}

// A stream of an interceptor's own does not end as gRPC's do: its place is free again all the same.
func TestAnInterceptorsOwnStreamGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		own := func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ grpc.Streamer, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			return ownStream{ctx: ctx}, nil
		}
		client := vt.NewServer(t).Client(t, vehicle.WithoutRetry(), vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(own)))
		for range 300 {
			if _, err := client.Execute(t.Context(), command("ReadDTC")); !errors.Is(err, vehicle.ErrUnavailable) {
				t.Fatalf("got %v, want ErrUnavailable", err)
			}
		}
		if got := client.Stats(); got.Streams != 0 || got.Idle+got.Connecting+got.Ready+got.Failing != 1 {
			t.Errorf("got %+v, want one connection without streams", got)
		}
	})
}

// An interceptor may find fault with a message, while gRPC goes on receiving, and is about to keep the trailer. The race detector looks.
func TestATrailerIsNotReadBeforeItsStreamHasEnded(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(`0`), pushback("1"), vt.Fail(codes.Unavailable, "asleep")}))
	ending := make(trailers)
	intercept := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := next(ctx, desc, cc, method, opts...)
		return strictStream{stream, ending}, err
	}
	client := server.Client(t, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(intercept), grpc.WithStatsHandler(ending)))
	for range 100 {
		_, err := client.Execute(t.Context(), command("Scripted"))
		wantSentinel(t, err, "ErrInternal")
	}
}

// trailers are told when a trailer has come, and is not kept yet.
type trailers chan struct{}

func (trailers) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (trailers) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (trailers) HandleConn(context.Context, stats.ConnStats)                       {}
func (c trailers) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); ok {
		c <- struct{}{}
	}
}

// strictStream is a stream that takes no message.
type strictStream struct {
	grpc.ClientStream
	ending trailers
}

func (s strictStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	<-s.ending
	return errors.New("not valid")
}

// ownStream is a stream that fails.
type ownStream struct {
	grpc.ClientStream
	ctx context.Context
}

func (ownStream) SendMsg(any) error          { return nil }
func (ownStream) CloseSend() error           { return nil }
func (ownStream) Trailer() metadata.MD       { return nil }
func (s ownStream) Context() context.Context { return s.ctx }
func (ownStream) RecvMsg(any) error          { return status.Error(codes.Unavailable, "injected") }
