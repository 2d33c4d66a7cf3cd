package vehicle

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"github.com/sovd-go/vehicle/internal/foreign"
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

// receiver receives one command's answer: it turns messages into checked chunks in order. It belongs to one goroutine at a time, the
// loop's or a pump's, but for what its lookahead uses meanwhile.
type receiver struct {
	cmd      *prepared
	attempts *attempts
	wire     *codec
	clock    clock
	ready    []Chunk
	room     [1]Chunk // what most messages make ready

	ahead *lookahead // nil while messages are received one by one
	until int        // how many chunks are, before the next lookahead; or never
}

const never = -1

// receive implements source. It receives messages until they make chunks ready, and for sinks those that came in a bundle with
// them. Who waits for a chunk waits in it: it is one function, and receive of attempts is, since the garbage collector walks
// through each frame of each stack that waits.
func (r *receiver) receive() (ready []Chunk, err *Error) {
	panicked := within.Call(func() error {
		ready = r.ready[:0]
		for err == nil && (len(ready) == 0 || !r.attempts.order.complete && r.together()) {
			if r.until == 0 {
				ready, err = r.takeAhead(ready)
				continue
			}
			received := r.attempts.receive()
			if r.together() {
				ready = slices.Grow(ready, 1+len(r.wire.waiting))
			}
			ready, err = r.take(r.wire.scratch(), received, ready)
		}
		r.ready = ready
		return nil
	})
	if panicked != nil {
		err = r.broke(panicked)
	}
	if err != nil {
		r.stop() // the sinks may take their time with the chunks before it
	}
	return ready, err
}

// together says whether more messages of a bundle are wanted at once. The codec is the farewell's once the answer is complete.
func (r *receiver) together() bool { return len(r.attempts.call.sinks) > 0 && len(r.wire.waiting) > 0 }

// broke is the error of a panic: of an interceptor of the caller's, for example.
func (r *receiver) broke(panicked error) *Error {
	r.attempts.sinks.log.log(context.Background(), slog.LevelError, "vehicle: receiving panicked", slog.String("error", panicked.Error()))
	return newError(ErrInternal, foreign.Text(panicked.Error()), panicked)
}

// take takes what was received, and appends the chunks that it makes ready.
func (r *receiver) take(message *vehiclepb.CommandResponse, received error, ready []Chunk) ([]Chunk, *Error) {
	switch err := received.(type) { //nolint:errorlint // receive of attempts says what it returns
	case nil:
	case *Error:
		return ready, err
	default: // io.EOF
		return r.end(ready)
	}
	var chunk Chunk
	switch err := r.decode(message, &chunk); {
	case err != nil:
		return ready, malformed(err)
	case chunk.Final:
		r.until = never // after it nothing comes, or what is missing before it
	case r.until > 0:
		r.until--
	}
	return r.accept(&chunk, ready)
}

// takeAhead takes what a lookahead received.
func (r *receiver) takeAhead(ready []Chunk) (_ []Chunk, err *Error) {
	if r.ahead == nil {
		r.ahead = newLookahead(r, r.attempts.current)
		r.attempts.client.spawn(r.ahead.run)
	}
	chunks, received := r.ahead.take()
	for i := range chunks {
		if ready, err = r.accept(&chunks[i], ready); err != nil || r.attempts.order.complete {
			return ready, err
		}
	}
	if len(chunks) > 0 {
		return ready, nil
	}
	r.ahead, r.until = nil, r.attempts.call.aheadAfter
	switch failure, known := received.(*Error); { //nolint:errorlint // run of a lookahead says what it puts
	case received == nil: // a final chunk, and another one is missing
		r.until = never
	case known:
		return ready, failure
	case received == io.EOF: //nolint:errorlint // gRPC returns it as it is
		return r.end(ready)
	default:
		return ready, r.attempts.failed(received)
	}
	return ready, nil
}

// accept checks a chunk and puts it in its order.
func (r *receiver) accept(chunk *Chunk, ready []Chunk) ([]Chunk, *Error) {
	order := r.attempts.order
	hash, err := check(chunk, order.seed)
	if err != nil {
		return ready, malformed(err)
	}
	ready, failure := order.accept(chunk, hash, ready)
	if order.complete {
		r.attempts.finish()
	}
	return ready, failure
}

// end is told that the server ended the stream with OK. The final chunk may have waited for that: see end of the sequencer.
func (r *receiver) end(ready []Chunk) ([]Chunk, *Error) {
	ready, failure := r.attempts.order.end(ready)
	if r.attempts.order.complete {
		r.attempts.finish()
	}
	return ready, failure
}

func malformed(err error) *Error { return newError(ErrMalformedResponse, err.Error(), err) }

func (r *receiver) stop() {
	r.attempts.abandon()
	if r.ahead != nil {
		r.ahead.stop()
	}
}
