package sink

import (
	"context"
	"time"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
)

// Chain serves sinks in order: each batch goes to the next sink when the one before has taken it. Put
// what makes durable before what announces.
//
// When one fails:
//   - Begin: the sinks after it are not begun; those before it get End, with a failed Result.
//   - Write: the sinks after it do not see the batch; those before it have taken it.
//   - End: every sink gets End all the same. Those after the one that failed get a failed Result, so
//     that nobody announces as completed what was not recorded.
//
// The errors come back joined, each with the sink's place in the chain; a panic is an error. Each
// sink's End has a ctx of its own, which outlives the one given and ends after 10 s, so that one that
// hangs does not use up the time of those after it. The Err of a Result that the chain makes fail
// matches [vehicle.ErrSink] and the sink's own error.
//
// A chain of no sinks takes everything and does nothing; one with a nil sink refuses each command.
func Chain(sinks ...vehicle.Sink) vehicle.Sink {
	c := chain(members(sinks))
	return &c
}

// chain keeps nothing about commands: Begin succeeds only where all have begun.
type chain []member

func (c *chain) Begin(ctx context.Context, cmd vehicle.Command) (err error) {
	startedAt, begun := time.Now(), 0
	returned := false
	defer func() {
		if !returned { // the sink has ended this goroutine
			err = (*c)[begun].wrap(errNoReturn)
		}
		if err != nil {
			before := (*c)[:begun]
			err = join(err, before.End(ctx, refused(cmd, startedAt, err)))
		}
	}()
	for ; begun < len(*c); begun++ {
		if err = (*c)[begun].begin(ctx, cmd); err != nil {
			break
		}
	}
	returned = true
	return err
}

func (c *chain) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	teller := lastly.Within(ctx, c)
	for i, m := range *c {
		if err := m.write(teller.Next(ctx, m.sink, i == len(*c)-1), chunks); err != nil {
			return err
		}
		ctx = lastly.GoOn(ctx) //nolint:fatcontext // once, with the final chunk
	}
	if end := lastly.Told(ctx, c); end != nil {
		end.Done = teller.AllDone()
	}
	return nil
}

func (c *chain) End(ctx context.Context, res vehicle.Result) error {
	errs := make([]error, 0, len(*c))
	defer func() {
		if n := len(errs); n < len(*c) { // that sink has ended this goroutine
			rest := (*c)[n+1:]
			_ = rest.End(ctx, failed(res, (*c)[n].wrap(errNoReturn)))
		}
	}()
	for _, m := range *c {
		err := m.end(ctx, res)
		errs = append(errs, err)
		res = failed(res, err)
	}
	return join(errs...)
}

// Unwrap lets observers among the sinks be found.
func (c *chain) Unwrap() []vehicle.Sink { return unwrap(*c) }
