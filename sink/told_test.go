package sink_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
	"github.com/sovd-go/vehicle/sink"
)

// teller is a sink that says what it was told, and does its End with its Write.
type teller struct {
	spy

	does bool
	told []string
}

func (s *teller) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	if end := lastly.Told(ctx, s); end != nil {
		end.Done = s.does
		s.told = append(s.told, fmt.Sprintf("certain %t", end.Certain))
	} else {
		s.told = append(s.told, "nothing")
	}
	return s.spy.Write(ctx, chunks)
}

// Which sinks are told with the final chunk what comes, and whether it is certain.
func TestWhatSinksAreToldOfTheEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		does [3]bool
		wrap func(a, b, c vehicle.Sink) vehicle.Sink
		want [3]string
		done bool // the whole
	}{
		{
			"a chain whose sinks do their End", [3]bool{true, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Chain(a, b, c) },
			[3]string{"certain false", "certain false", "certain true"}, true,
		},
		{
			"a chain of which one does not", [3]bool{false, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Chain(a, b, c) },
			[3]string{"certain false", "certain false", "certain false"}, false,
		},
		{
			"a chain in a chain", [3]bool{true, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Chain(a, sink.Chain(b, c)) },
			[3]string{"certain false", "certain false", "certain true"}, true,
		},
		{
			"a chain before another sink", [3]bool{true, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Chain(sink.Chain(a, b), c) },
			[3]string{"certain false", "certain false", "certain true"}, true,
		},
		{
			"best effort does no harm", [3]bool{true, false, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Chain(a, sink.BestEffort(b, nil), c) },
			[3]string{"certain false", "certain false", "certain true"}, true,
		},
		{
			"best effort at the end", [3]bool{true, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Chain(a, b, sink.BestEffort(c, nil)) },
			[3]string{"certain false", "certain false", "certain true"}, true,
		},
		{
			"a tee: nobody knows of the others", [3]bool{true, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink { return sink.Tee(a, b, c) },
			[3]string{"nothing", "nothing", "nothing"}, false,
		},
		{
			"a chain in a sink that may still fail", [3]bool{true, true, true},
			func(a, b, c vehicle.Sink) vehicle.Sink {
				return sink.Chain(a, struct{ vehicle.Sink }{sink.Chain(b, c)})
			},
			[3]string{"certain false", "nothing", "nothing"}, false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var spies [3]*teller
			for i := range spies {
				spies[i] = &teller{does: test.does[i]}
			}
			s := test.wrap(spies[0], spies[1], spies[2])
			cmd := vehicle.Command{ID: uuid.New()}
			res := &vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, FinishedAt: time.Now()}
			if err := s.Begin(t.Context(), cmd); err != nil {
				t.Fatal(err)
			}
			all := lastly.NewTeller(res)
			if err := s.Write(all.Next(t.Context(), s, true), []vehicle.Chunk{{CommandID: cmd.ID, Final: true}}); err != nil {
				t.Fatal(err)
			}
			if err := s.End(t.Context(), *res); err != nil {
				t.Fatal(err)
			}
			var got [3]string
			for i, spy := range spies {
				got[i] = spy.told[0]
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if all.AllDone() != test.done {
				t.Errorf("all done: got %t, want %t", all.AllDone(), test.done)
			}
		})
	}
}
