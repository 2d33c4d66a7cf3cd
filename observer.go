package vehicle

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/sinkcall"
	"github.com/sovd-go/vehicle/internal/within"
)

// Observer is a [Sink] that also sees what a Sink cannot: attempts, retries, the time that sinks take, the pool. It is found
// among the sinks of a client and of a call, in those too that are hidden in one that has a method
// Unwrap() []Sink, as sink.Chain, sink.Tee and sink.BestEffort do. Packages sink/promsink and sink/otelsink are
// observers.
//
// Its methods are called on the commands' own goroutines, by several commands at once, with no lock held: they must be
// fast, and must not wait. A panic in one is logged and changes nothing. What they get holds a command's
// parameters ([Command].Params) and no payloads; neither belongs into a metric or a trace.
type Observer interface {
	Sink

	// TagCommand is called when a command has passed its checks, before the first sink's Begin. The context that it
	// returns, which must be made from ctx and may only add values, is the one that the command runs under: its sinks
	// and attempts see the values. Each call is followed by one [CommandEnded].
	TagCommand(ctx context.Context, cmd Command) context.Context

	// TagAttempt is the same for each attempt: gRPC's interceptors and stats handlers see the values. Each call is
	// followed by one [AttemptEnded].
	TagAttempt(ctx context.Context, attempt Attempt) context.Context

	// Observe is called at each event. Of a command's events ctx is the command's or the attempt's.
	Observe(ctx context.Context, event Event)
}

// Attempt is one asking of the vehicle.
type Attempt struct {
	// Command is the command that is asked for.
	Command Command
	// Number counts a command's attempts, from 1.
	Number int
	// ResumeFrom is the first sequence number that is wanted; 0 where all are.
	ResumeFrom int32
}

// Event is one of the events below. Later versions may have more of them, and more fields.
type Event interface{ event() }

type (
	// CommandEnded comes after the last sink's End. What it says is what the caller gets.
	CommandEnded struct{ Result Result }

	// StreamOpened comes when an attempt has got its stream, before the command is sent.
	StreamOpened struct {
		Attempt Attempt
		Wait    time.Duration // for a connection, and for a place on it
	}

	// AttemptEnded comes when an attempt has brought the final chunk, which Code OK says, or has failed.
	AttemptEnded struct {
		Attempt Attempt
		Code    codes.Code
		Err     error // an *[Error], complete, which may be kept; nil: the answer is complete, or the command ended for another reason
	}

	// Retrying comes before the wait for the next attempt.
	Retrying struct {
		Attempt Attempt // the one that failed
		Code    codes.Code
		Delay   time.Duration
	}

	// SinkCalled comes after each call of a sink, of those hidden in another one, too.
	SinkCalled struct {
		Sink   string // its type, as in "*pgsink.Sink"
		Method string // "Begin", "Write" or "End"
		Took   time.Duration
		Err    error // the sink's own
	}

	// ClientOpened comes from New, to the observers that were given to it. The client's Stats may be asked until
	// ClientClosed.
	ClientOpened struct{ Client *Client }

	// ClientClosed comes when Close has ended everything.
	ClientClosed struct{ Client *Client }
)

func (CommandEnded) event() {}
func (StreamOpened) event() {}
func (AttemptEnded) event() {}
func (Retrying) event()     {}
func (SinkCalled) event()   {}
func (ClientOpened) event() {}
func (ClientClosed) event() {}

// observers are those among a command's sinks. Most commands have none, and then nothing here does anything.
type observers []Observer

// wrapper is a sink that serves others.
type wrapper interface{ Unwrap() []Sink }

func observersIn(sinks []Sink) (found observers) {
	for _, s := range sinks {
		if o, ok := s.(Observer); ok {
			found = append(found, o)
		}
		if w, ok := s.(wrapper); ok {
			found = append(found, observersIn(w.Unwrap())...)
		}
	}
	return found
}

// isWrapper says whether a sink's calls are those of the sinks in it.
func isWrapper(s Sink) bool {
	_, ok := s.(wrapper)
	return ok
}

func (os observers) tagCommand(ctx context.Context, cmd Command, log commandLog) context.Context {
	var tagged context.Context
	reported := sinkcall.With(ctx, func(sink any, method string, took time.Duration, err error) {
		os.observe(tagged, SinkCalled{Sink: typeName(sink), Method: method, Took: took, Err: err}, log)
	})
	tagged = os.tag(reported, log, func(o Observer, ctx context.Context) context.Context { return o.TagCommand(ctx, cmd) })
	return tagged
}

func (os observers) tagAttempt(ctx context.Context, at Attempt, log commandLog) context.Context {
	return os.tag(ctx, log, func(o Observer, ctx context.Context) context.Context { return o.TagAttempt(ctx, at) })
}

func (os observers) tag(ctx context.Context, log commandLog, f func(Observer, context.Context) context.Context) context.Context {
	for _, o := range os {
		protect(log, func() {
			if tagged := f(o, ctx); tagged != nil {
				ctx = tagged //nolint:fatcontext // each observer adds to what the one before has
			}
		})
	}
	return ctx
}

func (os observers) observe(ctx context.Context, e Event, log commandLog) {
	for _, o := range os {
		protect(log, func() { o.Observe(ctx, e) })
	}
}

// protect keeps an observer's panic from the command.
func protect(log commandLog, f func()) {
	if err := within.Call(func() error { f(); return nil }); err != nil {
		log.log(context.Background(), slog.LevelError, "vehicle: an observer panicked", slog.String("error", foreign.Text(err.Error())))
	}
}
