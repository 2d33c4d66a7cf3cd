package vehicletest

import (
	"context"
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
