package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// gateway is the vehicle service that both sides of a pair are measured against: grpc-go with its default settings,
// sending messages that were encoded before, so that the client has most of the machine.
type gateway struct {
	answers map[int][]mem.Buffer // by size: the encoded payloads
	stopped chan struct{}
}

// addresses is where the gateway listens: it is the server process's first and only line.
type addresses struct {
	Open   string // without a limit of streams, as grpc-go's default is
	Capped string // MaxConcurrentStreams(100)
}

// cappedStreams is what many a gateway allows on a connection.
const cappedStreams = 100

// serveGateway runs the server process until its standard input ends. Each line that comes in cuts all connections.
func serveGateway(in io.Reader, announce func(addresses) error) error {
	g := &gateway{answers: make(map[int][]mem.Buffer), stopped: make(chan struct{})}
	for _, size := range []int{smallChunk, largeChunk} {
		for _, payload := range payloadsOf(size) {
			field := protowire.AppendTag(nil, fieldPayload, protowire.BytesType)
			g.answers[size] = append(g.answers[size], mem.SliceBuffer(protowire.AppendString(field, payload)))
		}
	}
	var at addresses
	var listeners []*cutter
	for _, l := range []struct {
		at   *string
		opts []grpc.ServerOption
	}{{&at.Open, nil}, {&at.Capped, []grpc.ServerOption{grpc.MaxConcurrentStreams(cappedStreams)}}} {
		listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
		if err != nil {
			return err
		}
		*l.at = listener.Addr().String()
		server := grpc.NewServer(append(l.opts, grpc.ForceServerCodecV2(wire{}))...)
		server.RegisterService(&grpc.ServiceDesc{
			ServiceName: vehiclepb.VehicleService_ServiceDesc.ServiceName,
			HandlerType: (*any)(nil),
			Streams:     []grpc.StreamDesc{{StreamName: "ExecuteCommand", Handler: g.execute, ServerStreams: true}},
		}, g)
		cut := &cutter{Listener: listener, conns: make(map[net.Conn]struct{})}
		listeners = append(listeners, cut)
		go func() { _ = server.Serve(cut) }()
		defer server.Stop()
	}
	defer close(g.stopped)
	if err := announce(at); err != nil {
		return err
	}
	for line := make([]byte, 1); ; {
		if _, err := in.Read(line); err != nil {
			return nil //nolint:nilerr // its end is how we are told to stop
		}
		for _, l := range listeners {
			l.cut()
		}
	}
}

// The parameters of a command, as text: how many chunks of which size, after how many milliseconds the last one comes, and
// whether the answer stays open after its first chunk.
const (
	paramChunks = "chunks"
	paramSize   = "size"
	paramDelay  = "delay_ms"
	paramHold   = "hold"
)

func (g *gateway) execute(_ any, stream grpc.ServerStream) error {
	var req vehiclepb.CommandRequest
	if err := stream.RecvMsg(&req); err != nil {
		return err
	}
	params := req.GetCommandParams()
	chunks, err := strconv.Atoi(params[paramChunks])
	size, err2 := strconv.Atoi(params[paramSize])
	delay, err3 := strconv.Atoi(params[paramDelay])
	answers := g.answers[size]
	if err := errors.Join(err, err2, err3); err != nil || answers == nil {
		return status.Error(codes.InvalidArgument, "the parameters are not those of the benchmark")
	}
	head := mem.SliceBuffer(protowire.AppendString(protowire.AppendTag(nil, fieldID, protowire.BytesType), req.GetCommandId()))
	for i := range chunks {
		final := i == chunks-1
		if final && delay > 0 {
			if err := wait(stream.Context(), time.Duration(delay)*time.Millisecond); err != nil {
				return err
			}
		}
		if err := stream.SendMsg(message{head, answers[i%len(answers)], tailOf(i, final)}); err != nil {
			return err
		}
		if params[paramHold] != "" {
			select {
			case <-stream.Context().Done():
			case <-g.stopped:
			}
			return nil
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Fields of CommandResponse.
const (
	fieldID      protowire.Number = 1
	fieldPayload protowire.Number = 2
	fieldSeq     protowire.Number = 3
	fieldFinal   protowire.Number = 10
	fieldTime    protowire.Number = 11
)

var firstTime = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// tailOf is what follows the payload in a message: number, final flag and a timestamp as vehicles write it.
func tailOf(i int, final bool) mem.Buffer {
	b := make([]byte, 0, 48)
	if i > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldSeq, protowire.VarintType), uint64(i)) //nolint:gosec // G115: an index
	}
	if final {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldFinal, protowire.VarintType), 1)
	}
	const layout = "2006-01-02T15:04:05.000000"
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldTime, protowire.BytesType), uint64(len(layout)))
	return mem.SliceBuffer(firstTime.Add(time.Duration(i)*time.Millisecond).AppendFormat(b, layout))
}

// message is an encoded message, in parts.
type message [3]mem.Buffer

// wire is the codec: requests are protobuf, answers are encoded already.
type wire struct{}

// Name implements encoding.CodecV2.
func (wire) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (wire) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(message)
	if !ok {
		return nil, fmt.Errorf("got a %T, want an encoded message", v)
	}
	return m[:], nil
}

// Unmarshal implements encoding.CodecV2.
func (wire) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("got a %T, want a message", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}

// cutter is a listener that can cut the connections that it has accepted.
type cutter struct {
	net.Listener

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Accept implements net.Listener.
func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = struct{}{}
	return &cuttable{Conn: conn, from: c}, nil
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close()
	}
}

type cuttable struct {
	net.Conn

	from *cutter
}

// Close implements net.Conn.
func (c *cuttable) Close() error {
	c.from.mu.Lock()
	delete(c.from.conns, c.Conn)
	c.from.mu.Unlock()
	return c.Conn.Close()
}
