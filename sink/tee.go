package sink

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/sinkcall"
)

// Tee serves all sinks at once and waits for all of them: a call takes as long as the slowest.
//
// When one fails:
//   - Begin: the call fails, and those that had begun get End, with a failed Result.
//   - Write: the call fails, but the others have had the batch.
//   - End: the call fails. The others have been told what the command came to, which may be that it
//     completed: where one must not announce what another could not record, use [Chain].
//
// The errors come back joined, each with the sink's place; a panic is an error, although it happens in
// a goroutine of Tee's. All sinks are handed the same batch, which none of them may change. Each sink's
// End has a ctx of its own, as with Chain.
//
// A Tee of no sinks takes everything and does nothing; one with a nil sink refuses each command.
func Tee(sinks ...vehicle.Sink) vehicle.Sink {
	return tee(members(sinks))
}

// tee, like chain, keeps nothing about commands.
type tee []member

func (t tee) Begin(ctx context.Context, cmd vehicle.Command) error {
	startedAt := time.Now()
	errs := t.each(ctx, func(ctx context.Context, m member) error { return m.begin(ctx, cmd) })
	err := join(errs...)
	if err == nil {
		return nil
	}
	var begun tee
	for i, m := range t {
		if errs[i] == nil {
			begun = append(begun, m)
		}
	}
	return join(err, begun.End(ctx, refused(cmd, startedAt, err)))
}

func (t tee) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	return join(t.each(ctx, func(ctx context.Context, m member) error { return m.write(ctx, chunks) })...)
}

func (t tee) End(ctx context.Context, res vehicle.Result) error {
	return join(t.each(ctx, func(ctx context.Context, m member) error { return m.end(ctx, res) })...)
}

var errNoReturn = errors.New("the call ended its goroutine")

// each calls all at once and returns their errors in the order of the sinks. What observers are told of the calls they are told
// on the command's goroutine, as of all else.
func (t tee) each(ctx context.Context, call func(context.Context, member) error) []error {
	ctx, release := sinkcall.Hold(ctx)
	defer release()
	errs := make([]error, len(t))
	var wg sync.WaitGroup
	for i, m := range t {
		errs[i] = m.wrap(errNoReturn) // what stays after runtime.Goexit
		wg.Go(func() { errs[i] = call(ctx, m) })
	}
	wg.Wait()
	return errs
}

// Unwrap lets observers among the sinks be found.
func (t tee) Unwrap() []vehicle.Sink { return unwrap(t) }
