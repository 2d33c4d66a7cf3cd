package vehicle_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// told is a recorder that notes which End it is told of with the final chunk.
type told struct {
	*recorder

	does    bool  // its End with its Write
	fails   error // what the Write returns with which it is told
	results []vehicle.Result
	certain bool
}

func (s *told) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	end := lastly.Told(ctx, s)
	if end != nil {
		if !chunks[len(chunks)-1].Final {
			s.tb.Error("told before the final chunk")
		}
		res, ok := end.Result.(*vehicle.Result)
		if !ok {
			s.tb.Fatalf("got a %T, want a *vehicle.Result", end.Result)
		}
		s.results = append(s.results, *res)
		s.certain, end.Done = end.Certain, s.does
	}
	if err := s.recorder.Write(ctx, chunks); err != nil || end == nil {
		return err // the first chunk may come in a Write of its own
	}
	return s.fails
}

func (s *told) ended(cmd vehicle.Command) []vehicle.Result { return s.recorder.ended[cmd.ID] }

func TestExecuteTellsSinksOfTheEndWithTheFinalChunk(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		does    bool
		fails   error // the second sink's
		certain bool
	}{
		{"the first does its End", true, nil, true},
		{"the first does not", false, nil, false},
		{"the second fails", true, errSinkItself, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t)
			first, second := &told{recorder: newRecorder(t), does: test.does}, &told{recorder: newRecorder(t), fails: test.fails}
			cmd := command("ReadDTC")
			res, err := server.Client(t).Execute(t.Context(), cmd, vehicle.WithSink(first, second))
			if !errors.Is(err, test.fails) || (err == nil) != (test.fails == nil) {
				t.Fatalf("got %v, want %v", err, test.fails)
			}
			if len(first.results) != 1 || len(second.results) != 1 || first.certain || second.certain != test.certain {
				t.Fatalf("got told %d and %d times, certain %t and %t, want once each, certain false and %t",
					len(first.results), len(second.results), first.certain, second.certain, test.certain)
			}
			if ended := first.ended(cmd); len(ended) != 1 || ended[0].Status != res.Status {
				t.Errorf("got End with %+v, want one like %+v", ended, *res)
			}
			if err != nil {
				return
			}
			for _, s := range []*told{first, second} {
				if diff := cmp.Diff(s.results, s.ended(cmd)); diff != "" {
					t.Errorf("told and ended (-told +ended):\n%s", diff)
				}
			}
		})
	}
}

// What the loop's body will do is not known.
func TestAStreamTellsSinksNothing(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	s := &told{recorder: newRecorder(t)}
	for _, err := range server.Client(t).Stream(t.Context(), command("ReadDTC"), vehicle.WithSink(s)).Chunks() {
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(s.results) > 0 {
		t.Errorf("got told of %+v, want nothing", s.results)
	}
}

// Who cancels while the final chunk is being stored comes too late.
func TestExecuteThatIsCanceledWithTheFinalChunkCompletes(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newRecorder(t)
	s.onWrite = func(_ context.Context, chunks []vehicle.Chunk) error {
		if chunks[len(chunks)-1].Final {
			cancel()
		}
		return nil
	}
	if res, err := server.Client(t).Execute(ctx, command("ReadDTC"), vehicle.WithSink(s)); err != nil || res.Chunks != 3 {
		t.Errorf("got %v after %d chunks, want 3", err, res.Chunks)
	}
}
