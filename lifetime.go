package vehicle

import (
	"context"
	"sync"
	"time"
)

// lifetime is a context with another's values, and an end of its own. Package context's cost up to nine more allocations, and a
// timer that runs even where nobody waits for the end.
type lifetime struct {
	values   context.Context
	deadline time.Time // zero: none

	mu    sync.Mutex
	state state
	given bool          // there has been a child: the room for one is used
	done  chan struct{} // nil until somebody asks for it
	timer *time.Timer   // nil until then, too
	child func()        // is told of the end; gRPC's own context
}

// state is a lifetime's.
type state uint8

const (
	going state = iota
	canceled
	expired
)

// begin is called before anyone else has it.
func (l *lifetime) begin(values context.Context, deadline time.Time) {
	l.values, l.deadline = values, deadline
}

// checkTime ends it if its time has passed and there is no timer to do it. Its caller holds mu; nobody waits for it yet.
func (l *lifetime) checkTime() (left time.Duration) {
	if l.state != going || l.timer != nil || l.deadline.IsZero() {
		return 0
	}
	if left = time.Until(l.deadline); left <= 0 {
		l.state = expired
	}
	return left
}

// watch has it end in time. Its caller holds mu.
func (l *lifetime) watch() {
	if left := l.checkTime(); left > 0 {
		l.timer = time.AfterFunc(left, l.expire)
	}
}

func (l *lifetime) expire() { l.end(expired) }

// cancel ends it, if it has not ended.
func (l *lifetime) cancel() { l.end(canceled) }

func (l *lifetime) end(as state) {
	l.mu.Lock()
	if l.checkTime(); l.state != going {
		l.mu.Unlock()
		return
	}
	l.state = as
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

// Deadline implements context.Context.
func (l *lifetime) Deadline() (time.Time, bool) { return l.deadline, !l.deadline.IsZero() }

// Done implements context.Context.
func (l *lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.watch()
		l.done = make(chan struct{})
		if l.state != going {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context.
func (l *lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkTime()
	switch l.state {
	case canceled:
		return context.Canceled
	case expired:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// Value implements context.Context.
func (l *lifetime) Value(key any) any { return l.values.Value(key) }

// String is for who prints it: fmt would read what others write meanwhile.
func (*lifetime) String() string { return "vehicle's context" }

// AfterFunc is what package context looks for in a context that is not its own: f is called when this one ends. There is
// room for one f, such as gRPC's. Any other, and gRPC's below an interceptor that adds values, costs a goroutine.
func (l *lifetime) AfterFunc(f func()) (stop func() bool) {
	if l.adopt(f) {
		return l.forget
	}
	return context.AfterFunc(struct{ context.Context }{l}, f)
}

func (l *lifetime) adopt(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watch(); l.given || l.state != going {
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
