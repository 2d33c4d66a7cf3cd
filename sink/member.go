package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/sinkcall"
)

// member is one sink of several. Its calls turn panics into errors and say in each error whose it is.
type member struct {
	sink  vehicle.Sink
	hides bool   // others, which it serves itself
	label string // "sink 2 of 3 (*redissink.Sink)"
}

func members(sinks []vehicle.Sink) []member {
	ms := make([]member, len(sinks))
	for i, s := range sinks {
		ms[i] = newMember(s, fmt.Sprintf("sink %d of %d (%T)", i+1, len(sinks), s))
	}
	return ms
}

func newMember(s vehicle.Sink, label string) member {
	_, hides := s.(interface{ Unwrap() []vehicle.Sink })
	return member{sink: orRefuse(s), hides: hides, label: label}
}

// unwrap is what the Unwrap of those who serve members gives.
func unwrap(ms []member) []vehicle.Sink {
	sinks := make([]vehicle.Sink, len(ms))
	for i, m := range ms {
		sinks[i] = m.sink
	}
	return sinks
}

var errNilSink = errors.New("the sink is nil")

// orRefuse stands in for a nil sink. To leave it out instead would lose data in silence.
func orRefuse(s vehicle.Sink) vehicle.Sink {
	if s != nil {
		return s
	}
	return Func{OnBegin: func(context.Context, vehicle.Command) error { return errNilSink }}
}

func (m member) begin(ctx context.Context, cmd vehicle.Command) error {
	return m.wrap(m.call(ctx, "Begin", func() error { return m.sink.Begin(ctx, cmd) }))
}

func (m member) write(ctx context.Context, chunks []vehicle.Chunk) error {
	return m.wrap(m.call(ctx, "Write", func() error { return m.sink.Write(ctx, chunks) }))
}

func (m member) end(ctx context.Context, res vehicle.Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sinkcall.EndTime)
	defer cancel()
	return m.wrap(m.call(ctx, "End", func() error { return m.sink.End(ctx, res) }))
}

// call turns a panic into an error, and lets observers see the call.
func (m member) call(ctx context.Context, method string, f func() error) error {
	if m.hides {
		return sinkcall.Call(f)
	}
	return sinkcall.Do(ctx, m.sink, method, f)
}

func (m member) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", m.label, err)
}

// refused is the Result of a command that a sink did not let begin.
func refused(cmd vehicle.Command, startedAt time.Time, err error) vehicle.Result {
	res := vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, StartedAt: startedAt, FinishedAt: time.Now()}
	return failed(res, err)
}

// failed is res for those who come after a sink that failed with err, which may be nil. It hides no
// earlier failure.
func failed(res vehicle.Result, err error) vehicle.Result {
	if err != nil && res.Status != vehicle.StatusFailed {
		res.Status = vehicle.StatusFailed
		res.Err = &sinkError{err}
	}
	return res
}

// sinkError is a sink's error as the others are told of it, who store and log its text: with no more of it than the client would
// show.
type sinkError struct{ err error }

func (e *sinkError) Error() string {
	return vehicle.ErrSink.Error() + ": " + foreign.Text(e.err.Error())
}
func (e *sinkError) Unwrap() []error { return []error{vehicle.ErrSink, e.err} }

// join is errors.Join with a text of one line, for logs.
func join(errs ...error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	default:
		return &joinedError{errs}
	}
}

type joinedError struct{ errs []error }

func (e *joinedError) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e *joinedError) Unwrap() []error { return e.errs }
