package vehicle

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// attempt is one asking of the vehicle.
type attempt struct {
	grpc.ClientStream
	place     *place
	described *described // nil without observers
	ctx       *lifetime
	idle      *time.Timer // nil: no idle timeout
	ran       bool        // mayHaveRun, before this attempt
	sent      bool
	answered  bool // at least one message has come

	mu    sync.Mutex
	cause error // why ctx was ended; nil: it was not, or by its deadline

	firstCtx   lifetime // for an attempt that does not move
	firstPlace place
}

// described is what observers know of an attempt.
type described struct {
	Attempt
	since time.Time // when it began
}

var errIdle = errors.New("vehicle: no chunk within the idle timeout")

// begin makes the attempt's context. It carries the command's values, but follows the command's cancellation only until
// finish (see ending): a caller that cancels its context once it has its answer must not cancel a stream that is about to
// end by itself.
func (at *attempt) begin(values context.Context, first bool, deadline time.Time) {
	at.ctx = &at.firstCtx
	at.ctx.begin(values, first, deadline)
}

// again makes another context, for an attempt that has moved.
func (at *attempt) again() {
	at.mu.Lock()
	defer at.mu.Unlock()
	before := at.ctx
	at.ctx = new(lifetime)
	at.ctx.begin(before.values, before.first, before.deadline)
	if at.cause != nil { // it was ended while it was moving
		at.ctx.end(context.Canceled)
	}
}

// cancel ends the attempt's context, because of cause. The first one counts, but a move gives way to any other.
func (at *attempt) cancel(cause error) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.cause == nil || at.cause == errMoved { //nolint:errorlint // ours, never wrapped
		at.cause = cause
	}
	at.ctx.end(context.Canceled)
}

// moved says whether the attempt's context ended only because it is to be made at another place.
func (at *attempt) moved() bool {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.cause != errMoved || at.ctx.Err() == context.DeadlineExceeded { //nolint:errorlint // neither is ever wrapped
		return false
	}
	at.cause = nil
	return true
}

// why is why the attempt's context has ended; nil: it has not.
func (at *attempt) why() error {
	at.mu.Lock()
	defer at.mu.Unlock()
	if err := at.ctx.Err(); err != context.Canceled || at.cause == nil { //nolint:errorlint // a context returns it as it is
		return err
	}
	return at.cause
}

// waitFrom starts the idle timeout, and waited stops it.
func (at *attempt) waitFrom(d time.Duration) {
	switch {
	case d <= 0:
	case at.idle == nil:
		at.idle = time.AfterFunc(d, func() { at.cancel(errIdle) })
	default:
		at.idle.Reset(d)
	}
}

func (at *attempt) waited() {
	if at.idle != nil {
		at.idle.Stop()
	}
}

// receive receives a message into wire's, for no longer than the idle timeout. One that came in a bundle with others may wait there.
//
// gRPC's RecvMsg says io.EOF also where no answer has ended: it has opened again, by itself, a stream that the server
// refused, and that one was lost before it had the request. Asked again, gRPC says what became of it, and says io.EOF again
// where that is so.
func (at *attempt) receive(wire *codec, idle time.Duration) error {
	m := wire.scratch()
	if len(wire.waiting) > 0 {
		return wire.next(m)
	}
	at.waitFrom(idle)
	err := at.RecvMsg(m)
	if err == io.EOF && !at.answered { //nolint:errorlint // gRPC returns it as it is
		err = at.RecvMsg(m)
	}
	at.waited()
	return err
}
