package vehicle

import (
	"errors"
	"runtime"
	"slices"
	"sync"

	"github.com/sovd-go/vehicle/internal/within"
)

// pump receives in a goroutine of its own while sinks are being written to, so that what came in the
// meantime goes to them in one batch. What waits is bounded; when the bound is reached the pump stops receiving, and
// HTTP/2 flow control slows the vehicle.
type pump struct {
	from *receiver
	queue
}

// newPump makes a pump in which the first chunks of an answer wait already, if they have come.
func newPump(from *receiver, first []Chunk) *pump {
	p := &pump{from: from}
	p.init()
	p.chunks = slices.Clone(first)
	for _, c := range first {
		p.bytes += len(c.Payload)
	}
	return p
}

// run receives until the answer has ended.
func (p *pump) run() {
	defer p.put(nil, true, errEnded)
	defer p.from.stop() // where the answer did not complete
	for more := true; more; {
		ready, err := p.from.receive()
		if err != nil {
			more = p.put(ready, true, err)
		} else {
			more = p.put(ready, p.from.attempts.order.complete, nil)
		}
	}
}

// receive implements source. It takes all that waits.
func (p *pump) receive() ([]Chunk, *Error) {
	chunks, err := p.take()
	switch err := err.(type) { //nolint:errorlint // run puts no other
	case nil:
		return chunks, nil
	case *Error:
		return chunks, err
	default:
		return chunks, newError(ErrInternal, err.Error(), err)
	}
}

// lookahead receives the messages of an attempt in a goroutine of its own while those before them are checked and handed to the
// caller: it does for a long answer without sinks what a pump does with them. It ends with the attempt, or with a
// final chunk.
type lookahead struct {
	from  *receiver
	at    *attempt
	batch []Chunk
	queue
}

// aheadAfter is how many chunks make an answer a long one. Most have fewer, and need no other goroutine.
const aheadAfter = 64

func newLookahead(from *receiver, at *attempt) *lookahead {
	l := &lookahead{from: from, at: at}
	l.init()
	return l
}

// run receives until there is nothing more. What it puts at the end is an *Error, what gRPC said, or nil after a final chunk.
func (l *lookahead) run() {
	defer l.put(nil, true, errEnded)
	panicked := within.Call(func() error {
		for more := true; more; {
			more = l.next()
		}
		return nil
	})
	if panicked != nil {
		l.put(nil, true, l.from.broke(panicked))
	}
}

// errEnded is seen where an interceptor has ended the goroutine that received.
var errEnded = errors.New("the goroutine that receives has ended")

// next receives a message, and those that came in a bundle with it. It says whether there may be another.
func (l *lookahead) next() bool {
	wire := l.from.wire
	l.batch = l.batch[:0]
	for last := false; !last; last = last || len(wire.waiting) == 0 {
		if err := l.at.receive(wire, l.from.attempts.call.idleTimeout); err != nil {
			return l.put(l.batch, true, err)
		}
		var chunk Chunk
		if err := l.from.decode(wire.scratch(), &chunk); err != nil {
			return l.put(l.batch, true, malformed(err))
		}
		l.batch = append(l.batch, chunk)
		last = chunk.Final
	}
	return l.put(l.batch, l.batch[len(l.batch)-1].Final, nil)
}

// queue is chunks on their way from one goroutine to another.
type queue struct {
	mu       sync.Mutex
	arrived  sync.Cond // chunks, or the end
	room     sync.Cond
	chunks   []Chunk
	taken    []Chunk // given out by take; its array is used again
	bytes    int     // of the payloads in chunks
	err      error
	finished bool // nothing more will be put
	stopped  bool // nobody wants more
}

// How much a queue holds. One message, or bundle of messages, is always taken, whatever its size.
const (
	queueChunks = 4096
	queueBytes  = 4 << 20
)

func (q *queue) init() {
	q.arrived.L, q.room.L = &q.mu, &q.mu
}

// put queues chunks and waits for room for the next. It says whether more are wanted. Once the last has been put, it does
// nothing.
func (q *queue) put(chunks []Chunk, last bool, err error) (more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished {
		return false
	}
	if q.chunks == nil {
		q.chunks = make([]Chunk, 0, 4) // most answers are short
	}
	q.chunks = append(q.chunks, chunks...)
	for _, c := range chunks {
		q.bytes += len(c.Payload)
	}
	q.err = err
	q.finished = last
	q.arrived.Signal()
	for !q.finished && !q.stopped && (len(q.chunks) >= queueChunks || q.bytes >= queueBytes) {
		q.room.Wait()
	}
	return !q.finished && !q.stopped
}

// take waits for chunks and takes all that wait. Where there are none, the last has been put.
func (q *queue) take() ([]Chunk, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.chunks) == 0 && !q.finished {
		q.arrived.Wait()
		if !q.finished { // what came with this chunk is about to be put, and belongs into the same batch
			q.mu.Unlock()
			runtime.Gosched()
			q.mu.Lock()
		}
	}
	if len(q.chunks) == 0 {
		return nil, q.err
	}
	clear(q.taken) // let go of the payloads
	q.taken, q.chunks, q.bytes = q.chunks, q.taken[:0], 0
	q.room.Signal()
	return q.taken, nil
}

// stop waits until the last has been put. Whoever puts must have been told, by the end of its context, if it may be waiting
// for something else.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.room.Signal()
	for !q.finished {
		q.arrived.Wait()
	}
}
