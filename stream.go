package vehicle

import (
	"context"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/lastly"
	"github.com/sovd-go/vehicle/internal/sinkcall"
	"github.com/sovd-go/vehicle/internal/within"
)

// Stream is one command and its answer, as it comes in. [Client.Stream] makes it; its loop runs it:
//
//	stream := client.Stream(ctx, cmd)
//	for chunk, err := range stream.Chunks() {
//		if err != nil {
//			return err
//		}
//		show(chunk)
//	}
type Stream struct {
	client *Client
	ctx    context.Context //nolint:containedctx // the loop that runs the command has no ctx of its own
	cmd    Command
	call   *callConfig
	err    error // what was wrong with the options
	unseen bool  // nobody looks at the chunks: [Client.Execute]'s
	used   atomic.Bool
	result atomic.Pointer[Result]
}

// Chunks runs the command and yields its chunks in order, each after the sinks took it. An error is
// yielded once and last, and is an *[Error]. Nothing starts before the loop does; breaking out ends
// the command, with [ErrCanceled] unless the final chunk has been seen. When the loop is over the sinks have got End.
//
// The iterator is single-use: a command runs once. Using it again yields [ErrInvalidCommand].
// While the loop's body runs, the client goes on receiving with sinks, and without them a long answer: up to 4,096 chunks or
// 4 MiB. Then HTTP/2's flow control slows the vehicle.
func (s *Stream) Chunks() iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		if !s.used.CompareAndSwap(false, true) {
			e := newError(ErrInvalidCommand, "its Stream has been used: Chunks runs a command once", nil)
			e.CommandID, e.VehicleID, e.Name = s.cmd.ID, s.cmd.VehicleID, s.cmd.Name // which may have run: MayHaveRun stays true
			yield(Chunk{}, e)
			return
		}
		if left := s.run(yield); left {
			return
		}
		if err := s.result.Load().Err; err != nil {
			yield(Chunk{}, err)
		}
	}
}

// toEnd runs the command.
func (s *Stream) toEnd() {
	for range s.Chunks() { // the sinks do the work
	}
}

// Result says how the command ended. It is nil until the loop over [Stream.Chunks] has ended. It is safe for
// concurrent use.
func (s *Stream) Result() *Result { return s.result.Load() }

// run runs the command. It says whether the caller left the loop.
func (s *Stream) run(yield func(Chunk, error) bool) (left bool) {
	r := newRun(s)
	defer func() { s.result.Store(r.result) }()
	defer r.settle()
	failure := r.start(s)
	if failure == nil {
		failure, left = r.loop(yield)
	}
	r.failure, r.returned = failure, true
	return left
}

// run is one command under way. It belongs to the goroutine of the loop, until [Client.Close] takes it over
// while the loop's body runs.
type run struct {
	client   *Client
	ctx      context.Context         //nolint:containedctx // the command's, for as long as it runs
	cancel   context.CancelCauseFunc // of ctx; nil: that is ending
	unfollow func() bool             // stops following the caller's context; nil: that never ends
	ending   ending
	cmd      prepared
	call     *callConfig

	sinks    delivery
	order    sequencer
	attempts attempts
	wire     codec
	receiver receiver
	from     source // nil until there is something to receive

	startedAt time.Time
	delivered int
	seen      bool         // the caller has seen the final chunk
	returned  bool         // and did not panic, or end its goroutine
	tagged    bool         // the observers know of the command
	over      bool         // the sinks have got End; guarded by the client's mutex
	unseen    bool         // nobody looks at the chunks
	turn      atomic.Int32 // whose the command is: one of the constants below
	failure   *Error
	result    *Result // the sinks may be told of it with the final chunk
}

// Whose a run is.
const (
	ours     int32 = iota // the loop's goroutine is in this package
	theirs                // the loop's goroutine is in the caller's body
	takenFor              // Close, or settle, is ending the command
)

func newRun(s *Stream) *run {
	r := &run{client: s.client, call: s.call, unseen: s.unseen, startedAt: time.Now(), ending: ending{Context: s.ctx}}
	r.ctx = &r.ending
	if len(s.call.sinks) > 0 { // they may make others from it
		r.ctx, r.cancel = context.WithCancelCause(s.ctx)
	}
	return r
}

// start checks the command, tells the sinks, and prepares to receive.
func (r *run) start(s *Stream) *Error {
	var err error
	if r.cmd, err = prepare(s.cmd); err == nil {
		err = s.err
	}
	switch {
	case err != nil:
		return newError(ErrInvalidCommand, foreign.Text(strings.TrimPrefix(err.Error(), "vehicle: ")), err)
	case ended(r.ctx):
		return contextError(r.ctx, "before it began", nil)
	}
	if e := r.client.register(r); e != nil {
		return e
	}
	log := commandLog{logger: r.client.log, cmd: &r.cmd.Command}
	r.sinks.sinks, r.sinks.log = r.call.sinks, log
	r.order.init(r.call.reorderWindow, r.call.resume)
	switch {
	case len(r.call.observers) > 0:
		r.ctx = r.call.observers.tagCommand(r.ctx, r.cmd.Command, log)
		r.tagged = true
	case len(r.call.sinks) > 0:
		r.ctx = sinkcall.Unreported(r.ctx)
	}
	if e := r.sinks.begin(r.ctx, r.cmd.Command); e != nil {
		return e
	}
	r.wire.init(&r.client.config, r.cmd.request)
	r.attempts = attempts{
		ctx: withMetadata(r.ctx, r.call.metadata), call: r.call,
		order: &r.order, wire: &r.wire, sinks: &r.sinks, end: &r.ending, client: r.client,
	}
	if s.ctx.Done() != nil {
		r.unfollow = context.AfterFunc(s.ctx, r.callerEnded)
	}
	r.listen()
	return nil
}

// callerEnded is called in a goroutine of its own.
func (r *run) callerEnded() {
	if r.cancel != nil {
		<-r.ctx.Done() // its parent tells it in this moment
	}
	r.ending.end(nil)
}

// stop ends the command's context, and the attempt that is under way. Anyone may call it.
func (r *run) stop(cause error) {
	if r.cancel != nil {
		r.cancel(cause)
	}
	r.ending.end(cause)
}

// listen sets up where the chunks come from. Without sinks this goroutine receives them, and for a long answer another one does
// while this one checks them. With sinks a pump does, but begins only once the first chunks have come, if messages may come in bundles.
func (r *run) listen() {
	r.receiver = receiver{cmd: &r.cmd, attempts: &r.attempts, wire: &r.wire, until: r.call.aheadAfter}
	r.receiver.ready = r.receiver.room[:0]
	r.from = &r.receiver
	if len(r.call.sinks) > 0 {
		r.receiver.until = never
		if r.client.config.bundle == 0 {
			r.pump(nil)
		}
	}
}

// pump has a goroutine receive while the sinks write.
func (r *run) pump(first []Chunk) {
	pump := newPump(&r.receiver, first)
	r.from = pump
	r.client.spawn(pump.run)
}

// receiveMore is for an answer that does not end with the first chunks. Most are short, come in one bundle, and need no pump. It returns the first
// chunks, and what else has come by now.
func (r *run) receiveMore(first []Chunk) ([]Chunk, *Error) {
	r.pump(first)
	runtime.Gosched()
	return r.from.receive()
}

// loop delivers chunks until the answer is complete, and says whether the caller left.
func (r *run) loop(yield func(Chunk, error) bool) (_ *Error, left bool) {
	for {
		if r.ctx.Err() != nil { // the body may have done it: then it sees nothing more
			return contextError(r.ctx, "", nil), false
		}
		batch, failure := r.from.receive()
		if failure == nil && len(r.call.sinks) > 0 && r.from == source(&r.receiver) && !r.order.complete {
			batch, failure = r.receiveMore(batch)
		}
		if len(batch) > 0 {
			if err := r.write(batch); err != nil {
				return err, false
			}
			if r.unseen && batch[len(batch)-1].Final {
				r.seen = true
				return nil, false
			}
		}
		for i := range batch {
			if i > 0 && r.ctx.Err() != nil {
				return contextError(r.ctx, "", nil), false
			}
			more, err := r.yield(yield, &batch[i])
			switch {
			case err != nil:
				return err, !more
			case r.seen:
				return nil, !more
			case !more:
				return newError(ErrCanceled, "the caller left the loop before the final chunk", context.Canceled), true
			}
		}
		switch {
		case failure == nil:
		case len(batch) > 0 && r.ctx.Err() != nil: // the body may have done it
			return contextError(r.ctx, "", nil), false
		default:
			return failure, false
		}
	}
}

// write gives a batch to the sinks, within what is left of the attempt's time. Time that ran out before is not the
// sinks' doing: then they get as much again.
func (r *run) write(batch []Chunk) *Error {
	if len(r.call.sinks) > 0 {
		limit, cancel := r.ctx, func() {}
		if d := r.call.attemptTimeout; d > 0 {
			until := time.Unix(0, r.attempts.until.Load())
			if now := time.Now(); !until.After(now) {
				until = now.Add(d)
			}
			limit, cancel = context.WithDeadline(r.ctx, until)
		}
		defer cancel()
		var teller lastly.Teller
		if r.unseen && batch[len(batch)-1].Final { // nothing but a sink can make it fail any more
			res := r.completed(r.delivered + len(batch))
			r.result = &res
			teller = lastly.NewTeller(r.result)
		}
		if err := r.sinks.write(r.ctx, limit, batch, teller); err != nil {
			return err
		}
	}
	r.delivered += len(batch)
	return nil
}

// yield hands a chunk to the loop's body. Meanwhile Close may end the command; its error is then returned.
func (r *run) yield(yield func(Chunk, error) bool, chunk *Chunk) (more bool, _ *Error) {
	r.seen = chunk.Final
	r.turn.Store(theirs)
	if r.client.closed.Load() { // Close may have looked before it was their turn
		if !r.seen && r.turn.CompareAndSwap(theirs, ours) {
			return true, newError(ErrClosed, "", nil)
		}
		r.takeOver()
	}
	more = yield(*chunk, nil)
	if !r.turn.CompareAndSwap(theirs, ours) {
		r.client.await(r)
		return more, r.failure
	}
	return more, nil
}

// settle ends the command, if Close has not. It is deferred: the loop's body may have panicked, or ended its goroutine.
func (r *run) settle() {
	switch turn := r.turn.Swap(takenFor); {
	case turn == takenFor:
		r.client.await(r)
		return
	case !r.returned && (turn != theirs || !r.seen):
		r.failure = newError(ErrCanceled, "its goroutine panicked or ended", context.Canceled)
	}
	r.end()
}

// takeOver ends the command on behalf of Close, if the loop's goroutine is in its body.
func (r *run) takeOver() {
	if !r.turn.CompareAndSwap(theirs, takenFor) {
		return
	}
	r.failure = nil
	if !r.seen {
		r.failure = newError(ErrClosed, "", nil)
	}
	r.end()
}

// end stops receiving, makes the Result, and tells the sinks. It is called once.
func (r *run) end() {
	defer r.client.forget(r)
	r.stop(context.Canceled)
	if r.unfollow != nil {
		r.unfollow()
	}
	if r.from != nil {
		r.from.stop()
	}
	res := r.completed(r.delivered)
	if r.failure == nil && r.result != nil {
		res = *r.result // as the sinks were told
	}
	if r.failure != nil {
		r.describe(r.failure)
		res.Status, res.Err = StatusFailed, r.failure
	}
	r.sinks.end(r.ctx, res, r.describe, func(res Result) {
		r.result = &res
		if r.tagged {
			r.call.observers.observe(r.ctx, CommandEnded{res}, r.sinks.log)
		}
	})
}

// completed is the Result of a command that completes now.
func (r *run) completed(chunks int) Result {
	return Result{
		Command:    r.cmd.Command,
		Status:     StatusCompleted,
		Chunks:     chunks,
		Replayed:   r.order.replayed,
		Attempts:   r.attempts.made,
		StartedAt:  r.startedAt,
		FinishedAt: time.Now(),
	}
}

// commandLog adds to each record which command it is about.
type commandLog struct {
	logger *slog.Logger
	cmd    *Command
}

// log calls the caller's handler, which may call Close; what it may not do is harm a command, by a panic.
func (l commandLog) log(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	_ = within.Call(func() error {
		if !l.logger.Enabled(ctx, level) {
			return nil
		}
		if l.cmd != nil { // nil: about no command, but a client
			attrs = append(attrs, slog.String("command", foreign.Text(l.cmd.Name)),
				slog.String("command_id", l.cmd.ID.String()), slog.String("vehicle_id", l.cmd.VehicleID.String()))
		}
		l.logger.LogAttrs(ctx, level, message, attrs...)
		return nil
	})
}

// describe completes an error with what it is about.
func (r *run) describe(e *Error) {
	e.CommandID, e.VehicleID, e.Name = r.cmd.ID, r.cmd.VehicleID, r.cmd.Name
	e.Attempts, e.Chunks = r.attempts.made, r.delivered
	e.neverRan = !r.attempts.mayHaveRun
}
