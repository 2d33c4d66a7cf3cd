package sink

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
)

// BestEffort keeps a sink's errors and panics from the command: each is handed to onError, and the
// command goes on. op is the call that failed: "Begin", "Write" or "End". onError is called from the
// command's goroutine, by several commands at once, with the ctx of the call that failed, which may
// have ended: a caller that cancels makes a sink fail too, with context.Canceled. A nil onError drops
// the errors in silence.
//
// When the sink fails:
//   - Begin: it hears no more of this command.
//   - Write: it gets no more batches of this command, so that what it has is without gaps, and its End
//     has a failed Result whose Err matches [vehicle.ErrSink] and the sink's error, whatever the command
//     came to: an answer that it holds in part must not pass there for a complete one.
//   - End: nothing follows.
//
// The next command begins anew. Errors alone are kept from the command: a sink that is slow still slows
// it, and one that hangs fails it when the attempt's time is up. Give the sink a timeout of its own.
func BestEffort(s vehicle.Sink, onError func(ctx context.Context, commandID uuid.UUID, op string, err error)) vehicle.Sink {
	if onError == nil {
		onError = func(context.Context, uuid.UUID, string, error) {}
	}
	return &bestEffort{member: newMember(s, ""), onError: onError}
}

type bestEffort struct {
	member  member
	onError func(ctx context.Context, commandID uuid.UUID, op string, err error)
	lost    sync.Map // of running commands: uuid.UUID to loss
}

// loss says that the sink failed a command that is still running, and how.
type loss struct {
	begun bool
	err   error
}

func (b *bestEffort) Begin(ctx context.Context, cmd vehicle.Command) error {
	if err := b.member.call(ctx, "Begin", func() error { return b.member.sink.Begin(ctx, cmd) }); err != nil {
		b.onError(ctx, cmd.ID, "Begin", err) // before anything is kept: where it panics, no End comes to drop that
		b.lost.Store(cmd.ID, loss{begun: false, err: err})
	}
	return nil
}

func (b *bestEffort) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	id := chunks[0].CommandID // a batch is of one command
	if _, lost := b.lost.Load(id); lost {
		return nil
	}
	teller := lastly.Within(ctx, b)
	told := teller.Next(ctx, b.member.sink, true)
	if err := b.member.call(ctx, "Write", func() error { return b.member.sink.Write(told, chunks) }); err != nil {
		b.lost.Store(id, loss{begun: true, err: err})
		b.onError(ctx, id, "Write", err)
	}
	if end := lastly.Told(ctx, b); end != nil {
		end.Done = true // an End that fails is nobody's business
	}
	return nil
}

func (b *bestEffort) End(ctx context.Context, res vehicle.Result) error {
	if v, lost := b.lost.LoadAndDelete(res.Command.ID); lost {
		l := v.(loss) //nolint:errcheck // the map holds nothing else
		if !l.begun {
			return nil
		}
		res = failed(res, l.err)
	}
	if err := b.member.call(ctx, "End", func() error { return b.member.sink.End(ctx, res) }); err != nil {
		b.onError(ctx, res.Command.ID, "End", err)
	}
	return nil
}

// Unwrap lets an observer that the sink is be found.
func (b *bestEffort) Unwrap() []vehicle.Sink { return []vehicle.Sink{b.member.sink} }
