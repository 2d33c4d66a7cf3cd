package redissink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
)

// Sink publishes the events of commands. It is a [vehicle.Sink], made by [New], and may be used by several
// clients at once.
//
// A call returns when Redis has what it was given. The events of commands that run at the same time go to
// Redis together, in pipelines; those of one command stay in order. A connection that is lost, a
// restart and a failover are retried with a growing delay, see [WithRetryFor]; what Redis refuses is an
// error at once. Errors name the operation and the command, and hold no payloads.
type Sink struct {
	config config
	groups *groups

	buffers sync.Pool // of *[]byte

	mu     sync.Mutex
	runs   map[uuid.UUID]*run
	number int64 // of the last run
}

var _ vehicle.Sink = (*Sink)(nil)

// New makes a Sink that publishes through rdb: a *redis.Client (also one for Sentinel) or a
// *redis.ClusterClient. It connects to nothing. Closing rdb is the caller's, after the sink is no longer used.
//
// The client's own retries (MaxRetries) are counted inside those of the sink and may stay as they are.
// Leave its ReadTimeout on: without it a connection that is dead and not closed holds the commands that
// were sent over it until their own time is up.
func New(rdb redis.UniversalClient, opts ...Option) *Sink {
	c := config{retryFor: defaultRetryFor}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	return &Sink{config: c, groups: newGroups(rdb, pipelines), runs: make(map[uuid.UUID]*run)}
}

// pipelines is how many are under way at once, so that one is being written while Redis works on another. More
// make smaller groups.
const pipelines = 2

// run is one run of a command. Its fields are its calls', which come one after the other, and are made
// to: the command may have been started twice.
type run struct {
	id      uuid.UUID
	channel string
	stream  string
	number  int64    // of the stream's entries
	last    uint64   // the entry of the last event that Redis is known to have
	pending *request // its caller no longer waits; it may still be on its way
	busy    atomic.Bool
	ended   *vehicle.Result // what was published with the final chunk, if anything
	told    bool            // that may have been, whether or not it is known
	buffer  *[]byte         // of the call's requests; nil once one is left to itself
}

// Begin publishes no event. With streams it replaces what the command's stream has of an earlier run; where ctx ends meanwhile, an
// error event follows, since no End will.
func (s *Sink) Begin(ctx context.Context, cmd vehicle.Command) error {
	r := &run{id: cmd.ID, channel: channelOf(cmd.ID)}
	if s.config.streams {
		r.stream, r.number = streamOf(cmd.ID), s.nextNumber()
		if err := s.do(ctx, r, "resetting the stream", &beginning{run: r, ttl: s.config.ttl}); err != nil {
			return err
		}
	} else if err := s.closed(); err != nil {
		return &opError{op: "the beginning", commandID: cmd.ID, err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[cmd.ID] = r
	return nil
}

// nextNumber is the time, or later: a clock may stand still for a while, and two runs of one number are one to Redis.
func (s *Sink) nextNumber() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number = max(time.Now().UnixMicro(), s.number+1)
	return s.number
}

func (s *Sink) closed() error {
	select {
	case <-s.groups.closing:
		return ErrClosed
	default:
		return nil
	}
}

// Write publishes a response event for each chunk, and the command's end as well where nothing can come in between. If such a Write then
// fails because its answer was lost, a subscriber may see a status event and then the error event of the command.
// A stream loses the status again.
func (s *Sink) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	const op = "publishing the answer"
	r, err := s.running(chunks[0].CommandID)
	if err != nil {
		return &opError{op: op, commandID: chunks[0].CommandID, err: err}
	}
	defer r.busy.Store(false)
	defer s.release(r)
	if n := entryOf(chunks[0].Seq); n <= r.last || n > max(r.last, 1)+1 { // answers have no gaps, and begin with 0 or 1
		return &opError{op: op, commandID: r.id, err: ErrSuperseded}
	}
	told := lastly.Told(ctx, s)
	for len(chunks) > 0 {
		b := s.batch(r, len(chunks)+1)
		n := 0
		for n < len(chunks) && b.fits() {
			b.add(entryOf(chunks[n].Seq), responseEvent(chunks[n]))
			n++
		}
		var end *vehicle.Result
		if n == len(chunks) && chunks[n-1].Final && told != nil && told.Certain {
			end, _ = told.Result.(*vehicle.Result)
		}
		if end != nil {
			r.told = true
			b.add(endEntry, endEvent(*end))
		}
		if err := s.do(ctx, r, op, b.job()); err != nil {
			return err
		}
		if r.ended = end; end != nil {
			r.last = entryOf(chunks[n-1].Seq) // the end may be withdrawn
		}
		chunks = chunks[n:]
	}
	if told != nil {
		told.Done = r.ended != nil
	}
	return nil
}

// entryOf is a chunk's n in the stream. Sequence numbers are not negative.
func entryOf(seq int32) uint64 { return uint64(max(seq, 0)) + 1 }

// End publishes a status event where the command completed, and else an error event. That holds the
// text of an *[vehicle.Error]; of any other error it says only the kind.
func (s *Sink) End(ctx context.Context, res vehicle.Result) error {
	const op = "publishing the end"
	r, err := s.running(res.Command.ID)
	if err != nil {
		return &opError{op: op, commandID: res.Command.ID, err: err}
	}
	defer r.busy.Store(false)
	defer s.drop(r)
	defer s.release(r)
	if r.ended != nil && r.ended.Status == res.Status && r.ended.FinishedAt.Equal(res.FinishedAt) {
		return nil
	}
	b, entry := s.batch(r, 1), endEntry
	if r.told { // followers that have seen it are gone, and those that come must not see it
		b.withdrawn, entry = endEntry, endEntry+1
	}
	b.add(entry, endEvent(res))
	return s.do(ctx, r, op, b.job())
}

// running gives the command's run to one call at a time.
func (s *Sink) running(commandID uuid.UUID) (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[commandID]
	switch {
	case r == nil:
		return nil, errors.New("the command has not begun, or has ended")
	case !r.busy.CompareAndSwap(false, true):
		return nil, ErrSuperseded
	}
	return r, nil
}

func (s *Sink) drop(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs[r.id] == r {
		delete(s.runs, r.id)
	}
}

// Close makes further calls of Begin, Write and End fail with [ErrClosed] and waits until what is under way has been published. When
// ctx ends first, that is given up and Close returns ctx's error. It may be called twice and from
// anywhere. Close the vehicle client first: the commands that it ends still publish. A Sink that is
// idle holds nothing, and need not be closed.
func (s *Sink) Close(ctx context.Context) error { return s.groups.close(ctx) }

// do has a job done, if need be again.
func (s *Sink) do(ctx context.Context, r *run, op string, j job) error {
	if err := s.try(ctx, r, j); err != nil {
		return &opError{op: op, commandID: r.id, err: err}
	}
	return nil
}

func (s *Sink) try(ctx context.Context, r *run, j job) error {
	giveUp := time.Now().Add(s.config.retryFor)
	var delays *backoff.ExponentialBackOff // nil: nothing has failed
	var last error
	for {
		err := s.once(ctx, r, j)
		var delay time.Duration
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errAgain):
		case ctx.Err() != nil:
			return interrupted(ctx.Err(), last)
		case !transient(err):
			return err
		default:
			if delays == nil {
				delays = newDelays()
			}
			last, delay = err, delays.NextBackOff()
		}
		if last != nil && time.Until(giveUp) < delay {
			return fmt.Errorf("%w (retried for %v)", last, max(s.config.retryFor, 0))
		}
		if err := s.pause(ctx, delay); err != nil {
			return interrupted(err, last)
		}
	}
}

func newDelays() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(10*time.Millisecond),
		backoff.WithMaxInterval(time.Second),
		backoff.WithMaxElapsedTime(0), // the bound is ours
	)
}

// interrupted is err and, if there is any, what the job was suffering from at the time.
func interrupted(err, last error) error {
	if last == nil {
		return err
	}
	return fmt.Errorf("%w, after: %w", err, last)
}

// pause waits for d, unless ctx ends or the sink is closed.
func (s *Sink) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.groups.closing:
		return ErrClosed
	}
}

// once sends a job's commands with the next group.
func (s *Sink) once(ctx context.Context, r *run, j job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// What an earlier call left on its way comes first, or it would be published after its successor.
	if r.pending != nil {
		select {
		case <-r.pending.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.pending = nil
	}
	req := newRequest(j.commands(ctx))
	if b, ok := j.(*beginning); ok {
		req.inVain = func() *request { return b.inVain(req.cmds, s.config) }
	}
	if err := s.groups.submit(ctx, r.channel, req); err != nil {
		return err
	}
	select {
	case <-req.done:
	case <-ctx.Done():
		switch req.state.Swap(abandoned) {
		case finished:
			<-req.done
		case taken:
			r.pending = req
			fallthrough
		default:
			r.buffer = nil // the request may still read it
			return ctx.Err()
		}
	}
	if req.err != nil { // none of the commands has a result
		return req.err
	}
	return j.finish(req.cmds)
}
