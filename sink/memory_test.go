package sink_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

func TestMemoryGivesBackEverythingInCopies(t *testing.T) {
	t.Parallel()
	var m sink.Memory
	cmd := newCommand()
	cmd.Params = map[string]any{"ecu": "0x7E0"}
	chunks := chunksOf(cmd, `{"code":"P0420"}`, `{"code":"U0121"}`)
	chunks[0].Timestamp = time.Date(2025, 10, 31, 14, 30, 0, 123456789, time.UTC)
	chunks[0].ReceivedAt = chunks[0].Timestamp.Add(time.Second)
	mustDo(t, m.Begin(t.Context(), cmd), m.Write(t.Context(), chunks[:1]), m.Write(t.Context(), chunks[1:]))
	if _, ok := m.Result(cmd.ID); ok {
		t.Error("got a Result before End, want none")
	}
	res := completed(cmd)
	mustDo(t, m.End(t.Context(), res))
	res.Command.Params = map[string]any{"ecu": "0x7E0"}
	cmd.Params["ecu"] = "0x7E8" // the map that End was given

	want := chunksLike(chunks)
	for range 2 { // the second time after the first copies were spoiled
		got := m.Chunks(cmd.ID)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the chunks (-want +got):\n%s", diff)
		}
		gotRes, ok := m.Result(cmd.ID)
		if !ok {
			t.Fatal("got no Result, want one")
		}
		if diff := cmp.Diff(res, gotRes); diff != "" {
			t.Errorf("the Result (-want +got):\n%s", diff)
		}
		got[0].Payload[2] = '*'
		got[1] = vehicle.Chunk{}
		gotRes.Command.Params = nil
		if again, _ := m.Result(cmd.ID); again.Command.Params != nil {
			again.Command.Params["ecu"] = "0x7E8"
		}
	}
}

// chunksLike are chunks with payloads of their own.
func chunksLike(chunks []vehicle.Chunk) []vehicle.Chunk {
	like := make([]vehicle.Chunk, len(chunks))
	for i, chunk := range chunks {
		chunk.Payload = append([]byte(nil), chunk.Payload...)
		like[i] = chunk
	}
	return like
}

func mustDo(t *testing.T, errs ...error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("call %d: got error %v, want none", i+1, err)
		}
	}
}

func TestMemoryKnowsNothingOfOtherCommands(t *testing.T) {
	t.Parallel()
	var m sink.Memory
	id := uuid.New()
	if got := m.Chunks(id); got != nil {
		t.Errorf("Chunks: got %v, want nil", got)
	}
	if got := m.Status(id); got != "" {
		t.Errorf("Status: got %q, want none", got)
	}
	if _, ok := m.Result(id); ok {
		t.Error("Result: got true, want false")
	}
}

func TestMemoryRefusesCallsOutOfTurn(t *testing.T) {
	t.Parallel()
	cmd := newCommand()
	for _, test := range []struct {
		name  string
		ended bool
		call  func(m *sink.Memory) error
		want  string
	}{
		{"Write before Begin", false, func(m *sink.Memory) error { return m.Write(t.Context(), chunksOf(cmd, "1")) }, "has not begun"},
		{"End before Begin", false, func(m *sink.Memory) error { return m.End(t.Context(), completed(cmd)) }, "has not begun"},
		{"Write after End", true, func(m *sink.Memory) error { return m.Write(t.Context(), chunksOf(cmd, "1")) }, "has ended"},
		{"End after End", true, func(m *sink.Memory) error { return m.End(t.Context(), completed(cmd)) }, "has ended"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var m sink.Memory
			if test.ended {
				mustDo(t, m.Begin(t.Context(), cmd), m.End(t.Context(), completed(cmd)))
			}
			want := "sink: command " + cmd.ID.String() + " " + test.want
			if err := test.call(&m); err == nil || err.Error() != want {
				t.Errorf("got error %v, want %q", err, want)
			}
		})
	}
}
