package vehicle

import (
	"cmp"
	"context"
	"sync"
)

// ending is a command's end. It is the context of a command without sinks, which only we look at; sinks may make contexts from
// theirs, and that is package context's. It tells the attempt that is under way: an attempt's context is no child of the
// command's, since it must be able to go on after the final chunk.
type ending struct {
	context.Context // the caller's

	mu    sync.Mutex
	cause error         // nil: the command goes on, or the caller's context has just ended
	first bool          // the caller's context had not ended before
	at    *attempt      // nil: none that would have to end
	done  chan struct{} // nil until somebody asks for it
}

// end ends the command, if it has not ended. Where the caller's context has, that is the cause.
func (e *ending) end(cause error) {
	first := e.Context.Err() == nil
	if !first {
		cause = context.Cause(e.Context)
	}
	e.mu.Lock()
	if e.cause != nil {
		e.mu.Unlock()
		return
	}
	e.cause, e.first = cause, first
	if e.done != nil {
		close(e.done)
	}
	at := e.at
	e.mu.Unlock()
	if at != nil {
		at.cancel(cause)
	}
}

// why is nil while the command goes on, and where it ended because of the caller's context.
func (e *ending) why() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.first {
		return nil
	}
	return e.cause
}

// follow says which attempt is to be told.
func (e *ending) follow(at *attempt) {
	e.mu.Lock()
	e.at = at
	cause := e.cause
	e.mu.Unlock()
	if cause != nil && at != nil {
		at.cancel(cause)
	}
}

// Done implements context.Context.
func (e *ending) Done() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done == nil {
		e.done = make(chan struct{})
		if e.cause != nil {
			close(e.done)
		}
	}
	return e.done
}

// Err implements context.Context.
func (e *ending) Err() error {
	if e.why() != nil {
		return context.Canceled
	}
	return e.Context.Err()
}

// Value implements context.Context.
func (e *ending) Value(key any) any {
	if key == (endingKey{}) {
		return e
	}
	return e.Context.Value(key)
}

type endingKey struct{}

// causeOf is context.Cause, of a command's context too. One that somebody has made from it, to run another command, ends by itself.
func causeOf(ctx context.Context) error {
	if e, ok := ctx.Value(endingKey{}).(*ending); ok && ctx.Done() == e.Done() {
		return cmp.Or(e.why(), context.Cause(e.Context))
	}
	return context.Cause(ctx)
}
