package sink_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestBestEffortKeepsErrorsFromTheCommand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		fail   map[string]error
		panics map[string]any
		calls  []string
		errors []string
	}{
		{
			name:  "a sink that works gets everything",
			calls: []string{"a.Begin", "a.Write 1", "a.Write 2", "a.Write 3", "a.End completed"},
		},
		{
			name:   "one that refused Begin hears no more of the command",
			fail:   map[string]error{"Begin": errDisk},
			calls:  []string{"a.Begin"},
			errors: []string{"Begin: disk full"},
		},
		{
			name:   "one that failed in Write gets no more batches, and a failed Result",
			fail:   map[string]error{"Write": errDisk},
			calls:  []string{"a.Begin", "a.Write 1", "a.End failed"},
			errors: []string{"Write: disk full"},
		},
		{
			name:   "one that fails twice is reported twice",
			fail:   map[string]error{"Write": errDisk, "End": errDisk},
			calls:  []string{"a.Begin", "a.Write 1", "a.End failed"},
			errors: []string{"Write: disk full", "End: disk full"},
		},
		{
			name:   "one that fails in End has had everything",
			fail:   map[string]error{"End": errDisk},
			calls:  []string{"a.Begin", "a.Write 1", "a.Write 2", "a.Write 3", "a.End completed"},
			errors: []string{"End: disk full"},
		},
		{
			name:   "a panic in Begin is an error",
			panics: map[string]any{"Begin": 1},
			calls:  []string{"a.Begin"},
			errors: []string{"Begin: panic"},
		},
		{
			name:   "a panic in Write is an error",
			panics: map[string]any{"Write": 1},
			calls:  []string{"a.Begin", "a.Write 1", "a.End failed"},
			errors: []string{"Write: panic"},
		},
		{
			name:   "a panic in End is an error",
			panics: map[string]any{"End": 1},
			calls:  []string{"a.Begin", "a.Write 1", "a.Write 2", "a.Write 3", "a.End completed"},
			errors: []string{"End: panic"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			j, a, _, _ := spies()
			a.fail, a.panics = test.fail, test.panics
			cmd := newCommand()
			var reported []string
			type key struct{}
			during := func(op string) context.Context { return context.WithValue(t.Context(), key{}, op) }
			s := sink.BestEffort(a, func(ctx context.Context, id uuid.UUID, op string, err error) {
				if id != cmd.ID {
					t.Errorf("got command %s, want %s", id, cmd.ID)
				}
				if got := ctx.Value(key{}); got != op {
					t.Errorf("got the ctx of %v with an error of %s, want that of the call that failed", got, op)
				}
				text, _, _ := strings.Cut(err.Error(), " at ")
				reported = append(reported, op+": "+text)
			})
			for range 2 { // the second run of the command is a new one
				j.lines, reported = nil, nil
				chunks := chunksOf(cmd, "1", "2", "3", "4", "5", "6")
				for i, err := range []error{
					s.Begin(during("Begin"), cmd),
					s.Write(during("Write"), chunks[:1]),
					s.Write(during("Write"), chunks[1:3]),
					s.Write(during("Write"), chunks[3:]),
					s.End(during("End"), completed(cmd)),
				} {
					if err != nil {
						t.Errorf("call %d: got error %v, want none", i+1, err)
					}
				}
				if diff := cmp.Diff(test.calls, j.lines); diff != "" {
					t.Errorf("the calls (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.errors, reported); diff != "" {
					t.Errorf("the errors reported (-want +got):\n%s", diff)
				}
			}
		})
	}
}

type textless struct{ text string }

func (e *textless) Error() string { return e.text }

// An error that is a nil pointer, and has no text, is the sink's panic, and no panic of the callback that logs it.
func TestBestEffortReportsAnErrorThatHasAText(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"Begin", "Write", "End"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			a := &spy{name: "a", fail: map[string]error{op: (*textless)(nil)}}
			var reported []string
			s := sink.BestEffort(a, func(_ context.Context, _ uuid.UUID, op string, err error) {
				text, _, _ := strings.Cut(err.Error(), " at ")
				reported = append(reported, op+": "+text)
			})
			client := vehicletest.NewServer(t).Client(t, vehicle.WithSink(s))
			if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ClearDTC"}); err != nil {
				t.Errorf("Execute: got error %v, want none", err)
			}
			if diff := cmp.Diff([]string{op + ": panic"}, reported); diff != "" {
				t.Errorf("the errors reported (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBestEffortFailsOneCommandAndNotAnother(t *testing.T) {
	t.Parallel()
	bad, good := newCommand(), newCommand()
	var m sink.Memory
	s := sink.BestEffort(sink.Func{OnBegin: m.Begin, OnEnd: m.End, OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
		if chunks[0].CommandID == bad.ID {
			return errDisk
		}
		return m.Write(ctx, chunks)
	}}, nil)
	for _, cmd := range []vehicle.Command{bad, good} {
		if err := s.Begin(t.Context(), cmd); err != nil {
			t.Errorf("Begin: got error %v, want none", err)
		}
	}
	for _, cmd := range []vehicle.Command{bad, good} {
		if err := s.Write(t.Context(), chunksOf(cmd, "1", "2")); err != nil {
			t.Errorf("Write: got error %v, want none", err)
		}
	}
	for _, cmd := range []vehicle.Command{bad, good} {
		if err := s.End(t.Context(), completed(cmd)); err != nil {
			t.Errorf("End: got error %v, want none", err)
		}
	}
	if got := m.Status(good.ID); got != vehicle.StatusCompleted || len(m.Chunks(good.ID)) != 2 {
		t.Errorf("the good command: got %q with %d chunks, want completed with 2", got, len(m.Chunks(good.ID)))
	}
	res, _ := m.Result(bad.ID)
	if res.Status != vehicle.StatusFailed || !errors.Is(res.Err, vehicle.ErrSink) || !errors.Is(res.Err, errDisk) {
		t.Errorf("the bad command: got %q, %v, want failed with ErrSink and errDisk", res.Status, res.Err)
	}
}

func TestBestEffortKeepsTheCommandsOwnFailure(t *testing.T) {
	t.Parallel()
	_, a, _, _ := spies()
	a.fail = map[string]error{"Write": errDisk}
	s := sink.BestEffort(a, nil)
	cmd := newCommand()
	if err := errors.Join(s.Begin(t.Context(), cmd), s.Write(t.Context(), chunksOf(cmd, "1")),
		s.End(t.Context(), failed(cmd, context.Canceled))); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if got := a.result(t); got.Err != context.Canceled { //nolint:errorlint // the very same
		t.Errorf("got Err %v, want the command's own", got.Err)
	}
}

func TestBestEffortReportsANilSink(t *testing.T) {
	t.Parallel()
	var got error
	s := sink.BestEffort(nil, func(_ context.Context, _ uuid.UUID, _ string, err error) { got = err })
	if err := live(t.Context(), s); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if want := "the sink is nil"; got == nil || got.Error() != want {
		t.Errorf("reported: got %v, want %q", got, want)
	}
}

// A callback that panics fails the command, and leaves nothing behind for the next run of it.
func TestBestEffortOutlivesItsCallback(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	var chunks, ends int
	inner := sink.Func{
		OnBegin: func(context.Context, vehicle.Command) error { return down },
		OnWrite: func(_ context.Context, batch []vehicle.Chunk) error { chunks += len(batch); return nil },
		OnEnd:   func(context.Context, vehicle.Result) error { ends++; return nil },
	}
	s := sink.BestEffort(inner, func(context.Context, uuid.UUID, string, error) { panic("a bug in the callback") })
	client := vehicletest.NewServer(t).Client(t, vehicle.WithSink(s))
	cmd := newCommand()
	if _, err := client.Execute(t.Context(), cmd); !errors.Is(err, vehicle.ErrSink) {
		t.Errorf("got %v, want ErrSink", err)
	}
	down = nil
	if _, err := client.Execute(t.Context(), cmd); err != nil {
		t.Errorf("the next run: %v", err)
	}
	if chunks != 3 || ends != 1 {
		t.Errorf("the next run: got %d chunks and %d ends, want 3 and 1", chunks, ends)
	}
}
