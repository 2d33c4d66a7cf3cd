package vehicle

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// RetryPolicy says how often and when an attempt is repeated. The zero value of a field means its
// default; a negative one means none, and is an error of MaxDelay and Multiplier.
type RetryPolicy struct {
	// MaxRetries is how often an attempt is repeated after UNAVAILABLE, and after RESOURCE_EXHAUSTED
	// where the server said when (RetryInfo). Delivering a chunk starts the count again: a link that
	// keeps making progress keeps going. The default is 3.
	MaxRetries int
	// TimeoutRetries is how often an attempt is repeated after its own deadline or the idle timeout passed, or the
	// service answered DEADLINE_EXCEEDED. The default is 1.
	TimeoutRetries int
	// BaseDelay is the wait before the first retry; the default is 1 s.
	BaseDelay time.Duration
	// MaxDelay is the longest wait that the policy chooses; the default is 30 s, or BaseDelay where that is longer. A server that says
	// when to come back (RetryInfo, grpc-retry-pushback-ms) may ask for longer.
	MaxDelay time.Duration
	// Multiplier is by how much each wait is longer than the one before; the default is 2, the least 1.
	Multiplier float64
	// Jitter is the share of the delay that is random, 0 to 1: a wait of d is anything from
	// (1-Jitter)·d to (1+Jitter)·d, and no more than MaxDelay. The default is 0.2.
	Jitter float64
}

// ResumeMode says how an answer that broke off goes on after a retry.
type ResumeMode int

const (
	// ResumeVerified compares an answer that the vehicle sends again with the part that was delivered
	// (sequence number, payload, final flag), drops that part, and goes on. Where they differ, the
	// vehicle ran the command a second time: the command fails with [ErrReplayDiverged], since half of
	// each answer must not be passed off as one.
	ResumeVerified ResumeMode = iota
	// ResumeTrust drops by sequence number what was delivered, without comparing.
	ResumeTrust
	// ResumeNever retries only while no chunk has been delivered.
	ResumeNever
)

// freeRetries bounds the retries that cost no budget. A client with the default keepalive needs four for each
// connection, since gRPC doubles the interval each time.
const freeRetries = 64

func (m ResumeMode) validate() error {
	if m < ResumeVerified || m > ResumeNever {
		return fmt.Errorf("vehicle: WithResume(%d): want ResumeVerified, ResumeTrust or ResumeNever", int(m))
	}
	return nil
}

func (p RetryPolicy) validate() error {
	full := p.withDefaults()
	switch {
	case math.IsNaN(p.Multiplier) || math.IsInf(p.Multiplier, 0) || full.Multiplier < 1:
		return fmt.Errorf("vehicle: WithRetry: Multiplier %v: want 1 or more", p.Multiplier)
	case math.IsNaN(p.Jitter) || full.Jitter > 1:
		return fmt.Errorf("vehicle: WithRetry: Jitter %v: want 0 to 1", p.Jitter)
	case p.MaxDelay < 0, full.MaxDelay < full.BaseDelay:
		return fmt.Errorf("vehicle: WithRetry: MaxDelay %v is less than BaseDelay %v", p.MaxDelay, full.BaseDelay)
	}
	return nil
}

// withDefaults spells the policy out: zero fields get their defaults, negative ones become zero.
func (p RetryPolicy) withDefaults() RetryPolicy {
	p.MaxRetries = orDefault(p.MaxRetries, 3)
	p.TimeoutRetries = orDefault(p.TimeoutRetries, 1)
	p.BaseDelay = orDefault(p.BaseDelay, time.Second)
	p.MaxDelay = orDefault(p.MaxDelay, max(30*time.Second, p.BaseDelay))
	p.Multiplier = orDefault(p.Multiplier, 2)
	p.Jitter = orDefault(p.Jitter, 0.2)
	return p
}

func orDefault[T int | float64 | time.Duration](value, byDefault T) T {
	if value == 0 {
		return byDefault
	}
	return max(value, 0)
}

// schedule is the policy's delays: backoff/v4's, whose jitter is applied after its cap and whose own
// limit of 15 minutes is taken off. It belongs to one command.
func (p RetryPolicy) schedule() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.BaseDelay),
		backoff.WithMaxInterval(p.MaxDelay),
		backoff.WithMultiplier(p.Multiplier),
		backoff.WithRandomizationFactor(p.Jitter),
		backoff.WithMaxElapsedTime(0),
	)
}

// attempts is one command's RPC, asked again as often as its policy allows: one stream of messages, under which the
// attempts follow each other. Everything that knows what a chunk is stays above it, in the sequencer. It is used
// by one goroutine at a time.
type attempts struct {
	ctx    context.Context //nolint:containedctx // the command's
	call   *callConfig
	order  *sequencer
	wire   *codec
	sinks  *delivery
	end    *ending
	client *Client
	asked  time.Duration // when an attempt began, by the pool's clock: the first of those in a row that fail by handshakes
	until  atomic.Int64  // the current attempt's deadline in Unix nanoseconds; 0: none

	current    *attempt // nil: none is open
	first      attempt
	made       int
	mayHaveRun bool
	free       int32 // of freeRetries

	delivered int                         // the sequencer's count when the budgets below were last full
	spent     int32                       // of MaxRetries
	timeouts  int32                       // of TimeoutRetries
	delays    *backoff.ExponentialBackOff // nil: from the base delay
}

// receive receives the next message into wire's, from however many attempts it takes. Its errors are io.EOF, where the
// server ended the stream normally, and *Error.
func (a *attempts) receive() error {
	for {
		var err error
		if a.current == nil {
			err = a.open()
		}
		if err == nil {
			err = a.current.receive(a.wire, a.call.idleTimeout)
		}
		switch err {
		case nil:
			a.current.answered = true
			return nil
		case io.EOF: //nolint:errorlint // gRPC returns it as it is
			return err
		}
		if failure := a.failed(err); failure != nil {
			return failure
		}
	}
}

// open begins the next attempt.
func (a *attempts) open() error {
	a.made++
	a.order.restart()
	at := &a.first // most commands need no other
	if a.made > 1 {
		at = new(attempt)
	}
	at.ran = a.mayHaveRun
	a.current = at
	a.begin(at)
	a.end.follow(at)
	at.waitFrom(a.call.idleTimeout)
	defer at.waited()
	err := a.connect(at)
	for err == errMoved && at.moved() { //nolint:errorlint // the pool's own, never wrapped
		at.again()
		err = a.connect(at)
	}
	switch {
	case err == io.EOF: //nolint:errorlint // an interceptor's; RecvMsg's would be the end of an answer
		return fmt.Errorf("the stream was not opened: %w", err)
	case err != nil:
		return err
	}
	a.opened(at)
	a.mayHaveRun = true
	at.sent = true
	if err := at.SendMsg(a.wire.request); err != nil && err != io.EOF { //nolint:errorlint // io.EOF: RecvMsg has the reason
		at.sent = false
		a.mayHaveRun = at.ran
		return err
	}
	return at.CloseSend()
}

// begin makes the attempt's context, with the earlier of the two deadlines. It and the helpers below are no part of open,
// whose frame is the deepest part of a goroutine's stack that 10,000 waiting commands have.
func (a *attempts) begin(at *attempt) {
	var deadline time.Time
	now := time.Now()
	if a.asked == 0 {
		a.asked = now.Sub(a.client.pool.epoch)
	}
	if a.call.attemptTimeout > 0 {
		deadline = now.Add(a.call.attemptTimeout)
	}
	if d, ok := a.ctx.Deadline(); ok && (deadline.IsZero() || d.Before(deadline)) {
		deadline = d
	}
	a.until.Store(0)
	if !deadline.IsZero() {
		a.until.Store(deadline.UnixNano())
	}
	values, first := a.withHeaders(a.announce(at))
	at.begin(values, first, deadline)
}

// announce tells the observers of an attempt, and returns the context that they made.
func (a *attempts) announce(at *attempt) context.Context {
	if len(a.call.observers) == 0 {
		return a.ctx
	}
	at.described = &described{Attempt{Command: *a.sinks.log.cmd, Number: a.made}, time.Now()}
	if a.made > 1 && a.order.count > 0 {
		at.described.ResumeFrom = int32(a.order.next) //nolint:gosec // G115: a sequence number
	}
	return a.call.observers.tagAttempt(a.ctx, at.described.Attempt, a.sinks.log)
}

// opened tells the observers that an attempt has its stream.
func (a *attempts) opened(at *attempt) {
	if len(a.call.observers) > 0 {
		a.call.observers.observe(at.ctx, StreamOpened{at.described.Attempt, time.Since(at.described.since)}, a.sinks.log)
	}
}

// ended tells the observers that an attempt has, and of what failure, if any.
func (a *attempts) ended(at *attempt, code codes.Code, failure *Error) {
	if len(a.call.observers) == 0 {
		return
	}
	var err error
	if failure != nil {
		err = a.reported(*failure)
	}
	a.call.observers.observe(at.ctx, AttemptEnded{at.described.Attempt, code, err}, a.sinks.log)
}

// reported completes a copy of a failure for the observers, who may keep it: the command's own is completed when it ends.
func (a *attempts) reported(failure Error) *Error {
	cmd := a.sinks.log.cmd
	failure.CommandID, failure.VehicleID, failure.Name = cmd.ID, cmd.VehicleID, cmd.Name
	failure.Attempts, failure.Chunks, failure.neverRan = a.made, a.order.count, !a.mayHaveRun
	return &failure
}

// connect opens a stream. Nothing has been sent where it fails.
func (a *attempts) connect(at *attempt) error {
	where := &at.firstPlace
	if at.place != nil { // it moves, and gRPC may not be done with the place before
		where = new(place)
	}
	at.place, where.attempt = where, at
	where.opts = [...]grpc.CallOption{grpc.StaticMethod(), a.client.config.receiveLimit, grpc.ForceCodecV2(a.wire), grpc.OnFinish(where.finished)}
	stream, err := a.client.pool.open(where)
	if err == nil { // beside an error an interceptor may return anything
		at.ClientStream = stream
	}
	return err
}

// firstHeaders is what the vehicle is told of nearly all attempts.
var firstHeaders = metadata.AppendToOutgoingContext(context.Background(), "x-sovd-attempt", "1")

// withHeaders adds to ctx what the vehicle is told of an attempt. Where it says first, that is firstHeaders and nothing else.
func (a *attempts) withHeaders(ctx context.Context) (_ context.Context, first bool) {
	md, more := metadata.FromOutgoingContext(ctx) // a copy
	if !more && a.made == 1 {
		return ctx, true
	}
	if md == nil {
		md = make(metadata.MD, 2)
	}
	md.Set("x-sovd-attempt", strconv.Itoa(a.made)) // the caller may have passed on what it was told itself
	md.Delete("x-sovd-resume-from")
	if a.made > 1 && a.order.count > 0 {
		md.Set("x-sovd-resume-from", strconv.FormatInt(a.order.next, 10))
	}
	return metadata.NewOutgoingContext(ctx, md), false
}

// failed ends the current attempt and decides: nil once it is time for the next one, or the command's error.
func (a *attempts) failed(err error) *Error {
	at := a.current
	f := a.diagnose(at, err) // an interceptor's stream may panic: then there is an attempt to abandon
	a.current = nil
	a.drop(at)
	if f.refused {
		a.mayHaveRun = at.ran
	}
	a.ended(at, f.Code, f.Error)
	delay, ok := a.again(f)
	if !ok {
		return f.Error
	}
	if len(a.call.observers) > 0 {
		a.call.observers.observe(a.ctx, Retrying{at.described.Attempt, f.Code, delay}, a.sinks.log)
	}
	a.sinks.log.log(a.ctx, slog.LevelInfo, "vehicle: retrying",
		slog.Int("attempt", a.made), slog.String("code", f.Code.String()), slog.Duration("delay", delay))
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-a.ctx.Done():
		return contextError(a.ctx, fmt.Sprintf("while waiting to retry after %s: %s", f.Code, f.Message), f.cause)
	}
}

// drop releases what an attempt holds; a stream that is still open is cancelled.
func (a *attempts) drop(at *attempt) {
	a.end.follow(nil)
	at.cancel(context.Canceled)
	if at.place != nil { // gRPC's end of the stream does it too, but it may be an interceptor's own
		a.client.pool.leave(at.place)
	}
}

// again says whether there is another attempt after f, and after what delay. It is the retry table.
func (a *attempts) again(f failure) (time.Duration, bool) {
	if a.order.count > a.delivered { // progress
		a.delivered, a.spent, a.free, a.delays = a.order.count, 0, 0, nil
	}
	policy := a.call.retry.withDefaults()
	switch {
	case f.permanent, f.never, policy.MaxRetries+policy.TimeoutRetries == 0,
		a.sinks.log.cmd.Once && a.mayHaveRun,
		a.call.resume == ResumeNever && a.order.count > 0:
		return 0, false
	case f.pings && a.free < freeRetries:
		a.free++
		return 0, true
	}
	var budget *int32
	var limit int
	switch {
	case f.Code == codes.Unavailable, f.Code == codes.ResourceExhausted && f.retryInfo:
		budget, limit = &a.spent, policy.MaxRetries
	case f.Code == codes.DeadlineExceeded:
		budget, limit = &a.timeouts, policy.TimeoutRetries
	default:
		return 0, false
	}
	if int(*budget) >= limit {
		return 0, false
	}
	*budget++
	if a.delays == nil {
		a.delays = policy.schedule()
	}
	delay := min(a.delays.NextBackOff(), policy.MaxDelay)
	if f.told {
		delay = f.after
	}
	return delay, true
}

// finish is called when the final chunk has come: it lets go of the command's context, and leaves the stream to others.
func (a *attempts) finish() {
	at := a.current
	a.current = nil
	a.end.follow(nil)
	a.client.pool.leave(at.place)
	a.ended(at, codes.OK, nil)
	a.client.farewells.add(at, a.wire)
}

// abandon ends the attempt that is under way, if any.
func (a *attempts) abandon() {
	if at := a.current; at != nil {
		a.current = nil // before an observer ends the goroutine
		a.drop(at)
		a.ended(at, codes.Canceled, nil)
	}
}
