package vehicle

import (
	"context"
	"sync"
	"time"
)

// lifetime is an attempt's context: another's values, and an end of its own. Package context could make it, with nine more
// allocations, and with a time in each request's headers that no other has (see Deadline).
type lifetime struct {
	values   context.Context
	deadline time.Time // zero: none
	first    bool      // firstHeaders' values come before those of values
	given    bool      // child has been set

	mu    sync.Mutex
	done  chan struct{} // nil until somebody asks for it
	err   error
	timer *time.Timer
	child func() // is told of the end; gRPC's own context
}

// begin is called before anyone else has it.
func (l *lifetime) begin(values context.Context, first bool, deadline time.Time) {
	l.values, l.first, l.deadline = values, first, deadline
	if deadline.IsZero() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := time.Until(deadline); left > 0 {
		l.timer = time.AfterFunc(left, l.expire)
	} else {
		l.err = context.DeadlineExceeded
	}
}

func (l *lifetime) expire() { l.end(context.DeadlineExceeded) }

// end ends it, because of err, if it has not ended.
func (l *lifetime) end(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.done != nil {
		close(l.done)
	}
	child := l.child
	l.child = nil
	l.mu.Unlock()
	if child != nil {
		child()
	}
}

// Deadline implements context.Context. gRPC tells the server how much time is left, by the microsecond. That would be
// another text for each command, which HPACK could not refer to and which drives out what it could. So what is left is rounded
// up to a millisecond: the server may believe that it has so much more, and this side ends in time.
func (l *lifetime) Deadline() (time.Time, bool) {
	if l.deadline.IsZero() {
		return time.Time{}, false
	}
	left := time.Until(l.deadline)
	if left <= 0 {
		return l.deadline, true
	}
	return l.deadline.Add((left + time.Millisecond - 1).Truncate(time.Millisecond) - left), true
}

// Done implements context.Context.
func (l *lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context.
func (l *lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Value implements context.Context.
func (l *lifetime) Value(key any) any {
	if l.first {
		if value := firstHeaders.Value(key); value != nil {
			return value
		}
	}
	return l.values.Value(key)
}

// AfterFunc is what package context looks for in a context that is not its own: f is called when this one ends. There is
// room for one f, gRPC's. Any other, and gRPC's below an interceptor that adds values, costs a goroutine.
func (l *lifetime) AfterFunc(f func()) (stop func() bool) {
	if l.adopt(f) {
		return l.forget
	}
	return context.AfterFunc(struct{ context.Context }{l}, f)
}

func (l *lifetime) adopt(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given || l.err != nil {
		return false
	}
	l.given, l.child = true, f
	return true
}

// forget takes the child off. It says whether that was in time.
func (l *lifetime) forget() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had := l.child != nil
	l.child = nil
	return had
}
