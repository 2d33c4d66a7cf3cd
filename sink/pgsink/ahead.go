package pgsink

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle/internal/within"
)

// A large batch is stored in two transactions at once where another writer has nothing to do: the server works on the second
// half while it works on the first. The second is committed after the first, so that a reader sees the beginning of an answer
// or all of it, and under the same lock as any other operation of the command. Where anything is in its way it is
// rolled back, and the half is stored after the first as if it had not been tried.

// What a half is worth a commit of its own: this many rows, or bytes.
const (
	minHalfRows  = 512
	minHalfBytes = 256 << 10
)

// undividedFor is how long batches are left whole after a half was rolled back. What was in its way may be there for good, such as a
// trigger by which all rows of a command change the same one.
const undividedFor = time.Minute

// minWaitAhead is how long a second half that is written waits for the first at least; more where its own rows took long. Its writer has
// other things to do. And the first half may be waiting for it: behind a PgBouncer that has one connection to the server, say.
const minWaitAhead = 100 * time.Millisecond

// divide takes the first half of a large batch out of its operation and puts it in its place. The operation itself, and so its
// caller, goes to a writer that is idle. It is called when the first half has its connection of the pool: two that wait for one must not wait for each
// other. The halves may get in each other's way, and in that of the End that follows when the caller has left: who
// allows little time for retries has no batch divided. Nor is what has failed: so ops is the whole group, in the writer's own
// memory, which has the half from then on.
func (s *Sink) divide(ops []*op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, o := range ops {
		if !o.divisible() || o.ctx.Err() != nil || time.Now().Before(s.undivided) || s.config.retryFor < attemptTime {
			continue
		}
		if len(s.queue) == 0 && slices.ContainsFunc(s.writers, func(w *writer) bool { return !w.busy }) {
			ops[i] = o.split()
			s.enqueue(o)
		}
	}
}

func (o *op) divisible() bool {
	return o.rows != nil && !o.rows.repeated && len(o.rows.all) > 1 &&
		(len(o.rows.all) >= 2*minHalfRows || o.rows.bytes >= 2*minHalfBytes)
}

// split makes an operation of the first half of the rows. What o has left comes after it.
func (o *op) split() (first *op) {
	rows := *o.rows
	rows.all = rows.all[:len(rows.all)/2]
	rows.bytes = 0
	for i := range rows.all {
		rows.bytes += len(rows.all[i].payload.String)
	}
	first = &op{command: o.command, rows: &rows, ctx: o.ctx, until: o.until, done: make(chan struct{}), failed: make(chan struct{})}
	o.rows.all, o.rows.bytes = o.rows.all[len(rows.all):], o.rows.bytes-rows.bytes
	o.rows.mark.stored = true
	if o.end != nil {
		o.end.mark.stored, o.end.fresh = true, false
	}
	o.after, o.ahead = first, true
	return first
}

// tryAhead stores the second half of a batch, or leaves it to whoever takes it after the first.
func (s *Sink) tryAhead(o *op) {
	err := within.Call(func() error { return s.transactAhead(o) }) // the pool's hooks and tracers are the application's
	s.mu.Lock()
	defer s.mu.Unlock()
	o.ahead = false
	if err == nil {
		o.finish(nil)
		return
	}
	if o.ctx.Err() == nil && s.ctx.Err() == nil {
		s.undivided = time.Now().Add(undividedFor)
	}
	s.enqueue(o)
}

// errGaveWay rolls the second half back.
var errGaveWay = errors.New("pgsink: the second half of a batch gave way")

func (s *Sink) transactAhead(o *op) error {
	conn, err := s.acquire()
	if err != nil {
		return err
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeoutCause(s.ctx, attemptTime, errAttemptTime)
	defer cancel()
	if err := s.storeAhead(ctx, conn, o); err != nil {
		s.rollback(ctx, conn)
		return err
	}
	return nil
}

func (s *Sink) storeAhead(ctx context.Context, conn *pgxpool.Conn, o *op) error {
	t := &transaction{queries: &s.queries, writes: []*op{o}}
	t.batch.Queue(t.queries.begin)
	t.batch.Queue(t.queries.patienceAhead)
	args, _ := t.rowColumns()
	start := time.Now()
	t.batch.Queue(t.queries.writeFirst, args...)
	if err := t.run(ctx, conn); err != nil {
		return err
	}
	patience := time.NewTimer(s.waitAhead + 2*time.Since(start))
	defer patience.Stop()
	select {
	case <-o.after.done:
	case <-o.after.failed: // perhaps because of what this transaction has locked
		return errGaveWay
	case <-patience.C:
		return errGaveWay
	case <-o.ctx.Done():
		return errGaveWay
	case <-ctx.Done():
		return ctx.Err()
	}

	t = &transaction{queries: &s.queries}
	if o.end != nil {
		t.ends = []*op{o}
	}
	mine := 0
	t.batch.Queue(t.queries.lock, column([]*op{o}, command))
	t.queueMine(o, &mine)
	t.queueEnds()
	if err := t.run(ctx, conn); err != nil {
		return err
	}
	// Who has left comes back with an End, which has to be the last word. It waits for the lock if it comes now.
	if mine != 1 || t.ended != len(t.ends) || s.hasLeft(o) {
		return errGaveWay
	}
	_, err := conn.Exec(ctx, t.queries.commit)
	return err
}

func (s *Sink) hasLeft(o *op) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return o.abandoned || o.after.err != nil
}

// halfStored says whether the first half of what failed is stored.
func (s *Sink) halfStored(o *op) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.after == nil {
		return false
	}
	select {
	case <-o.after.done:
		return o.after.err == nil
	default:
		return false
	}
}
