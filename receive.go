package vehicle

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that ours wraps
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/internal/within"
	"github.com/sovd-go/vehicle/vehiclepb"
)

// source is where a command's chunks come from: the receiver itself, or a pump in front of it.
type source interface {
	// receive waits for chunks that are new and in order. It returns at least one, or an error; the
	// slice is valid until the next call.
	receive() ([]Chunk, *Error)
	// stop ends the receiving and waits for it.
	stop()
}

// receiver receives one command's answer: it turns messages into checked chunks in order. It belongs to one goroutine.
type receiver struct {
	cmd      *prepared
	attempts *attempts
	order    *sequencer
	stream   grpc.ClientStream
	wire     *codec
	ready    []Chunk
	linger   func(func()) // runs what is left to do for a completed stream, where the caller does not wait for it
}

// receive implements source.
func (r *receiver) receive() (ready []Chunk, err *Error) {
	panicked := within.Call(func() error { ready, err = r.advance(); return nil }) // an interceptor of the caller's, for example
	if panicked != nil {
		r.attempts.log.log(context.Background(), slog.LevelError, "vehicle: receiving panicked", slog.String("error", panicked.Error()))
		err = newError(ErrInternal, sanitize(panicked.Error()), panicked)
	}
	return ready, err
}

// advance receives messages until they make chunks ready.
func (r *receiver) advance() (ready []Chunk, err *Error) {
	for {
		ready, err = r.next(r.ready[:0])
		r.ready = ready
		if err != nil || len(ready) > 0 {
			return ready, err
		}
	}
}

// next receives one message and appends the chunks that it makes ready.
func (r *receiver) next(ready []Chunk) ([]Chunk, *Error) {
	message := r.wire.scratch()
	switch err := r.stream.RecvMsg(message).(type) { //nolint:errorlint // RecvMsg of attempts says what it returns
	case nil:
	case *Error:
		return ready, err
	default: // io.EOF
		return r.order.end(ready)
	}
	chunk, err := r.decode(message)
	if err != nil {
		return ready, newError(ErrMalformedResponse, err.Error(), err)
	}
	ready, failure := r.order.accept(chunk, ready)
	if r.order.complete {
		r.linger(r.attempts.finish())
	}
	return ready, failure
}

func (r *receiver) stop() { r.attempts.abandon() }

// decode is where a message becomes a Chunk. Its errors hold nothing of the payload.
func (r *receiver) decode(m *vehiclepb.CommandResponse) (Chunk, error) {
	c := Chunk{
		CommandID:  r.cmd.ID,
		VehicleID:  r.cmd.VehicleID,
		Seq:        m.GetSequenceNumber(),
		Payload:    json.RawMessage("null"),
		Final:      m.GetIsFinal(),
		Timestamp:  parseTimestamp(m.GetTimestamp()),
		ReceivedAt: time.Now(),
	}
	if echo := m.GetCommandId(); echo != r.cmd.request.GetCommandId() {
		if id, err := uuid.Parse(echo); err != nil || id != r.cmd.ID { // another spelling of it is fine
			return c, fmt.Errorf("chunk %d answers command %q", c.Seq, sanitize(echo))
		}
	}
	if text := m.GetResponsePayload(); text != "" {
		c.Payload = json.RawMessage(text)
		if !json.Valid(c.Payload) {
			return c, fmt.Errorf("the payload of chunk %d (%d bytes) is not JSON", c.Seq, len(text))
		}
	}
	return c, nil
}

// timestampLayouts are the forms of ISO 8601 that vehicles send. Go reads a fraction of a second after
// any of them, with a point or a comma. Without a zone the time is UTC, as the wire contract says.
var timestampLayouts = []string{
	"2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02T15:04:05Z07",
	"20060102T150405Z0700",
	"20060102T150405",
}

// parseTimestamp is zero for what it cannot read: an answer does not fail for its clock.
func parseTimestamp(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	if len(text) > 10 && text[10] == ' ' { // RFC 3339 allows the space
		text = text[:10] + "T" + text[11:]
	}
	for _, layout := range timestampLayouts {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 { // no JSON, no database would take it
			break
		}
		return t
	}
	return time.Time{}
}

// codec is gRPC's protobuf codec, given to each call, with a note of what it could not read: gRPC
// reports that as INTERNAL, like any trouble of the server's. One command uses it, in one goroutine.
type codec struct {
	encoding.CodecV2
	message     vehiclepb.CommandResponse // received into, again and again
	malformed   error
	limit       int // of a message, in bytes
	requestSize int // in bytes
}

func newCodec(limit int, request proto.Message) *codec {
	return &codec{CodecV2: encoding.GetCodecV2("proto"), limit: limit, requestSize: proto.Size(request)}
}

func (c *codec) scratch() *vehiclepb.CommandResponse { return &c.message }

// Unmarshal implements encoding.CodecV2.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if err != nil {
		c.malformed = err
	}
	return err
}

// tooLarge says whether st is this side's refusal of a message over the limit. gRPC gives it the code
// that an overloaded server sends, and no other mark than its text. A server that refuses a request of
// ours as too large says the same words, but only of a request over the limit that they name.
func (c *codec) tooLarge(st *status.Status) bool {
	return st.Code() == codes.ResourceExhausted &&
		strings.HasPrefix(st.Message(), "grpc: received message ") &&
		strings.Contains(st.Message(), fmt.Sprintf("%d", c.limit)) &&
		c.requestSize <= c.limit
}

// pump receives in a goroutine of its own while sinks are being written to, so that what came in the
// meantime goes to them in one batch. What waits is bounded; when the bound is reached the pump stops receiving, and
// HTTP/2 flow control slows the vehicle.
type pump struct {
	from *receiver

	mu       sync.Mutex
	arrived  sync.Cond // chunks, or the end
	room     sync.Cond
	queue    []Chunk
	taken    []Chunk // given out by receive; its array is used again
	bytes    int     // of the payloads in queue
	err      *Error
	finished bool // nothing more will be queued
	stopped  bool // nobody wants more
}

// How much a pump holds. One message is always taken, whatever its size.
const (
	pumpChunks = 1024
	pumpBytes  = 4 << 20
)

func newPump(from *receiver) *pump {
	p := &pump{from: from}
	p.arrived.L, p.room.L = &p.mu, &p.mu
	return p
}

// run receives until the answer has ended.
func (p *pump) run() {
	linger := p.from.stop // where the answer did not complete
	p.from.linger = func(f func()) { linger = f }
	for more := true; more; {
		ready, err := p.from.receive()
		if err != nil {
			p.from.stop()
		}
		more = p.put(ready, err)
	}
	linger()
}

// put queues chunks and waits for room for the next. It says whether there is a next.
func (p *pump) put(ready []Chunk, err *Error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, ready...)
	for _, c := range ready {
		p.bytes += len(c.Payload)
	}
	p.err = err
	p.finished = err != nil || p.from.order.complete
	p.arrived.Signal()
	for !p.finished && !p.stopped && (len(p.queue) >= pumpChunks || p.bytes >= pumpBytes) {
		p.room.Wait()
	}
	if p.stopped && !p.finished {
		p.finished = true
		p.arrived.Broadcast()
	}
	return !p.finished
}

// receive takes all that waits.
func (p *pump) receive() ([]Chunk, *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) == 0 && !p.finished {
		p.arrived.Wait()
	}
	if len(p.queue) == 0 {
		return nil, p.err
	}
	clear(p.taken) // let go of the payloads
	p.taken, p.queue, p.bytes = p.queue, p.taken[:0], 0
	p.room.Signal()
	return p.taken, nil
}

// stop waits until the pump has ended; the command's context must have ended, or its answer.
func (p *pump) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.room.Signal()
	for !p.finished {
		p.arrived.Wait()
	}
}
