package vehicletest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

// brokenSink breaks one rule. What its harness leaves nil is the Memory's.
type brokenSink struct {
	name     string // "a sink that …"
	caughtBy string // the case
	saying   string // part of the failure
	harness  func(m *sink.Memory, release <-chan struct{}) Harness
}

// replacing is a Memory in which some calls are replaced.
func replacing(m *sink.Memory, f sink.Func) Harness {
	if f.OnBegin == nil {
		f.OnBegin = m.Begin
	}
	if f.OnWrite == nil {
		f.OnWrite = m.Write
	}
	if f.OnEnd == nil {
		f.OnEnd = m.End
	}
	return Harness{Sink: f}
}

// altering writes what alter makes of a batch of its own.
func altering(alter func(batch []vehicle.Chunk) []vehicle.Chunk) func(*sink.Memory, <-chan struct{}) Harness {
	return writing(func(_ context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
		return m.Write(context.Background(), alter(slices.Clone(chunks)))
	})
}

// alteringPayloads writes what alter makes of each payload.
func alteringPayloads(alter func(payload []byte) []byte) func(*sink.Memory, <-chan struct{}) Harness {
	return altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
		for i := range batch {
			batch[i].Payload = alter(batch[i].Payload)
		}
		return batch
	})
}

func writing(write func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error) func(*sink.Memory, <-chan struct{}) Harness {
	return func(m *sink.Memory, _ <-chan struct{}) Harness {
		return replacing(m, sink.Func{OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
			return write(ctx, m, chunks)
		}})
	}
}

// refusing has a Begin that refuses some commands.
func refusing(text string, refuses func(vehicle.Command) bool) func(*sink.Memory, <-chan struct{}) Harness {
	return func(m *sink.Memory, _ <-chan struct{}) Harness {
		return replacing(m, sink.Func{OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
			if refuses(cmd) {
				return errors.New(text)
			}
			return m.Begin(ctx, cmd)
		}})
	}
}

func brokenSinks() []brokenSink {
	return slices.Concat(sinksThatLose(), sinksThatSpoilPayloads(), sinksThatMistakeTheLife(),
		sinksThatMisuseTheBatch(), sinksThatMisuseTheContext(), sinksThatMixCommands())
}

func sinksThatLose() []brokenSink {
	return []brokenSink{
		{
			name: "drops the last chunk", caughtBy: "chunks are kept in order and once",
			saying: "want 60 chunks numbered …[57 58 59]",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				if last := len(batch) - 1; batch[last].Final {
					return batch[:last]
				}
				return batch
			}),
		},
		{
			name: "delivers twice", caughtBy: "chunks are kept in order and once",
			saying:  "got 120 chunks numbered [0 0 1 1]…",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk { return twice(batch) }),
		},
		{
			name: "delivers the whole answer twice", caughtBy: "chunks are kept in order and once",
			saying: "got 120 chunks",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnEnd: func(ctx context.Context, res vehicle.Result) error {
					if chunks := m.Chunks(res.Command.ID); len(chunks) > 0 {
						if err := m.Write(ctx, chunks); err != nil {
							return err
						}
					}
					return m.End(ctx, res)
				}})
			},
		},
		{
			name: "reorders", caughtBy: "chunks are kept in order and once",
			saying: "numbered [59 58 57]…",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				slices.Reverse(batch)
				return batch
			}),
		},
		{
			name: "takes local time for UTC", caughtBy: "chunks are kept in order and once",
			saying: "Timestamp is",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				for i := range batch {
					batch[i].Timestamp = batch[i].Timestamp.Add(time.Hour)
				}
				return batch
			}),
		},
		{
			name: "puts the vehicle of another command on a chunk", caughtBy: "chunks are kept in order and once",
			saying: "VehicleID is",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				batch[0].VehicleID = uuid.New()
				return batch
			}),
		},
		{
			name: "makes up when a chunk was received", caughtBy: "chunks are kept in order and once",
			saying: "ReceivedAt is",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				for i := range batch {
					batch[i].ReceivedAt = batch[0].ReceivedAt.Add(time.Millisecond)
				}
				return batch
			}),
		},
		{
			name: "gives back chunks under another id", caughtBy: "chunks are kept in order and once",
			saying: "chunk 0: it is of command 00000000-0000-0000-0000-000000000000",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return Harness{Sink: m, Read: func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
					chunks := m.Chunks(id)
					for i := range chunks {
						chunks[i].CommandID = uuid.Nil
					}
					return chunks, m.Status(id), nil
				}}
			},
		},
		{
			name: "cannot be read", caughtBy: "chunks are kept in order and once",
			saying: "the harness's Read failed: out of order",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return Harness{Sink: m, Read: func(context.Context, uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
					return nil, "", errors.New("out of order")
				}}
			},
		},
		{
			name: "takes two equal chunks of a batch for one", caughtBy: "equal chunks are kept each",
			saying: "equal payloads in batches of 6: the chunks differ from index 1 on",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				return slices.CompactFunc(batch, func(a, b vehicle.Chunk) bool { return bytes.Equal(a.Payload, b.Payload) })
			}),
		},
		{
			name: "takes a chunk that equals the one before for that one", caughtBy: "equal chunks are kept each",
			saying: "equal payloads in batches of 1: the chunks differ from index 1 on",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				have := m.Chunks(chunks[0].CommandID)
				if n := len(have); n > 0 && bytes.Equal(have[n-1].Payload, chunks[0].Payload) {
					chunks = chunks[1:]
				}
				return m.Write(ctx, chunks)
			}),
		},
		{
			name: "drops what has no timestamp", caughtBy: "chunks without a timestamp",
			saying: "want 6 chunks",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				return slices.DeleteFunc(batch, func(c vehicle.Chunk) bool { return c.Timestamp.IsZero() })
			}),
		},
		{
			name: "makes up a timestamp where there is none", caughtBy: "chunks without a timestamp",
			saying: "chunk 1: Timestamp is",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				for i := range batch {
					if batch[i].Timestamp.IsZero() {
						batch[i].Timestamp = batch[i].ReceivedAt
					}
				}
				return batch
			}),
		},
		{
			name: "numbers chunks itself", caughtBy: "answers may be numbered from one",
			saying: "got 5 chunks numbered [0 1 2]…, want 5 chunks numbered [1 2 3]…",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				batch := slices.Clone(chunks)
				for i := range batch {
					batch[i].Seq = int32(len(m.Chunks(batch[i].CommandID)) + i)
				}
				return m.Write(ctx, batch)
			}),
		},
		{
			name: "loses the final flag", caughtBy: "only the final chunk is final",
			saying: "chunk 3: Final is false, want true",
			harness: altering(func(batch []vehicle.Chunk) []vehicle.Chunk {
				for i := range batch {
					batch[i].Final = false
				}
				return batch
			}),
		},
		{
			name: "takes the last chunk that it has for the final one", caughtBy: "only the final chunk is final",
			saying: "a command that failed half way: chunk 2: Final is true, want false",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return Harness{Sink: m, Read: func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
					chunks := m.Chunks(id)
					if len(chunks) > 0 {
						chunks[len(chunks)-1].Final = true
					}
					return chunks, m.Status(id), nil
				}}
			},
		},
		{
			name: "keeps nothing until the end", caughtBy: "a batch is kept when Write returns",
			saying: "after 1 chunks: the chunks differ from index 0 on: got no chunks",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				var waiting []vehicle.Chunk
				return replacing(m, sink.Func{
					OnWrite: func(_ context.Context, chunks []vehicle.Chunk) error {
						waiting = append(waiting, chunks...)
						return nil
					},
					OnEnd: func(ctx context.Context, res vehicle.Result) error {
						return errors.Join(m.Write(ctx, waiting), m.End(ctx, res))
					},
				})
			},
		},
		{
			name: "writes behind the caller's back", caughtBy: "a batch is kept when Write returns",
			saying: "after 1 chunks",
			harness: func(m *sink.Memory, release <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
					batch := slices.Clone(chunks)
					go func() {
						<-release
						_ = m.Write(ctx, batch) // there is nobody left to tell
					}()
					return nil
				}})
			},
		},
		{
			name: "has room for 1,000 chunks", caughtBy: "5,000 chunks",
			saying: "got 1400 chunks numbered …[1398 1399]",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				if len(m.Chunks(chunks[0].CommandID)) > 1_000 {
					return nil
				}
				if len(chunks) > 700 {
					chunks = chunks[:699]
				}
				return m.Write(ctx, chunks)
			}),
		},
		{
			name: "refuses large batches", caughtBy: "5,000 chunks",
			saying: "Write failed: too many parameters",
			harness: writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
				if len(chunks) > 1_000 {
					return errors.New("too many parameters")
				}
				return m.Write(ctx, chunks)
			}),
		},
	}
}

func twice(batch []vehicle.Chunk) []vehicle.Chunk {
	doubled := make([]vehicle.Chunk, 0, 2*len(batch))
	for _, chunk := range batch {
		doubled = append(doubled, chunk, chunk)
	}
	return doubled
}

// pause lets every other goroutine of the bubble go on.
func pause() {
	timer := time.NewTimer(time.Millisecond)
	<-timer.C
}

func sinksThatSpoilPayloads() []brokenSink {
	refuse := func(text string) func(*sink.Memory, <-chan struct{}) Harness {
		return writing(func(ctx context.Context, m *sink.Memory, chunks []vehicle.Chunk) error {
			for _, chunk := range chunks {
				if bytes.Contains(chunk.Payload, []byte(text)) {
					return errors.New("invalid input syntax for type json")
				}
			}
			return m.Write(ctx, chunks)
		})
	}
	return []brokenSink{
		{
			name: "cuts payloads at 64 KiB", caughtBy: "a payload of 1 MiB",
			saying: "is not JSON",
			harness: alteringPayloads(func(payload []byte) []byte {
				return payload[:min(len(payload), 64<<10)]
			}),
		},
		{
			name: "reads numbers as float64", caughtBy: "awkward payloads",
			saying: "an integer beyond float64: chunk 0: the payload is",
			harness: alteringPayloads(func(payload []byte) []byte {
				var value any
				if json.Unmarshal(payload, &value) != nil { // 1e400000
					return []byte("null")
				}
				text, _ := json.Marshal(value)
				return text
			}),
		},
		{
			name: "replaces lone surrogates", caughtBy: "awkward payloads",
			saying: "a lone high surrogate: chunk 0: the payload is",
			harness: alteringPayloads(func(payload []byte) []byte {
				dec := json.NewDecoder(bytes.NewReader(payload))
				dec.UseNumber()
				var value any
				if dec.Decode(&value) != nil {
					return []byte("null")
				}
				text, _ := json.Marshal(value)
				return text
			}),
		},
		{
			name: "refuses what jsonb refuses", caughtBy: "awkward payloads",
			saying: "the escape of NUL in a padded serial number: Write failed: invalid input syntax", harness: refuse(`\u0000`),
		},
		{
			name: "splits records at line breaks", caughtBy: "awkward payloads",
			saying: "white space and line breaks between tokens: chunk 0: the payload", harness: alteringPayloads(func(payload []byte) []byte {
				line, _, _ := bytes.Cut(payload, []byte("\n"))
				return line
			}),
		},
		{
			name: "takes the first of two keys", caughtBy: "awkward payloads",
			saying: "the same key twice: chunk 0",
			harness: alteringPayloads(func(payload []byte) []byte {
				return bytes.Replace(payload, []byte(`,"dtc":"P0171"`), nil, 1)
			}),
		},
		{
			name: "unwraps what it did not wrap", caughtBy: "awkward payloads",
			saying: "what a sink's own wrapper may look like: chunk 0",
			harness: alteringPayloads(func(payload []byte) []byte {
				var wrapped struct {
					JSON string `json:"$json"`
				}
				if json.Unmarshal(payload, &wrapped) == nil && wrapped.JSON != "" {
					return []byte(wrapped.JSON)
				}
				return payload
			}),
		},
		{
			name: "panics over null", caughtBy: "awkward payloads",
			saying: "null, for an answer without data: Write misbehaved: it panicked: nothing there",
			harness: alteringPayloads(func(payload []byte) []byte {
				if string(payload) == "null" {
					panic("nothing there")
				}
				return payload
			}),
		},
		{
			name: "refuses parameters with NUL", caughtBy: "awkward parameters",
			saying: "Begin failed: unsupported Unicode escape sequence",
			harness: refusing("unsupported Unicode escape sequence", func(cmd vehicle.Command) bool {
				for _, value := range cmd.Params {
					if text, ok := value.(string); ok && strings.ContainsRune(text, 0) {
						return true
					}
				}
				return false
			}),
		},
		{
			name: "wants parameters", caughtBy: "awkward parameters",
			saying:  "Begin failed: null value in column parameters",
			harness: refusing("null value in column parameters", func(cmd vehicle.Command) bool { return cmd.Params == nil }),
		},
		{
			name: "wants a user", caughtBy: "awkward parameters",
			saying:  "Begin failed: null value in column user_id",
			harness: refusing("null value in column user_id", func(cmd vehicle.Command) bool { return cmd.UserID == uuid.Nil }),
		},
		{
			name: "knows no command that is run once", caughtBy: "awkward parameters",
			saying:  "Begin failed: once is not supported",
			harness: refusing("once is not supported", func(cmd vehicle.Command) bool { return cmd.Once }),
		},
		{
			name: "has room for half a name", caughtBy: "awkward parameters",
			saying:  "Begin failed: value too long",
			harness: refusing("value too long", func(cmd vehicle.Command) bool { return len(cmd.Name) > 50 }),
		},
		{
			name: "cleans the caller's parameters", caughtBy: "awkward parameters",
			saying: "the command's Params were changed",
			harness: func(m *sink.Memory, _ <-chan struct{}) Harness {
				return replacing(m, sink.Func{OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
					delete(cmd.Params, "")
					return m.Begin(ctx, cmd)
				}})
			},
		},
	}
}
