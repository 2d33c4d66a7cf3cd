package vehicle_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// refusing serves one connection: it refuses each stream once it has its request.
func refusing(conn net.Conn) error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		if data, ok := frame.(*http2.DataFrame); ok && data.StreamEnded() {
			err = framer.WriteRSTStream(data.StreamID, http2.ErrCodeRefusedStream)
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && !settings.IsAck() {
			err = framer.WriteSettingsAck()
		}
		if err != nil {
			return err
		}
	}
}

// lossOfTheSecond cuts the first connection when a second stream has been opened on it, before gRPC goes on.
type lossOfTheSecond struct {
	cut   func()
	ended chan struct{} // closed once gRPC knows

	mu      sync.Mutex
	streams int
	once    sync.Once
}

func (*lossOfTheSecond) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (*lossOfTheSecond) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

func (l *lossOfTheSecond) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	l.mu.Lock()
	l.streams++
	second := l.streams == 2
	l.mu.Unlock()
	if second {
		l.cut()
		<-l.ended
	}
}

func (l *lossOfTheSecond) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); ok {
		l.once.Do(func() { close(l.ended) })
	}
}

// A stream that the server refused is opened again by gRPC. Where that one is lost before it has the request, gRPC says io.EOF, as
// if the answer had ended.
func TestALostStreamThatGRPCOpenedByItselfIsNoEndOfTheAnswer(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Answer(`1`, `2`)}))
	ours, theirs := net.Pipe()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := refusing(theirs); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the refusing server: %v", err)
		}
	})
	defer serving.Wait()
	first := make(chan net.Conn, 1)
	first <- ours
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		select {
		case conn := <-first:
			return conn, nil
		default:
			return server.Dial(ctx, address)
		}
	}
	loss := &lossOfTheSecond{cut: func() { _ = theirs.Close() }, ended: make(chan struct{})}
	client := server.Client(t, quickly(), vehicle.WithPoolSize(1), vehicle.WithDialOptions(grpc.WithContextDialer(dial), grpc.WithStatsHandler(loss)))
	res, err := client.Execute(t.Context(), command("ReadDTC"))
	if err != nil || res.Chunks != 2 || res.Attempts != 2 {
		t.Errorf("got %d chunks in %d attempts, %v, want 2 in 2", res.Chunks, res.Attempts, err)
	}
}
