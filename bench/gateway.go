package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// gateway is the vehicle service that both sides of a pair are measured against. It sends messages that were encoded before
// through a server that knows no more of HTTP/2 than it needs: on the wire it does what grpc-go's server does, a
// DATA frame for a message, in writes of 32 KiB, within the windows that the client grants; and it leaves the client most of
// the machine, where grpc-go's server takes as much of it as the client.
type gateway struct {
	answers map[int][][]byte // by size: the encoded payloads

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// addresses is where the gateway listens: it is the server process's first and only line.
type addresses struct {
	Open   string // without a limit of streams, as grpc-go's default is
	Capped string // MAX_CONCURRENT_STREAMS is 100
}

// cappedStreams is what many a gateway allows on a connection.
const cappedStreams = 100

// serveGateway runs the server process until its standard input ends. Each byte that comes in cuts all connections.
func serveGateway(in io.Reader, announce func(addresses) error) error {
	g := &gateway{answers: make(map[int][][]byte), conns: make(map[net.Conn]struct{})}
	for _, size := range []int{smallChunk, largeChunk} {
		for _, payload := range payloadsOf(size) {
			field := protowire.AppendTag(nil, fieldPayload, protowire.BytesType)
			g.answers[size] = append(g.answers[size], protowire.AppendString(field, payload))
		}
	}
	open, err := g.listen(0)
	if err != nil {
		return err
	}
	capped, err := g.listen(cappedStreams)
	if err != nil {
		return err
	}
	if err := announce(addresses{Open: open, Capped: capped}); err != nil {
		return err
	}
	for line := make([]byte, 1); ; g.cut() {
		if _, err := in.Read(line); err != nil {
			return nil //nolint:nilerr // that is how we are told to stop
		}
	}
}

// listen serves a port of its own, until the process ends.
func (g *gateway) listen(streams uint32) (addr string, _ error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", err
	}
	go g.serve(l, streams)
	return l.Addr().String(), nil
}

// serve accepts connections. A connection ends with itself; the process ends them all.
func (g *gateway) serve(l net.Listener, streams uint32) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		g.conns[conn] = struct{}{}
		g.mu.Unlock()
		go func() {
			_ = newHTTP2(conn, g.answer).serve(streams) // the client has gone
			g.mu.Lock()
			delete(g.conns, conn)
			g.mu.Unlock()
		}()
	}
}

// cut ends all connections, as a tunnel does.
func (g *gateway) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn := range g.conns {
		_ = conn.Close()
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

// answer answers one command.
func (g *gateway) answer(s *http2Stream, request []byte) error {
	var req vehiclepb.CommandRequest
	if err := proto.Unmarshal(request, &req); err != nil {
		return err
	}
	params := req.GetCommandParams()
	chunks, err := strconv.Atoi(params[paramChunks])
	size, err2 := strconv.Atoi(params[paramSize])
	delay, err3 := strconv.Atoi(params[paramDelay])
	answers := g.answers[size]
	if err := errors.Join(err, err2, err3); err != nil || answers == nil {
		return fmt.Errorf("the parameters are not those of the benchmark: %w", err)
	}
	const prefix = 5 // gRPC's: a byte for compression, four for the length
	head := protowire.AppendString(protowire.AppendTag(make([]byte, prefix, 64), fieldID, protowire.BytesType), req.GetCommandId())
	var tail []byte
	for i := range chunks {
		final := i == chunks-1
		if final && delay > 0 {
			s.flush()
			if err := s.wait(time.Duration(delay) * time.Millisecond); err != nil {
				return err
			}
		}
		payload := answers[i%len(answers)]
		tail = appendTail(tail[:0], i, final)
		binary.BigEndian.PutUint32(head[1:prefix], uint32(len(head)-prefix+len(payload)+len(tail)))
		if err := s.send(head, payload, tail); err != nil {
			return err
		}
		if params[paramHold] != "" {
			s.flush()
			<-s.ended
			return nil
		}
	}
	return nil
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

// appendTail adds what follows the payload in a message: number, final flag and a timestamp as vehicles write it.
func appendTail(b []byte, i int, final bool) []byte {
	if i > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldSeq, protowire.VarintType), uint64(i))
	}
	if final {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldFinal, protowire.VarintType), 1)
	}
	const layout = "2006-01-02T15:04:05.000000"
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldTime, protowire.BytesType), uint64(len(layout)))
	return firstTime.Add(time.Duration(i)*time.Millisecond).AppendFormat(b, layout)
}
