package vehicle

import (
	"context"
	"log/slog"
	"sync"

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
	wire     *codec
	clock    clock
	ready    []Chunk
	room     [1]Chunk // what most messages make ready
}

// receive implements source. It receives messages until they make chunks ready. Who waits for a chunk waits in it: it is one
// function, and RecvMsg of attempts is, since the garbage collector walks through each frame of each stack that waits.
func (r *receiver) receive() (ready []Chunk, err *Error) {
	panicked := within.Call(func() error {
		ready = r.ready[:0]
		for err == nil && len(ready) == 0 {
			message := r.wire.scratch()
			ready, err = r.take(message, r.attempts.RecvMsg(message), ready)
		}
		r.ready = ready
		return nil
	})
	if panicked != nil {
		err = r.broke(panicked)
	}
	return ready, err
}

// broke is the error of a panic: of an interceptor of the caller's, for example.
func (r *receiver) broke(panicked error) *Error {
	r.attempts.sinks.log.log(context.Background(), slog.LevelError, "vehicle: receiving panicked", slog.String("error", panicked.Error()))
	return newError(ErrInternal, sanitize(panicked.Error()), panicked)
}

// take takes what RecvMsg brought, and appends the chunks that it makes ready.
func (r *receiver) take(message *vehiclepb.CommandResponse, received error, ready []Chunk) ([]Chunk, *Error) {
	switch err := received.(type) { //nolint:errorlint // RecvMsg of attempts says what it returns
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
		r.attempts.finish()
	}
	return ready, failure
}

func (r *receiver) stop() { r.attempts.abandon() }

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
	for more := true; more; {
		ready, err := p.from.receive()
		if err != nil {
			p.from.stop()
		}
		more = p.put(ready, err)
	}
	p.from.stop() // where the answer did not complete
}

// put queues chunks and waits for room for the next. It says whether there is a next.
func (p *pump) put(ready []Chunk, err *Error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue == nil {
		p.queue = make([]Chunk, 0, 4) // most answers are short
	}
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
