package pgsink

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/internal/sinkcall"
)

// writer does operations. It takes all that wait and does them in one transaction (group commit): while that is under way the next
// ones gather, for whichever writer is done first. So groups grow with the load and nobody waits for a timer, nor for
// the long transaction of a neighbour. Its goroutine runs only while there is something to do.
//
// An operation that has to wait (for a server that is down, for a row that somebody has locked) goes back
// into the queue. Operations of one command keep their order.
type writer struct {
	sink *Sink
	wake chan struct{} // something was added to the queue

	// Of Sink.mu.
	serving bool
	busy    bool  // with its group, or paused
	group   []*op // what it has taken, and is not done with

	// Of the goroutine.
	failures int       // in a row
	paused   time.Time // until when: the server is down
	yielding bool      // an operation was tried that had got stuck: it is the turn of those that have not
}

// Limits in time.
const (
	acquireTime = 5 * time.Second  // for a connection of the pool
	attemptTime = 15 * time.Second // for a transaction; a server that vanished says nothing
	minPause    = 10 * time.Millisecond
	maxPause    = time.Second
	linger      = time.Second // of a writer without work
)

// maxOps bounds how many commands share a transaction, and so its share of a failure.
const maxOps = 512

// submit gives an operation to the writers.
func (s *Sink) submit(o *op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.enqueue(o)
	return nil
}

// enqueue is submit for who holds the lock, and for what still has to be done after Close.
func (s *Sink) enqueue(o *op) {
	if o.until.IsZero() {
		o.until = time.Now().Add(s.config.retryFor)
	}
	s.queue = append(s.queue, o)
	s.call()
}

// call has a writer that has nothing to do look into the queue, or starts one. Those that are busy look when they are done.
func (s *Sink) call() {
	for _, w := range s.writers {
		if w.serving && !w.busy {
			w.rouse()
			return
		}
	}
	for _, w := range s.writers {
		if !w.serving {
			w.serving = true
			s.serving.Go(w.serve)
			return
		}
	}
}

// rouse ends a rest.
func (w *writer) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// serve works until the queue has been empty for a while. Not to stop at once spares a lone command the growing
// of three new stacks.
func (w *writer) serve() {
	idle, returns := false, false
	defer func() {
		if !returns { // a hook or a tracer of the pool's has ended this goroutine, as t.FailNow does
			w.giveUp()
		}
	}()
	for {
		runtime.Gosched() // who has something to add and could run, shall come along
		group, wait, more := w.take(idle)
		idle = idle && len(group) == 0
		switch {
		case len(group) > 0 && group[0].ahead:
			w.sink.tryAhead(group[0])
			w.putBack(group, nil)
		case len(group) > 0:
			w.yielding = group[0].tries > 0
			w.try(group)
		case more && w.yielding: // to nobody
			w.yielding = false
		case more:
			idle = w.rest(wait)
		default:
			returns = true
			return
		}
	}
}

// giveUp tells the callers that what they asked for is not done, and leaves what waits to a new goroutine.
func (w *writer) giveUp() {
	s := w.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range w.group {
		o.finish(errNoReturn)
	}
	w.group, w.busy, w.serving = nil, false, false
	if len(s.queue) > 0 {
		s.call()
	}
}

// take removes from the queue what shall be done now, and gives up what nobody waits for any more. Where that is
// nothing it says how long to wait for more, unless nothing more is to come: the Sink is closed, or was idle.
func (w *writer) take(idle bool) (group []*op, wait time.Duration, more bool) {
	s := w.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	wait = max(w.paused.Sub(now), 0)
	paused := wait > 0
	if !paused {
		wait = linger
	}
	limit, rows, bytes := maxOps, 0, 0 // of the group
	busy := s.underway()               // and what is before it in the queue
	var rest []*op
	free := 0      // of rest, at the least: what no operation before it is in the way of
	fresh := false // one of them has not failed, and need not wait for the end of a pause
	for i, o := range s.queue {
		if len(group) == limit {
			rest, free = append(rest, s.queue[i:]...), free+1
			break
		}
		switch {
		case s.ctx.Err() != nil:
			o.finish(ErrClosed)
			continue
		case o.left():
			o.finish(left(o.ctx, o.last))
			continue
		case o.after != nil && o.after.err != nil:
			o.finish(o.after.err)
			continue
		case o.last != nil && now.After(o.until):
			o.finish(retriedFor(s.config.retryFor, o.last))
			continue
		}
		isFree := o.ahead || !busy[o.command]
		ready := !paused && isFree && len(group) < min(limit, o.most()) && !now.Before(o.notBefore) && (o.tries == 0 || !w.yielding) &&
			(len(group) == 0 || o.rows == nil || rows+len(o.rows.all) <= maxRows && bytes+o.rows.bytes <= maxBytes)
		if o.settle == "" { // who removes a claim's token is in nobody's way
			busy[o.command] = true
		}
		if !ready {
			if !paused && o.notBefore.After(now) {
				wait = min(wait, o.notBefore.Sub(now))
			}
			if isFree {
				free++
				fresh = fresh || o.last == nil
			}
			rest = append(rest, o)
			continue
		}
		if o.rows != nil {
			rows += len(o.rows.all)
			bytes += o.rows.bytes
		}
		group = append(group, o)
		limit = min(limit, o.most())
	}
	s.queue, w.group, w.busy = rest, group, len(group) > 0 || paused
	w.serving = len(group) > 0 || free > 0 || !idle && !s.closed
	if len(group) > 0 && free > 0 || paused && fresh {
		s.call()
	}
	return group, wait, w.serving
}

// underway are the commands of what the writers have taken. The map is the Sink's, and used again.
func (s *Sink) underway() map[uuid.UUID]bool {
	clear(s.commands)
	for _, w := range s.writers {
		for _, o := range w.group {
			s.commands[o.command] = true
		}
	}
	return s.commands
}

// putBack is for what is done of the group, and returns what is to be done again, or next, to the head of the queue.
func (w *writer) putBack(done, again []*op) {
	s := w.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(again) > 0 {
		s.queue = slices.Concat(again, s.queue)
	}
	w.release(done)
}

// release takes operations out of the group, for who holds Sink.mu. While the rest of the group is under way, another writer may take what
// comes after them.
func (w *writer) release(done []*op) {
	switch len(done) {
	case len(w.group): // nearly always
		w.group = nil
		return
	case 0:
		return
	}
	w.group = slices.DeleteFunc(slices.Clone(w.group), func(o *op) bool { return slices.Contains(done, o) })
	if len(w.sink.queue) > 0 {
		w.sink.call()
	}
}

// rest waits for d, or for something new to do, or for the end. It says whether it waited for all of d.
func (w *writer) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.wake:
	case <-w.sink.ctx.Done():
	}
	return false
}

// try does the operations in one transaction. Where one of them makes it fail, it divides them until that one
// is alone. Those that are to be tried again later go back into the queue.
func (w *writer) try(ops []*op) {
	if len(ops) == 0 {
		return
	}
	var outcomes map[*op]error
	var alive bool
	err := sinkcall.Call(func() (err error) { // the pool's hooks and tracers are the application's
		outcomes, alive, err = w.sink.transact(ops)
		return err
	})
	if err == nil {
		w.failures = 0
		w.putBack(ops, w.sink.finish(ops, outcomes))
		return
	}
	verdict := judge(err, alive)
	err = newDBError(err)
	first := markRepeated(ops)
	switch o := ops[0]; {
	case first && isUniqueViolation(err): // somebody else had written these rows
		w.try(ops)
	case verdict == down, verdict == contended:
		w.failures++
		w.paused = time.Now().Add(pause(w.failures))
		w.putBack(ops, w.sink.retry(ops, err, time.Time{}))
	case verdict == hopeless:
		w.fail(ops, err)
	case len(ops) > 1:
		half := len(ops) / 2
		w.try(w.waitedFor(ops[:half], err))
		if time.Now().Before(w.paused) {
			w.putBack(ops[half:], ops[half:])
			return
		}
		w.try(w.waitedFor(ops[half:], err))
	case verdict == stuck:
		o.tries++
		w.putBack(ops, w.sink.retry(ops, err, time.Now().Add(pause(o.tries))))
	case isJSONError(err) && o.rows != nil && !o.rows.wrapped:
		o.rows.wrapAll()
		w.try(ops)
	default:
		w.fail(ops, err)
	}
}

// waitedFor leaves out the operations whose callers have left: each part may take as long to fail as the whole did.
func (w *writer) waitedFor(ops []*op, last error) (those []*op) {
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	var gone []*op
	for _, o := range ops {
		if o.left() {
			o.finish(left(o.ctx, last))
			gone = append(gone, o)
			continue
		}
		those = append(those, o)
	}
	w.release(gone)
	return those
}

// markRepeated notes that rows may be there when they are written again. It says whether that is news.
func markRepeated(ops []*op) (news bool) {
	for _, o := range ops {
		if o.rows != nil && !o.rows.repeated {
			o.rows.repeated, news = true, true
			if o.failed != nil {
				close(o.failed)
			}
		}
	}
	return news
}

// pause is how long to wait after n failures in a row: twice as long each time, and between half and all of it, so that
// several processes do not come back at once.
func pause(n int) time.Duration {
	d := min(minPause<<min(n-1, 10), maxPause)
	return d/2 + rand.N(d/2)
}

// finish tells the callers what came of a transaction that was committed; no outcomes means that all went well. It
// returns what has to be done next: operations in another way, and the ends of commands that began in vain.
func (s *Sink) finish(ops []*op, outcomes map[*op]error) (next []*op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range ops {
		err := outcomes[o]
		if err == errThere { //nolint:errorlint // it is never wrapped
			o.begin.there, o.begin.again = true, true
			next = append(next, o)
			continue
		}
		if o.begin != nil && err == nil {
			if o.begin.token != "" {
				s.settleClaim(o)
			}
			if o.abandoned {
				next = append(next, s.endInVain(o))
			}
		}
		o.finish(err)
	}
	return next
}

// settleClaim has the token of a claim removed from the command's row.
func (s *Sink) settleClaim(o *op) {
	s.enqueue(&op{command: o.command, settle: o.begin.token, ctx: s.ctx, done: make(chan struct{})})
}

// retry notes why the operations failed and returns those that may be tried again.
func (s *Sink) retry(ops []*op, err error, notBefore time.Time) []*op {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range ops {
		o.last, o.notBefore = err, notBefore
		if isAttemptTime(err) {
			o.company = max(len(ops)/2, 1) // one of them may be what takes so long
		}
	}
	return ops
}

// fail tells the callers. Nothing is to be done again.
func (w *writer) fail(ops []*op, err error) {
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	for _, o := range ops {
		o.finish(err)
	}
	w.release(ops)
}

// most is how many operations may share a transaction with this one, itself included.
func (o *op) most() int {
	switch {
	case o.tries > 0, o.ahead:
		return 1
	case o.company > 0:
		return o.company
	default:
		return maxOps
	}
}

// left says whether nobody waits for the operation any more, and it need not be done to be sure of it.
func (o *op) left() bool { return o.ctx.Err() != nil && (o.begin == nil || !o.begin.again) }

// finish is called once, by who holds Sink.mu.
func (o *op) finish(err error) {
	o.err = err
	close(o.done)
}
