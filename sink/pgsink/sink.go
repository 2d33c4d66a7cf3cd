package pgsink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
)

// Sink is a [vehicle.Sink] that stores commands in PostgreSQL. It is safe for concurrent use; what its calls
// return has been committed. Close it after the clients that use it.
//
// A call whose ctx ends returns at once. What it asked for may then still be committed: it does no harm,
// because the End that follows, or the next run, puts things right.
type Sink struct {
	pool      *pgxpool.Pool
	config    config
	queries   queries
	waitAhead time.Duration // minWaitAhead, but for tests

	// there says that the rows of the last commands that began were there, or some. Where nobody inserts them, and no
	// command is run twice, a command can begin with less.
	there atomic.Bool

	// ctx is that of the transactions: they serve several callers each, and end when Close gives up.
	ctx  context.Context
	stop context.CancelFunc

	mu        sync.Mutex // never held across I/O
	runs      map[uuid.UUID]*run
	writers   []*writer
	queue     []*op              // what no writer has taken
	commands  map[uuid.UUID]bool // see underway
	undivided time.Time          // until when no batch is divided
	closed    bool
	serving   sync.WaitGroup // of the writers' goroutines
}

var _ vehicle.Sink = (*Sink)(nil)

// run is one run of a command in this process. Its fields belong to the caller of Begin, Write and End, who
// calls one after the other.
type run struct {
	mark     mark
	fresh    bool            // the run has inserted the command's row
	foretold *ending         // what was asked for with the final chunk, if anything
	ended    *vehicle.Result // and this is stored
}

// New makes a Sink on pool, which stays the caller's to close. It does no network I/O; the Sink uses as many of the
// pool's connections as [WithWriters] says, and only while there is something to write; [Sink.History] and [Sink.Recover] take
// one more each, while they run.
func New(pool *pgxpool.Pool, opts ...Option) *Sink {
	s := &Sink{
		pool: pool, config: newConfig(opts), waitAhead: minWaitAhead,
		runs: make(map[uuid.UUID]*run), commands: make(map[uuid.UUID]bool),
	}
	s.queries = newQueries(s.config.schema)
	s.ctx, s.stop = context.WithCancel(context.Background())
	for range s.config.writers {
		s.writers = append(s.writers, &writer{sink: s, wake: make(chan struct{}, 1)})
	}
	return s
}

// Begin moves the command's row to in_progress, whatever it was before (with [WithClaim], only from pending), and drops the chunks
// of earlier runs. It inserts the row where there is none. It fails with [ErrRunning] or [ErrClaimed], for a name of more
// than 100 characters, and where the database does not know the vehicle or the user.
func (s *Sink) Begin(ctx context.Context, cmd vehicle.Command) error {
	o, err := newBegin(cmd, s.config.claim)
	if err != nil {
		return err
	}
	o.begin.there = s.config.claim || s.there.Load()
	r := &run{mark: unmarked(cmd.ID)}
	if err := s.register(cmd.ID, r); err != nil {
		return err
	}
	if err := s.do(ctx, o); err != nil {
		s.unregister(cmd.ID, r)
		return err
	}
	r.fresh = !o.begin.there
	return nil
}

// Write stores the chunks. A large batch is stored in several transactions, its beginning first.
func (s *Sink) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	id := chunks[0].CommandID
	r, err := s.running(id)
	if err != nil {
		return err
	}
	for len(chunks) > 0 {
		o, n, err := newWrite(id, chunks, &r.mark)
		if err != nil {
			return err
		}
		var end *vehicle.Result
		if n == len(chunks) && chunks[n-1].Final {
			end = foretold(ctx, id)
		}
		if end != nil {
			o.end = newEnding(*end, r.mark)
			o.end.fresh = r.fresh && !r.mark.stored && end.Status == vehicle.StatusCompleted
			r.foretold = o.end
		}
		if err := s.do(ctx, o); err != nil {
			r.mark.stored = r.mark.stored || s.halfStored(o)
			return err
		}
		r.mark.stored, r.ended = true, end
		chunks = chunks[n:]
	}
	if told := lastly.Told(ctx, s); told != nil {
		told.Done = r.ended != nil
	}
	return nil
}

// foretold is the end that can be stored with the final chunk, if it is known: a transaction less for each command.
func foretold(ctx context.Context, id uuid.UUID) *vehicle.Result {
	told := lastly.From(ctx)
	if told == nil {
		return nil
	}
	res, ok := told.Result.(*vehicle.Result)
	if !ok || res.Command.ID != id {
		return nil
	}
	return res
}

// End moves the command's row to completed or failed and adds a row to the audit trail.
func (s *Sink) End(ctx context.Context, res vehicle.Result) error {
	id := res.Command.ID
	r, err := s.running(id)
	if r == nil {
		return err
	}
	defer s.unregister(id, r)
	switch {
	case r.ended != nil && storedAs(res, *r.ended):
		return nil
	case err != nil:
		return err
	}
	o := newEnd(res, r.mark)
	o.end.revoked = r.foretold // a sink after this one failed, or this one did not get to know whether it had stored it
	return s.do(ctx, o)
}

// storedAs says whether two completed commands are stored as the same.
func storedAs(a, b vehicle.Result) bool {
	return a.Status == b.Status && a.Err == nil && b.Err == nil && a.FinishedAt.Equal(b.FinishedAt) &&
		a.Chunks == b.Chunks && a.Command.Name == b.Command.Name
}

// Close waits until all that was asked for is committed, and stops. Where ctx ends first, what is left is given up, its callers get
// [ErrClosed], and Close returns ctx's error. Begin, Write and End return ErrClosed afterwards; History and Recover do not need the
// Sink's writers, and go on. Close may be called twice. The pool stays open.
func (s *Sink) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, w := range s.writers {
		w.rouse()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serving.Wait()
	}()
	select {
	case <-done:
		s.stop()
		return nil
	case <-ctx.Done():
		s.stop()
		<-done
		return fmt.Errorf("pgsink: closed before everything was stored: %w", ctx.Err())
	}
}

func (s *Sink) register(id uuid.UUID, r *run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs[id] != nil {
		return ErrRunning
	}
	s.runs[id] = r
	return nil
}

func (s *Sink) unregister(id uuid.UUID, r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs[id] == r {
		delete(s.runs, id)
	}
}

func (s *Sink) running(id uuid.UUID) (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[id]
	switch {
	case s.closed:
		return r, ErrClosed
	case r == nil:
		return nil, fmt.Errorf("pgsink: command %s is not running here: it has not begun, or has ended", id)
	}
	return r, nil
}

// do has an operation done and waits until it is, or ctx ends.
func (s *Sink) do(ctx context.Context, o *op) error {
	if ctx.Err() != nil {
		return left(ctx, nil)
	}
	o.ctx = ctx
	if err := s.submit(o); err != nil {
		return err
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return s.abandon(o)
	}
}

// abandon leaves an operation to the writers.
func (s *Sink) abandon(o *op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	default:
		o.abandoned = true
		if o.last == nil && o.after != nil {
			return left(o.ctx, o.after.last)
		}
		return left(o.ctx, o.last)
	}
}

// endInVain ends a command whose Begin was committed when its caller had gone: nobody will call End. It is to come before
// whatever waits in the queue, such as the command's next Begin.
func (s *Sink) endInVain(o *op) *op {
	res := vehicle.Result{Command: o.begin.cmd, Status: vehicle.StatusFailed, Err: errGone}
	end := newEnd(res, unmarked(o.command))
	end.ctx = s.ctx // a transaction that hangs is not its last one
	end.until = time.Now().Add(s.config.retryFor)
	return end
}

var errGone = errors.New("canceled before the vehicle was asked")
