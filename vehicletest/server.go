package vehicletest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/dialing"
	"github.com/sovd-go/vehicle/vehiclepb"
)

const (
	memoryTarget = "passthrough:///vehicletest" // passthrough: the name must not reach DNS
	memoryBuffer = 64 << 10                     // bytes under way in each direction
	closeTimeout = 5 * time.Second
	acceptPause  = 10 * time.Millisecond // after an Accept that failed
)

// Server is a vehicle service. Its methods may be called from several goroutines at once.
type Server struct {
	config config
	fleet  *Fleet
	target string
	listen net.Listener
	memory *bufconn.Listener // nil: over TCP
	record recorder

	mu     sync.Mutex
	closed bool
	conns  map[*conn]struct{}
	opened int

	serving  sync.WaitGroup // the accept loop, the connections, and thereby the handlers
	closing  chan struct{}  // closed when the first Close begins
	done     chan struct{}  // closed when the first Close has ended
	closeErr error
}

// NewServer starts a server that stops with the test. It fails the test if it cannot start, and if one
// of its scripts still runs some seconds after the test.
func NewServer(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s, err := Start(opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Start is [NewServer] for programs: the caller closes the server. The error is that of listening.
func Start(opts ...Option) (*Server, error) {
	s := newServer(opts)
	if s.config.tcp {
		var lc net.ListenConfig
		listener, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("vehicletest: %w", err)
		}
		s.listen, s.target = listener, listener.Addr().String()
	} else {
		s.memory = bufconn.Listen(memoryBuffer)
		s.listen, s.target = s.memory, memoryTarget
	}
	s.serving.Go(s.accept)
	return s, nil
}

func newServer(opts []Option) *Server {
	s := &Server{conns: make(map[*conn]struct{}), closing: make(chan struct{}), done: make(chan struct{})}
	for _, opt := range opts {
		opt(&s.config)
	}
	s.config.grpcServer().Stop() // where gRPC panics over an option, it does so on the caller's goroutine
	s.fleet = NewFleet(s.config.seed)
	s.record.limit = s.config.history
	return s
}

// Target is what [vehicle.New] takes to reach the server, together with [Server.Options]. Over TCP it is
// the address, host:port, for clients in any language.
func (s *Server) Target() string { return s.target }

// Options is how a client reaches the server: plaintext or the client's side of [WithTLS], and the way
// into memory. The slice is the caller's.
func (s *Server) Options() []vehicle.Option {
	var opts []vehicle.Option
	if s.config.tls == nil {
		opts = append(opts, vehicle.WithInsecure())
	} else {
		opts = append(opts, s.config.tlsClient...)
	}
	if s.memory != nil {
		opts = append(opts, vehicle.WithDialOptions(dialing.Way{DialOption: grpc.WithContextDialer(s.Dial)}))
	}
	return opts
}

// Dial opens a connection to the server, whatever the address: with grpc.WithContextDialer, a bare gRPC
// client reaches it in memory too.
func (s *Server) Dial(ctx context.Context, _ string) (net.Conn, error) {
	if s.memory != nil {
		return s.memory.DialContext(ctx)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", s.target)
}

// CutConnections cuts every connection that is open, as [Cut] does, whatever their calls are doing. The
// server goes on accepting new ones.
func (s *Server) CutConnections() {
	for _, c := range s.connections() {
		c.cut()
	}
}

// Close closes the connections, which ends the calls on them, and waits for their scripts. A script that
// still runs after 5 s is named in the error. Close may be called twice, and gives the same again; a
// script must not call it.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		close(s.closing)
		s.closeErr = s.close()
		close(s.done)
	}
	<-s.done
	return s.closeErr
}

func (s *Server) close() error {
	_ = s.listen.Close() // nothing is left to do about an error
	for _, c := range s.connections() {
		_ = c.Close() // it may have been closed by its client
	}
	ended := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(ended)
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("vehicletest: %v after Close, these scripts still run: %s",
			closeTimeout, strings.Join(s.record.running(), ", "))
	}
}

// accept gives each connection a gRPC server of its own, so that one can be told to go away while the
// others stay.
func (s *Server) accept() {
	for closing := false; !closing; {
		raw, err := s.listen.Accept()
		if err != nil { // closed, or no file descriptor is left: one may be in a moment
			closing = s.pause()
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = raw.Close()
			return
		}
		s.opened++
		c := newConn(raw, s.config.tls, s.opened)
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.serving.Go(func() { s.serve(c) })
	}
}

// pause ends with the server too, and says whether it did.
func (s *Server) pause() (closing bool) {
	timer := time.NewTimer(acceptPause)
	defer timer.Stop()
	select {
	case <-s.closing:
		return true
	case <-timer.C:
		return false
	}
}

// serve returns when the connection is closed and its handlers have returned.
func (s *Server) serve(c *conn) {
	server := s.config.grpcServer()
	vehiclepb.RegisterVehicleServiceServer(server, service{server: s, conn: c})
	_ = server.Serve(&single{conn: c}) // ends with the connection, or with a wish for GOAWAY
	if c.leaving() {
		server.GracefulStop()
	}
	server.Stop() // closes it
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	slices.SortFunc(conns, func(a, b *conn) int { return a.number - b.number })
	return conns
}

// script asks the responders in their order, and at last the fleet.
func (s *Server) script(r *Request) Script {
	for _, respond := range s.config.responders {
		if script := respond(r); script != nil {
			return script
		}
	}
	return s.fleet.Respond(r)
}
