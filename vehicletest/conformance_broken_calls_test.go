package vehicletest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

func sinksThatMisuseTheBatch() []brokenSink {
	return []brokenSink{
		{
			name: "keeps the slice", caughtBy: "the batch slice is reused",
			saying: "[2147483647",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				var batches [][]vehicle.Chunk
				return replacing(m, sink.Func{
					OnWrite: func(_ context.Context, chunks []vehicle.Chunk) error {
						batches = append(batches, chunks)
						return nil
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						batch := slices.Concat(batches...)
						batch[0].CommandID = res.Command.ID
						return errors.Join(m.Write(ctx, batch), m.End(ctx, res))
					},
				})
			},
		},
		{
			name: "sorts the caller's slice", caughtBy: "the batch is not changed",
			saying: "Write changed batch 2",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				err := m.Write(ctx, chunks)
				slices.SortFunc(chunks, func(a, b vehicle.Chunk) int { return int(b.Seq) - int(a.Seq) })
				return err
			}),
		},
		{
			name: "appends to the caller's slice", caughtBy: "the batch is not changed",
			saying: "Write changed batch 1",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				sent := append(chunks, vehicle.Chunk{})
				return m.Write(ctx, sent[:len(chunks)])
			}),
		},
		{
			name: "masks the payload in place", caughtBy: "the batch is not changed",
			saying: "Write changed batch 1",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				chunks[0].Payload[2] = '*'
				return m.Write(ctx, chunks)
			}),
		},
		{
			name: "masks payloads that it kept, at the end", caughtBy: "the batch is not changed",
			saying: "the payload of chunk 0 was changed after its Write",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				var mu sync.Mutex
				kept := make(map[uuid.UUID][]vehicle.Chunk)
				return replacing(m, sink.Func{
					OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
						mu.Lock()
						defer mu.Unlock()
						id := chunks[0].CommandID
						kept[id] = append(kept[id], chunks...)
						return m.Write(ctx, chunks)
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						mu.Lock()
						defer mu.Unlock()
						for _, chunk := range kept[res.Command.ID] {
							if i := bytes.Index(chunk.Payload, []byte(":")); i >= 0 {
								chunk.Payload[i-2] = '*'
							}
						}
						return m.End(ctx, res)
					},
				})
			},
		},
	}
}

func sinksThatMisuseTheContext() []brokenSink {
	return []brokenSink{
		{
			name: "blocks in Begin", caughtBy: "Begin under a canceled context",
			saying: "Begin misbehaved: it has not returned within 30s",
			harness: func(m *sink.Memory, release <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
					if ctx.Err() != nil {
						<-release
					}
					return m.Begin(ctx, cmd)
				}})
			},
		},
		{
			name: "is blocked by what it refused", caughtBy: "Begin under a canceled context",
			saying: "Begin failed: it is running",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				claimed := make(map[uuid.UUID]bool)
				return replacing(m, sink.Func{OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
					if claimed[cmd.ID] {
						return errors.New("it is running")
					}
					claimed[cmd.ID] = true
					if err := ctx.Err(); err != nil {
						return err
					}
					return m.Begin(ctx, cmd)
				}})
			},
		},
		{
			name: "blocks in Write", caughtBy: "Write under a canceled context",
			saying: "Write misbehaved: it has not returned within 30s",
			harness: func(m *sink.Memory, release <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
					if ctx.Err() != nil {
						<-release
					}
					return m.Write(ctx, chunks)
				}})
			},
		},
		{
			name: "ends the goroutine", caughtBy: "Write under a canceled context",
			saying: "Write misbehaved: it ended its goroutine",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				if ctx.Err() != nil {
					runtime.Goexit()
				}
				return m.Write(ctx, chunks)
			}),
		},
		{
			name: "calls canceled success", caughtBy: "Write under a canceled context",
			saying: "after End: the chunks differ from index 4 on",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				if ctx.Err() != nil {
					return nil //nolint:nilerr // it is broken
				}
				return m.Write(ctx, chunks)
			}),
		},
		{
			name: "does not end what it failed to write", caughtBy: "Write under a canceled context",
			saying: "End failed: transaction has already been rolled back",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				rolledBack := make(map[uuid.UUID]bool)
				return replacing(m, sink.Func{
					OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
						if err := ctx.Err(); err != nil {
							rolledBack[chunks[0].CommandID] = true
							return err
						}
						return m.Write(ctx, chunks)
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						if rolledBack[res.Command.ID] {
							return errors.New("transaction has already been rolled back")
						}
						return m.End(ctx, res)
					},
				})
			},
		},
		{
			name: "uses the context of Begin in End", caughtBy: "Write under a canceled context",
			saying: "End failed: context canceled",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				var begun context.Context
				return replacing(m, sink.Func{
					OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
						begun = ctx //nolint:fatcontext // it is broken
						return m.Begin(ctx, cmd)
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						return errors.Join(begun.Err(), m.End(ctx, res))
					},
				})
			},
		},
		{
			name: "writes the end of a batch first", caughtBy: "a deadline that passes during Write",
			saying: "after End: the chunks differ from index 5 on: got 100 chunks numbered …[3 4 105 106 107]…",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				if _, limited := ctx.Deadline(); !limited {
					return m.Write(ctx, chunks)
				}
				<-ctx.Done()
				return errors.Join(m.Write(ctx, chunks[100:]), ctx.Err())
			}),
		},
		{
			name: "writes a batch again when its time is up", caughtBy: "a deadline that passes during Write",
			saying: "got 395 chunks",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				err := m.Write(ctx, chunks)
				if _, limited := ctx.Deadline(); !limited {
					return err
				}
				<-ctx.Done()
				return errors.Join(m.Write(ctx, chunks), ctx.Err())
			}),
		},
	}
}

// keepingForTheLast keeps chunks for the command that has begun last, of those whose vehicles are of the same kind.
func keepingForTheLast(kind func(vehicleID uuid.UUID) uuid.UUID) func(*sink.Memory, <-chan struct{}) Harness {
	return func(m *sink.Memory, _ <-chan struct{}) Harness {
		var mu sync.Mutex
		last := make(map[uuid.UUID]uuid.UUID)
		return replacing(m, sink.Func{
			OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
				mu.Lock()
				defer mu.Unlock()
				last[kind(cmd.VehicleID)] = cmd.ID
				return m.Begin(ctx, cmd)
			},
			OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
				pause()
				batch := slices.Clone(chunks)
				mu.Lock()
				defer mu.Unlock()
				for i := range batch {
					batch[i].CommandID = last[kind(batch[i].VehicleID)]
				}
				return m.Write(ctx, batch)
			},
			OnEnd: func(ctx context.Context, res vehicle.Result) error {
				pause()
				return m.End(ctx, res)
			},
		})
	}
}

func sinksThatMixCommands() []brokenSink {
	return []brokenSink{
		{
			name: "mixes commands", caughtBy: "concurrent commands are not mixed",
			saying:  "command 1 of 32: ",
			harness: keepingForTheLast(func(uuid.UUID) uuid.UUID { return uuid.Nil }),
		},
		{
			name: "knows one command to a vehicle", caughtBy: "concurrent commands are not mixed",
			saying:  "command 1 of 32: ",
			harness: keepingForTheLast(func(vehicleID uuid.UUID) uuid.UUID { return vehicleID }),
		},
		{
			name: "serves one command at a time", caughtBy: "concurrent commands are not mixed",
			saying: "Begin failed: another command is running",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				var mu sync.Mutex
				running := false
				return replacing(m, sink.Func{
					OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
						mu.Lock()
						defer mu.Unlock()
						if running {
							return errors.New("another command is running")
						}
						running = true
						return m.Begin(ctx, cmd)
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						pause()
						mu.Lock()
						defer mu.Unlock()
						running = false
						return m.End(ctx, res)
					},
				})
			},
		},
		{
			name: "has commands wait for one another", caughtBy: "concurrent commands are not mixed",
			saying: "Begin misbehaved: it has not returned within 30s",
			harness: func(m *sink.Memory, release <-chan struct{}) Harness {
				turn := make(chan struct{}, 1) // a mutex that the bubble sees through
				return replacing(m, sink.Func{
					OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
						select {
						case turn <- struct{}{}:
						case <-release:
						}
						return m.Begin(ctx, cmd)
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						<-turn
						return m.End(ctx, res)
					},
				})
			},
		},
		{
			name: "fails all for one", caughtBy: "a canceled command leaves its neighbours alone",
			saying: "Write failed: current transaction is aborted",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				var mu sync.Mutex
				aborted := false
				return replacing(m, sink.Func{OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
					pause()
					mu.Lock()
					defer mu.Unlock()
					if err := ctx.Err(); err != nil {
						aborted = true
						return fmt.Errorf("write: %w", err)
					}
					if aborted {
						return errors.New("current transaction is aborted")
					}
					return m.Write(ctx, chunks)
				}})
			},
		},
		{
			name: "hangs when a command is canceled", caughtBy: "a canceled command leaves its neighbours alone",
			saying: "Write misbehaved: it has not returned within 30s",
			harness: func(m *sink.Memory, release <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
					pause()
					if ctx.Err() != nil {
						<-release
					}
					return m.Write(ctx, chunks)
				}})
			},
		},
	}
}
