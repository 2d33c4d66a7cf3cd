package vehicletest

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sovd-go/vehicle"
)

// scarce is a listener in a process that for a time has no file descriptor left.
type scarce struct {
	net.Listener
	failures int // to come; Accept is called by one goroutine
}

func (l *scarce) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

// startScarce is Start, in memory, with an Accept that fails at first.
func startScarce(failures int) *Server {
	s := newServer(nil)
	s.memory, s.target = bufconn.Listen(memoryBuffer), memoryTarget
	s.listen = &scarce{s.memory, failures}
	s.serving.Go(s.accept)
	return s
}

func TestTheServerGoesOnWhenItCannotAcceptForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startScarce(3)
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.Client(t).Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
			t.Errorf("got error %v, want none", err)
		}
	})
}

func TestTheServerForgetsConnectionsThatHaveEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startScarce(0)
		defer s.Close()
		client := s.Client(t)
		if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := len(s.connections()); got != 0 {
			t.Errorf("got %d connections, want none", got)
		}
	})
}

// belated is a listener whose one client comes as the server closes.
type belated struct {
	net.Listener
	closed chan struct{}
	client net.Conn
}

func (l *belated) Accept() (net.Conn, error) {
	<-l.closed
	if c := l.client; c != nil {
		l.client = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *belated) Close() error {
	close(l.closed)
	return nil
}

func TestCloseClosesAConnectionThatComesAsItBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		s := newServer(nil)
		s.listen = &belated{closed: make(chan struct{}), client: there}
		s.serving.Go(s.accept)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := here.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // net.Pipe returns it as it is
			t.Errorf("the client reads: got error %v, want EOF", err)
		}
	})
}

func TestCloseDoesNotWaitForAnAcceptThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startScarce(1 << 30)
		synctest.Wait()
		start := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("Close took %v, want no time", took)
		}
	})
}
