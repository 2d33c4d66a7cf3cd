package vehicletest

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

func sinksThatMistakeTheLife() []brokenSink {
	reading := func(status func(vehicle.Status) vehicle.Status) func(*sink.Memory, <-chan struct{}) Harness {
		return func(m *sink.Memory, _ <-chan struct{}) Harness {
			return Harness{Sink: m, Read: func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
				return m.Chunks(id), status(m.Status(id)), nil
			}}
		}
	}
	return []brokenSink{
		{
			name: "forgets End", caughtBy: "the status follows the command",
			saying: `after End: the status is "in_progress", want "completed"`,
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(context.Context, vehicle.Result) error { return nil }})
			},
		},
		{
			name: "does not say that a command is running", caughtBy: "the status follows the command",
			saying: `after Begin: the status is "pending", want "in_progress"`,
			harness: reading(func(status vehicle.Status) vehicle.Status {
				if status == vehicle.StatusInProgress {
					return vehicle.StatusPending
				}
				return status
			}),
		},
		{
			name: "knows commands that have not begun", caughtBy: "the status follows the command",
			saying: `before Begin: the status is "pending", want ""`,
			harness: reading(func(status vehicle.Status) vehicle.Status {
				if status == "" {
					return vehicle.StatusPending
				}
				return status
			}),
		},
		{
			name: "completes at the final chunk", caughtBy: "the status follows the command",
			saying: `after the last Write: the status is "completed", want "in_progress"`,
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				err := m.Write(ctx, chunks)
				if last := chunks[len(chunks)-1]; err == nil && last.Final {
					err = m.End(ctx, vehicle.Result{Command: vehicle.Command{ID: last.CommandID}, Status: vehicle.StatusCompleted})
				}
				return err
			}),
		},
		{
			name: "waits for a first Write", caughtBy: "commands without chunks",
			saying: "End failed: nothing was written",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					if len(m.Chunks(res.Command.ID)) == 0 {
						return errors.New("nothing was written")
					}
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "says completed after a failure", caughtBy: "failed commands end failed",
			saying: `a command that timed out: the status is "completed", want "failed"`,
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					res.Status = vehicle.StatusCompleted
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "has a status of its own for timeouts", caughtBy: "failed commands end failed",
			saying: `a command that timed out: the status is "timeout", want "failed"`,
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					if errors.Is(res.Err, vehicle.ErrTimeout) {
						res.Status = "timeout"
					}
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "takes every error for the SDK's", caughtBy: "failed commands end failed",
			saying: "a command that failed in another sink: End misbehaved: it panicked",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					if res.Err != nil {
						_ = res.Err.(*vehicle.Error).Code //nolint:errorlint // it is broken
					}
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "has no room for a long error", caughtBy: "failed commands end failed",
			saying: "a command that failed with the longest text: End failed: value too long",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					if res.Err != nil && len(res.Err.Error()) > 500 {
						return errors.New("value too long")
					}
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "drops what a failed command had", caughtBy: "failed commands end failed",
			saying: "a command that timed out: the chunks differ from index 0 on: got no chunks",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					if res.Status == vehicle.StatusFailed {
						if err := m.Begin(ctx, res.Command); err != nil {
							return err
						}
					}
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "keeps two runs of a command", caughtBy: "a command run again replaces its chunks",
			saying: "the second run, shorter, after a Write: the chunks differ",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
					before := m.Chunks(cmd.ID)
					return errors.Join(m.Begin(ctx, cmd), m.Write(ctx, before))
				}})
			},
		},
		{
			name: "swallows the second run", caughtBy: "a command run again replaces its chunks",
			saying: "the second run, shorter, after a Write: the chunks differ from index 2 on",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{
					OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
						before := m.Chunks(cmd.ID)
						return errors.Join(m.Begin(ctx, cmd), m.Write(ctx, before))
					},
					OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
						have := m.Chunks(chunks[0].CommandID)
						news := slices.DeleteFunc(slices.Clone(chunks), func(c vehicle.Chunk) bool {
							return slices.ContainsFunc(have, func(h vehicle.Chunk) bool { return h.ID() == c.ID() })
						})
						return m.Write(ctx, news)
					},
				})
			},
		},
		{
			name: "replaces an earlier run with the first Write", caughtBy: "a command run again replaces its chunks",
			saying: "the fifth run, without chunks: the chunks differ from index 0 on: got 2 chunks",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				fresh := make(map[uuid.UUID]bool)
				return replacing(m, sink.Func{
					OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
						fresh[cmd.ID] = true
						before := m.Chunks(cmd.ID)
						return errors.Join(m.Begin(ctx, cmd), m.Write(ctx, before))
					},
					OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
						if id := chunks[0].CommandID; fresh[id] {
							delete(fresh, id)
							if err := m.Begin(ctx, vehicle.Command{ID: id}); err != nil {
								return err
							}
						}
						return m.Write(ctx, chunks)
					},
				})
			},
		},
	}
}
