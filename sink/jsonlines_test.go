package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

var (
	fixedCommand = vehicle.Command{
		ID:        uuid.MustParse("6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11"),
		VehicleID: uuid.MustParse("123e4567-e89b-42d3-a456-426614174000"),
		Name:      "ReadDTC <all>",
		Params:    map[string]any{"password": "secret"},
		UserID:    uuid.MustParse("9b2f0c61-57a5-4f4e-8f0e-2f5d8f5b7a10"),
	}
	fixedTime = time.Date(2025, 10, 31, 15, 30, 0, 123456000, time.FixedZone("CET", 3600))
)

// fixedLife is a command whose lines are always the same, but for when it began.
func fixedLife(t *testing.T, s vehicle.Sink, failure error) {
	t.Helper()
	first := vehicle.Chunk{
		CommandID: fixedCommand.ID, VehicleID: fixedCommand.VehicleID, Seq: 0,
		Payload:   []byte("{\r\n\t\"html\" : \"<b>&\u2028\",\n\"n\": 1.50, \"nul\":\"\\u0000\"}\n"),
		Timestamp: fixedTime, ReceivedAt: fixedTime.Add(time.Second),
	}
	last := first
	last.Seq, last.Payload, last.Final, last.Timestamp = 1, []byte("null"), true, time.Time{}
	res := vehicle.Result{
		Command: fixedCommand, Status: vehicle.StatusCompleted, Chunks: 2, Replayed: 1, Attempts: 2,
		StartedAt: fixedTime, FinishedAt: fixedTime.Add(1500 * time.Millisecond),
	}
	if failure != nil {
		res.Status, res.Err = vehicle.StatusFailed, failure
	}
	mustDo(t, s.Begin(t.Context(), fixedCommand), s.Write(t.Context(), []vehicle.Chunk{first, last}), s.End(t.Context(), res))
}

func TestJSONLinesFormat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // for the time of "begin"
		var file bytes.Buffer
		s := sink.JSONLines(&file)
		fixedLife(t, s, nil)
		fixedLife(t, s, errors.New("vehicle: ReadDTC timed out <30s"))
		begin := `{"event":"begin","command_id":"6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11","vehicle_id":"123e4567-e89b-42d3-a456-426614174000","user_id":"9b2f0c61-57a5-4f4e-8f0e-2f5d8f5b7a10","command_name":"ReadDTC <all>","started_at":"2000-01-01T00:00:00Z"}`
		responses := []string{
			`{"event":"response","command_id":"6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11","response_id":"` + chunkID(0) + `","response_payload":{"html":"<b>&` + "\u2028" + `","n":1.50,"nul":"\u0000"},"sequence_number":0,"is_final":false,"timestamp":"2025-10-31T14:30:00.123456Z","received_at":"2025-10-31T14:30:01.123456Z"}`,
			`{"event":"response","command_id":"6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11","response_id":"` + chunkID(1) + `","response_payload":null,"sequence_number":1,"is_final":true,"received_at":"2025-10-31T14:30:01.123456Z"}`,
		}
		want := []string{
			begin, responses[0], responses[1],
			`{"event":"status","command_id":"6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11","status":"completed","completed_at":"2025-10-31T14:30:01.623456Z","chunks":2,"replayed":1,"attempts":2}`,
			begin, responses[0], responses[1],
			`{"event":"error","command_id":"6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11","status":"failed","completed_at":"2025-10-31T14:30:01.623456Z","error_message":"vehicle: ReadDTC timed out <30s","chunks":2,"replayed":1,"attempts":2}`,
			"",
		}
		if diff := cmp.Diff(want, strings.Split(file.String(), "\n")); diff != "" {
			t.Errorf("the lines (-want +got):\n%s", diff)
		}
	})
}

func chunkID(seq int32) string {
	return vehicle.Chunk{CommandID: fixedCommand.ID, Seq: seq}.ID().String()
}

// scriptedWriter answers each Write with the next of its answers, and then takes everything.
type scriptedWriter struct {
	answers []func(p []byte) (int, error)
	writes  []string
}

func (w *scriptedWriter) Write(p []byte) (int, error) {
	n, err := len(p), error(nil)
	if len(w.answers) > 0 {
		n, err = w.answers[0](p)
		w.answers = w.answers[1:]
	}
	w.writes = append(w.writes, string(p[:max(0, min(n, len(p)))]))
	return n, err
}

func TestJSONLinesWritesEachBatchAtOnce(t *testing.T) {
	t.Parallel()
	var w scriptedWriter
	s := sink.JSONLines(&w)
	cmd := newCommand()
	mustDo(t, s.Begin(t.Context(), cmd), s.Write(t.Context(), chunksOf(cmd, "1", "2", "3")), s.End(t.Context(), completed(cmd)))
	if len(w.writes) != 3 {
		t.Fatalf("got %d writes, want 3", len(w.writes))
	}
	for i, lines := range []int{1, 3, 1} {
		if got := strings.Count(w.writes[i], "\n"); got != lines || !strings.HasSuffix(w.writes[i], "\n") {
			t.Errorf("write %d: got %q, want %d whole lines", i+1, w.writes[i], lines)
		}
	}
}

func TestJSONLinesLosesNoOtherLineToAWriteThatFailed(t *testing.T) {
	t.Parallel()
	type answers = []func(p []byte) (int, error)
	for _, test := range []struct {
		name    string
		answers answers
		err     error // of each
		torn    bool
	}{
		{"nothing was written", answers{func([]byte) (int, error) { return 0, errDisk }}, errDisk, false},
		{"half a line was written", answers{func([]byte) (int, error) { return 20, errDisk }}, errDisk, true},
		{"half a line was written without an error", answers{func([]byte) (int, error) { return 20, nil }}, io.ErrShortWrite, true},
		{"half a line was written, and then nothing", answers{func([]byte) (int, error) { return 20, errDisk }, func([]byte) (int, error) { return 0, errDisk }}, errDisk, true},
		{"one line of two was written", answers{func(p []byte) (int, error) { return bytes.IndexByte(p, '\n') + 1, errDisk }}, errDisk, false},
		{"all was written, with an error", answers{func(p []byte) (int, error) { return len(p), errDisk }}, errDisk, false},
		{"more than all was written, it says", answers{func(p []byte) (int, error) { return len(p) + 1, errDisk }}, errDisk, false},
		{"a negative number was written", answers{func([]byte) (int, error) { return -1, errDisk }}, errDisk, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &scriptedWriter{answers: test.answers}
			s := sink.JSONLines(w)
			cmd := newCommand()
			for range test.answers {
				if err := s.Write(t.Context(), chunksOf(cmd, `{"code":"secret"}`, "2")); !errors.Is(err, test.err) {
					t.Errorf("got error %v, want %v", err, test.err)
				} else if strings.Contains(err.Error(), "secret") {
					t.Errorf("got error %q, want no payload in it", err)
				}
			}
			mustDo(t, s.End(t.Context(), completed(cmd)), s.End(t.Context(), completed(cmd)))
			next := w.writes[len(test.answers):]
			if got := strings.HasPrefix(next[0], "\n"); got != test.torn {
				t.Errorf("the next write begins %q: got a newline %t, want %t", next[0][:10], got, test.torn)
			}
			if strings.HasPrefix(next[1], "\n") {
				t.Errorf("the write after that begins %q, want no newline", next[1][:10])
			}
		})
	}
}

func TestJSONLinesTakesTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe() // takes nothing until it is read
		s := sink.JSONLines(writer)
		first := make(chan error, 1)
		go func() { first <- s.Begin(t.Context(), newCommand()) }()
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cmd := newCommand()
		if err := s.Write(ctx, chunksOf(cmd, "1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write while another has its turn: got %v, want context.DeadlineExceeded", err)
		}
		if err := s.Write(ctx, chunksOf(cmd, "1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write under a context that has ended: got %v, want context.DeadlineExceeded", err)
		}
		mustDo(t, reader.CloseWithError(errDisk))
		if err := <-first; !errors.Is(err, errDisk) {
			t.Errorf("the call that had its turn: got %v, want errDisk", err)
		}
	})
}

func TestJSONLinesRefuses(t *testing.T) {
	t.Parallel()
	cmd := newCommand()
	for _, test := range []struct {
		name string
		call func() error
		want string
	}{
		{
			"a nil writer", func() error { return sink.JSONLines(nil).Begin(t.Context(), cmd) },
			"sink: JSONLines: the writer is nil",
		},
		{
			"a payload that is not JSON, without showing it",
			func() error {
				return sink.JSONLines(io.Discard).Write(t.Context(), chunksOf(cmd, `"fine"`, `{"secret`))
			},
			"sink: JSONLines: chunk 1 of command " + cmd.ID.String() + " cannot be encoded",
		},
		{
			"what comes when its ctx has ended, each time",
			func() error {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				s := sink.JSONLines(io.Discard)
				for range 20 { // a select may choose either way
					if err := s.Begin(ctx, cmd); err == nil {
						return nil
					}
				}
				return s.Begin(ctx, cmd)
			},
			"sink: JSONLines: context canceled",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := test.call(); err == nil || err.Error() != test.want {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
}

func TestJSONLinesLosesNoOtherLineToAWriterThatPanicked(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	panics := true
	s := sink.JSONLines(writerFunc(func(p []byte) (int, error) {
		if panics {
			written.Write(p[:10])
			panic("disk")
		}
		return written.Write(p)
	}))
	client := vehicletest.NewServer(t).Client(t, vehicle.WithSink(s))
	if _, err := client.Execute(t.Context(), newCommand()); !errors.Is(err, vehicle.ErrSink) {
		t.Errorf("got %v, want ErrSink", err)
	}
	panics = false
	mustDo(t, s.Begin(t.Context(), newCommand()))
	torn, next, _ := strings.Cut(written.String(), "\n")
	if len(torn) != 10 || !json.Valid([]byte(next)) {
		t.Errorf("got %q and %q, want what was written before the panic, and a line", torn, next)
	}
}

// writerFunc is an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
