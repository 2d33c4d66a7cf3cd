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
	ctx       *attemptContext
	idle      *time.Timer // nil: no idle timeout
	ran       bool        // mayHaveRun, before this attempt
	sent      bool
	answered  bool // at least one message has come

	mu    sync.Mutex
	cause error // why ctx was ended; nil: it was not, or by its deadline

	firstCtx   attemptContext // for an attempt that does not move
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
	at.ctx.begin(values, deadline)
	at.ctx.first = first
}

// again makes another context, for an attempt that has moved.
func (at *attempt) again() {
	at.mu.Lock()
	defer at.mu.Unlock()
	before := at.ctx
	at.ctx = &attemptContext{first: before.first}
	at.ctx.begin(before.values, before.deadline)
	if at.cause != nil { // it was ended while it was moving
		at.ctx.cancel()
	}
}

// cancel ends the attempt's context, because of cause. The first one counts, but a move gives way to any other.
func (at *attempt) cancel(cause error) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.cause == nil || at.cause == errMoved { //nolint:errorlint // ours, never wrapped
		at.cause = cause
	}
	at.ctx.cancel()
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
	if err := at.ctx.Err(); err != context.Canceled { //nolint:errorlint // a context returns it as it is
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

// attemptContext is an attempt's context, as gRPC sees it.
type attemptContext struct {
	lifetime

	first bool // firstHeaders' values come before those of others
}

// Deadline implements context.Context. gRPC tells the server how much time is left, by the microsecond. That would be
// another text for each command, which HPACK could not refer to and which drives out what it could. So what is left is rounded
// up to a millisecond: the server may believe that it has so much more, and this side ends in time.
func (c *attemptContext) Deadline() (time.Time, bool) {
	if c.deadline.IsZero() {
		return time.Time{}, false
	}
	left := time.Until(c.deadline)
	if left <= 0 {
		return c.deadline, true
	}
	return c.deadline.Add((left + time.Millisecond - 1).Truncate(time.Millisecond) - left), true
}

// Value implements context.Context.
func (c *attemptContext) Value(key any) any {
	if c.first {
		if value := firstHeaders.Value(key); value != nil {
			return value
		}
	}
	return c.values.Value(key)
}
