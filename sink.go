package vehicle

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/lastly"
	"github.com/sovd-go/vehicle/internal/sinkcall"
	"github.com/sovd-go/vehicle/internal/within"
)

// Sink is a place that the chunks of commands go to: a database, a message bus, the application's own
// code. Attach one with [WithSink]; package sink has ready ones and ways to combine them, and
// vehicletest.TestSink checks that an implementation keeps the rules below.
//
// For one command the calls come one after the other: Begin, then Write any number of times, then
// End. Different commands call concurrently, so a Sink must be safe for concurrent use. The SDK does
// not retry a failed call: an error from Begin or Write ends the command with [ErrSink]. A panic is
// such an error too. Calls should honour ctx; one that does not holds its command, and [Client.Close].
//
// A Sink that wants to see more is an [Observer]. One that serves other sinks should say so by a method
// Unwrap() []Sink, so that observers among them are found.
type Sink interface {
	// Begin is called once, before the vehicle is asked. An error refuses the command: the vehicle
	// is not asked, and this sink gets neither Write nor End.
	Begin(ctx context.Context, cmd Command) error

	// Write takes chunks in the order of their sequence numbers, each exactly once; what arrived
	// while the last Write ran comes in one call. The slice is reused after Write returns and must
	// not be changed; the payloads may be kept. ctx ends with the attempt's deadline: a sink that is
	// still writing then fails the command, unless it has the final chunk and succeeds all the same.
	Write(ctx context.Context, chunks []Chunk) error

	// End is called once, whatever happened, if Begin succeeded. Its ctx outlives the caller's and
	// has a bound of its own, 10 s. An error from it makes a completed command [ErrSink], for the
	// caller and for the sinks that come after this one.
	End(ctx context.Context, res Result) error
}

// delivery hands one command to its sinks, one after the other.
type delivery struct {
	sinks   []Sink
	begun   int          // so many of them, from the first
	writing atomic.Int32 // which of them is being written to, from 1; 0: none
	log     commandLog
}

// begin calls Begin on each sink until one refuses.
func (d *delivery) begin(ctx context.Context, cmd Command) *Error {
	for _, s := range d.sinks {
		if err := d.call(ctx, s, "Begin", func() error { return s.Begin(ctx, cmd) }); err != nil {
			return sinkError(ctx, s, "Begin", err)
		}
		d.begun++
	}
	return nil
}

// write gives the batch to each sink in order. Its time is limit's, whose deadline is the attempt's; ctx is
// the command's. The batch that has the final chunk may finish late: nothing is left to fail. With it the sinks are told
// of the End that follows, if it is known.
func (d *delivery) write(ctx, limit context.Context, chunks []Chunk, teller lastly.Teller) *Error {
	defer d.writing.Store(0)
	final := chunks[len(chunks)-1].Final
	if final {
		limit = lastly.Late(limit, ctx)
	}
	for i, s := range d.sinks {
		d.writing.Store(int32(i + 1))
		told := teller.Next(limit, s, i == len(d.sinks)-1)
		err := d.call(ctx, s, "Write", func() error { return s.Write(told, chunks) })
		switch late := limit.Err() != nil && !ended(ctx); {
		case late && (err != nil || !final):
			return slowSink(s, err)
		case err != nil:
			return sinkError(ctx, s, "Write", err)
		case late: // that is not the next one's doing
			limit = ctx //nolint:fatcontext // the command's, nothing nested
		}
	}
	return nil
}

// end calls End on each sink that has begun, and made with what it came to. Once one fails, a completed command has failed, for the
// sinks that come after as for the caller: what was not recorded must not be announced.
func (d *delivery) end(ctx context.Context, res Result, describe func(*Error), made func(Result)) {
	d.endFrom(context.WithoutCancel(ctx), 0, res, describe, made)
}

// endFrom is end for the sinks from the ith on. The rest come deferred: a sink may end this goroutine.
func (d *delivery) endFrom(ctx context.Context, i int, res Result, describe func(*Error), made func(Result)) {
	if i == d.begun {
		made(res)
		return
	}
	s, err := d.sinks[i], errNoReturn
	defer func() {
		defer func() { d.endFrom(ctx, i+1, res, describe, made) }() // the log may end it too
		switch {
		case err == nil:
		case res.Err == nil:
			failure := sinkError(context.Background(), s, "End", err)
			describe(failure)
			res.Status, res.Err = StatusFailed, failure
		default:
			d.log.log(ctx, slog.LevelWarn, "vehicle: a sink failed to end a failed command",
				slog.String("sink", sinkName(s)), slog.String("error", foreign.Text(err.Error())))
		}
	}()
	err = d.call(ctx, s, "End", func() error {
		var limit lifetime // most sinks have stored the end with the final chunk, and need no timer
		limit.begin(ctx, time.Now().Add(sinkcall.EndTime))
		defer limit.cancel()
		return s.End(&limit, res)
	})
}

// errNoReturn is the error of a call that has ended its goroutine.
var errNoReturn = errors.New("the call ended its goroutine")

// call reports a call to the observers, if there are any, and logs where a sink panicked; the panic is an error like any
// other.
func (d *delivery) call(ctx context.Context, s Sink, method string, f func() error) error {
	var err error
	if isWrapper(s) { // it reports those of the sinks in it
		err = sinkcall.Call(f)
	} else {
		err = sinkcall.Do(ctx, s, method, f)
	}
	if panicked, ok := errors.AsType[*within.PanicError](err); ok {
		d.log.log(context.Background(), slog.LevelError, "vehicle: a sink panicked",
			slog.String("sink", sinkName(s)), slog.String("at", panicked.Site))
	}
	return err
}

// sinkError is the error of a sink's call, unless the call failed because the command's own context had ended.
func sinkError(ctx context.Context, s Sink, call string, err error) *Error {
	if ended(ctx) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return contextError(ctx, "while a sink was busy", err)
	}
	return newError(ErrSink, foreign.Text(sinkName(s)+"."+call+": "+err.Error()), err)
}

// slow is the sink that is being written to, if any.
func (d *delivery) slow() Sink {
	if i := d.writing.Load(); i > 0 {
		return d.sinks[i-1]
	}
	return nil
}

// slowSink is the error of a sink that was writing when the attempt's time ran out.
func slowSink(s Sink, err error) *Error {
	return newError(ErrSink, sinkName(s)+".Write was not done when the attempt's time ran out (see WithAttemptTimeout)", err)
}

func sinkName(s Sink) string { return typeName(s) }

// typeName is fmt's %T.
func typeName(v any) string { return reflect.TypeOf(v).String() }

// ended says whether ctx has ended or its deadline has passed: its own timer may be a moment late.
func ended(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(d)
}
