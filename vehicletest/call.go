package vehicletest

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// Call is one attempt at a command as its script sees it. It belongs to the goroutine that runs the
// script, and must not be used after the step has returned.
type Call struct {
	// Request is what the client asked.
	Request *Request
	// Next is the sequence number that the next chunk of [Send], [Answer] or [SendEdited] takes. It
	// starts at 0.
	Next int32

	skipTo int32 // chunks with lower numbers are not sent, see Resume
	stream grpc.ServerStream
	conn   *conn
	last   *message // the last that was sent
}

// Send sends a message as it is, also one that no vehicle should send. It does not look at Next.
func (c *Call) Send(m *vehiclepb.CommandResponse) error { return c.SendBytes(encode(m)) }

// SendBytes sends b as the bytes of one gRPC message. b must not be changed afterwards.
func (c *Call) SendBytes(b []byte) error {
	m := newMessage(b)
	if err := c.stream.SendMsg(m); err != nil {
		return err
	}
	c.last = m
	return nil
}

// chunk sends a well-formed chunk with the next number, after edit had its way with it.
func (c *Call) chunk(payload string, edit func(*vehiclepb.CommandResponse)) error {
	seq := c.Next
	c.Next++
	if seq < c.skipTo {
		return nil
	}
	m := &vehiclepb.CommandResponse{
		CommandId:       c.Request.Command.GetCommandId(),
		ResponsePayload: payload,
		SequenceNumber:  seq,
		Timestamp:       time.Now().UTC().Format("2006-01-02T15:04:05.000000"),
	}
	edit(m)
	return c.Send(m)
}

// flush waits until gRPC has written everything that was sent to the connection.
func (c *Call) flush(ctx context.Context) error {
	if c.last == nil {
		return nil
	}
	select {
	case <-c.last.written:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// service is the gRPC service of one connection.
type service struct {
	vehiclepb.UnimplementedVehicleServiceServer
	server *Server
	conn   *conn
}

// ExecuteCommand records the request and runs its script.
func (s service) ExecuteCommand(cmd *vehiclepb.CommandRequest, stream grpc.ServerStreamingServer[vehiclepb.CommandResponse]) error {
	ctx := stream.Context()
	// gRPC would answer in the client's compression, and free a message before it is written: see message.
	_ = grpc.SetSendCompressor(ctx, encoding.Identity) // fails on a stream that has ended
	request := s.server.record.arrive(ctx, cmd, s.conn)
	code := codes.Internal // of a step that panics, which the recovery interceptor answers, or ends its goroutine
	returned := false
	defer func() {
		p := recover()
		if p == nil && !returned {
			s.conn.cut() // t.FailNow in a step: gRPC answers that with nothing, and the client would wait
		}
		request.end = End{How: ending(ctx, s.conn), Code: code}
		close(request.done)
		if p != nil {
			panic(p) //nolint:forbidigo // the step's, on its way to the recovery interceptor, and still with the step's stack
		}
	}()
	call := &Call{Request: request, skipTo: math.MinInt32, stream: stream, conn: s.conn}
	err := s.server.script(request).Run(ctx, call)
	returned = true
	switch {
	case !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
	case expired(ctx):
		err = status.FromContextError(context.DeadlineExceeded).Err()
	default:
		err = status.FromContextError(err).Err()
	}
	code = status.Code(err)
	return err
}

// ending looks at the connection first: gRPC closes it before it cancels the calls on it.
func ending(ctx context.Context, c *conn) Ending {
	switch {
	case c.isClosed():
		return Disconnected
	case ctx.Err() == nil:
		return Finished
	case expired(ctx):
		return Expired
	default:
		return Canceled
	}
}

// expired asks the clock: gRPC has a second timer for the deadline, which cancels ctx, and either may be first.
func expired(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// message is what the server sends. gRPC frees a message's buffer when it has written all of it to the
// connection; that is how a script learns that a cut comes after the message and not before.
type message struct {
	data    []byte
	written chan struct{}
}

// poolingThreshold is one more than the size up to which package mem does not report that a buffer is free.
const poolingThreshold = 1<<10 + 1

func newMessage(b []byte) *message {
	data := make([]byte, len(b), max(len(b), poolingThreshold))
	copy(data, b)
	return &message{data: data, written: make(chan struct{})}
}

// Get and Put make a message the pool of its own buffer, see [mem.NewBuffer].
func (m *message) Get(int) *[]byte { return &m.data }
func (m *message) Put(*[]byte)     { close(m.written) }

// codec sends messages that are bytes already. It is this server's alone, and not registered.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	return mem.BufferSlice{mem.NewBuffer(&m.data, m)}, nil
}

// encode is proto.Marshal without its check that strings are UTF-8: scripts may send what is not.
func encode(m *vehiclepb.CommandResponse) []byte {
	var b []byte
	text := func(field protowire.Number, s string) {
		if s != "" {
			b = protowire.AppendTag(b, field, protowire.BytesType)
			b = protowire.AppendString(b, s)
		}
	}
	varint := func(field protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendTag(b, field, protowire.VarintType)
			b = protowire.AppendVarint(b, v)
		}
	}
	text(1, m.GetCommandId())
	text(2, m.GetResponsePayload())
	varint(3, uint64(int64(m.GetSequenceNumber()))) //nolint:gosec // G115: how protobuf encodes a negative int32
	varint(10, protowire.EncodeBool(m.GetIsFinal()))
	text(11, m.GetTimestamp())
	return b
}
