package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestEverySinkKeepsTheRules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		harness func(t *testing.T) vehicletest.Harness
	}{
		{"Memory", func(*testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink { return m })
		}},
		{"Func", func(*testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink {
				return sink.Func{OnBegin: m.Begin, OnWrite: m.Write, OnEnd: m.End}
			})
		}},
		{"the zero Func", func(*testing.T) vehicletest.Harness { return vehicletest.Harness{Sink: sink.Func{}} }},
		{"Chain, first", func(*testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink { return sink.Chain(m, new(sink.Memory)) })
		}},
		{"Chain, last", func(*testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink { return sink.Chain(new(sink.Memory), m) })
		}},
		{"an empty Chain", func(*testing.T) vehicletest.Harness { return vehicletest.Harness{Sink: sink.Chain()} }},
		{"Tee, first", func(*testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink { return sink.Tee(m, new(sink.Memory)) })
		}},
		{"Tee, last", func(*testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink { return sink.Tee(new(sink.Memory), m) })
		}},
		{"an empty Tee", func(*testing.T) vehicletest.Harness { return vehicletest.Harness{Sink: sink.Tee()} }},
		{"BestEffort", func(t *testing.T) vehicletest.Harness {
			return harness(new(sink.Memory), func(m *sink.Memory) vehicle.Sink {
				return sink.BestEffort(m, func(_ context.Context, id uuid.UUID, op string, err error) {
					t.Errorf("%s of command %s failed: %v", op, id, err)
				})
			})
		}},
		{"BestEffort over a sink that fails", func(*testing.T) vehicletest.Harness {
			return vehicletest.Harness{Sink: sink.BestEffort(&spy{fail: map[string]error{"Write": errDisk, "End": errDisk}}, nil)}
		}},
		{"JSONLines", func(*testing.T) vehicletest.Harness {
			var file lockedBuffer
			return vehicletest.Harness{Sink: sink.JSONLines(&file), Read: file.read}
		}},
		{"Slog", func(*testing.T) vehicletest.Harness {
			return vehicletest.Harness{Sink: sink.Slog(slog.New(slog.NewJSONHandler(io.Discard, nil)))}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			vehicletest.TestSink(t, test.harness)
		})
	}
}

// The SDK writes no empty batch, but a sink that filters may.
func TestAnEmptyBatchIsNothing(t *testing.T) {
	t.Parallel()
	var file lockedBuffer
	for name, s := range map[string]vehicle.Sink{
		"Memory":     new(sink.Memory),
		"BestEffort": sink.BestEffort(new(sink.Memory), nil),
		"JSONLines":  sink.JSONLines(writerFunc(func([]byte) (int, error) { return file.Write([]byte("a call of Write")) })),
	} {
		if err := s.Write(t.Context(), nil); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
	}
	if got := file.Bytes(); len(got) > 0 {
		t.Errorf("JSONLines: got %s, want none", got)
	}
}

func harness(m *sink.Memory, of func(*sink.Memory) vehicle.Sink) vehicletest.Harness {
	return vehicletest.Harness{
		Sink: of(m),
		Read: func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
			return m.Chunks(id), m.Status(id), nil
		},
	}
}

// lockedBuffer is a file that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

// read is how a program reads JSON lines back: from the last "begin" of the command on.
func (b *lockedBuffer) read(_ context.Context, id uuid.UUID) (chunks []vehicle.Chunk, status vehicle.Status, err error) {
	for line := range bytes.Lines(b.Bytes()) {
		var l struct {
			Event           string          `json:"event"`
			CommandID       uuid.UUID       `json:"command_id"`
			ResponsePayload json.RawMessage `json:"response_payload"`
			SequenceNumber  int32           `json:"sequence_number"`
			IsFinal         bool            `json:"is_final"`
			Timestamp       time.Time       `json:"timestamp"`
			ReceivedAt      time.Time       `json:"received_at"`
			Status          vehicle.Status  `json:"status"`
		}
		if !bytes.Contains(line, []byte(id.String())) {
			continue
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, "", err
		}
		switch l.Event {
		case "begin":
			chunks, status = nil, vehicle.StatusInProgress
		case "response":
			if l.ResponsePayload == nil { // Unmarshal's reading of null
				l.ResponsePayload = json.RawMessage("null")
			}
			chunks = append(chunks, vehicle.Chunk{
				CommandID: l.CommandID, Seq: l.SequenceNumber, Payload: l.ResponsePayload, Final: l.IsFinal,
				Timestamp: l.Timestamp, ReceivedAt: l.ReceivedAt,
			})
		default:
			status = l.Status
		}
	}
	return chunks, status, nil
}
