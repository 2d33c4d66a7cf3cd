package sink_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/within"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestTeeServesAllAtOnceAndWaitsForAll(t *testing.T) {
	t.Parallel()
	_, a, b, c := spies()
	var together sync.WaitGroup // nobody returns before all have been called
	meet := func(context.Context, string) { together.Done(); together.Wait() }
	a.during, b.during, c.during = meet, meet, meet
	s := sink.Tee(a, b, c)
	cmd := newCommand()
	for _, call := range []func() error{
		func() error { return s.Begin(t.Context(), cmd) },
		func() error { return s.Write(t.Context(), chunksOf(cmd, "1")) },
		func() error { return s.End(t.Context(), completed(cmd)) },
	} {
		together.Add(3)
		if err := call(); err != nil {
			t.Errorf("got error %v, want none", err)
		}
	}
	for _, s := range []*spy{a, b, c} {
		s.result(t)
	}
}

func TestTeeFailsWhenOneFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		fail   map[string]error // of b
		panics map[string]any
		want   []string // sorted
		err    string
	}{
		{
			name: "one refuses Begin: the others end",
			fail: map[string]error{"Begin": errDisk},
			want: []string{"a.Begin", "a.End failed", "b.Begin", "c.Begin", "c.End failed"},
			err:  "sink 2 of 3 (*sink_test.spy): disk full",
		},
		{
			name:   "a panic in Begin is a refusal",
			panics: map[string]any{"Begin": errDisk},
			want:   []string{"a.Begin", "a.End failed", "b.Begin", "c.Begin", "c.End failed"},
			err:    "sink 2 of 3 (*sink_test.spy): panic at helper_test.go:",
		},
		{
			name: "one fails in Write: the others have had the batch",
			fail: map[string]error{"Write": errDisk},
			want: []string{"a.Begin", "a.End failed", "a.Write 2", "b.Begin", "b.End failed", "b.Write 2", "c.Begin", "c.End failed", "c.Write 2"},
			err:  "sink 2 of 3 (*sink_test.spy): disk full",
		},
		{
			name:   "a panic in Write is a failure",
			panics: map[string]any{"Write": errDisk},
			want:   []string{"a.Begin", "a.End failed", "a.Write 2", "b.Begin", "b.End failed", "b.Write 2", "c.Begin", "c.End failed", "c.Write 2"},
			err:    "sink 2 of 3 (*sink_test.spy): panic at helper_test.go:",
		},
		{
			name:   "a panic in End is a failure, and all have had it",
			panics: map[string]any{"End": errDisk},
			want:   []string{"a.Begin", "a.End completed", "a.Write 2", "b.Begin", "b.End completed", "b.Write 2", "c.Begin", "c.End completed", "c.Write 2"},
			err:    "sink 2 of 3 (*sink_test.spy): panic at helper_test.go:",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			j, a, b, c := spies()
			b.fail, b.panics = test.fail, test.panics
			err := live(t.Context(), sink.Tee(a, b, c))
			slices.Sort(j.lines)
			if diff := cmp.Diff(test.want, j.lines); diff != "" {
				t.Errorf("the calls, sorted (-want +got):\n%s", diff)
			}
			wantError(t, err, test.err)
		})
	}
}

func TestTeeJoinsTheErrorsInTheOrderOfTheSinks(t *testing.T) {
	t.Parallel()
	_, a, b, c := spies()
	errQuota := errors.New("over quota")
	a.fail = map[string]error{"Begin": errDisk}
	b.fail = map[string]error{"End": errDisk}
	c.fail = map[string]error{"Begin": errQuota}
	err := sink.Tee(a, b, c).Begin(t.Context(), newCommand())
	want := "sink 1 of 3 (*sink_test.spy): disk full; sink 3 of 3 (*sink_test.spy): over quota; sink 2 of 3 (*sink_test.spy): disk full"
	if err == nil || err.Error() != want || !errors.Is(err, errQuota) {
		t.Errorf("got error %v, want %q, with errQuota in it", err, want)
	}
	if got := b.result(t); !errors.Is(got.Err, vehicle.ErrSink) || !errors.Is(got.Err, errDisk) || !errors.Is(got.Err, errQuota) {
		t.Errorf("got Err %v, want ErrSink and both errors", got.Err)
	}
}

func TestTeeNoticesASinkThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	_, a, b, _ := spies()
	b.during = func(context.Context, string) { runtime.Goexit() }
	want := "sink 2 of 2 (*sink_test.spy): the call ended its goroutine"
	if err := sink.Tee(a, b).Write(t.Context(), nil); err == nil || err.Error() != want {
		t.Errorf("got error %v, want %q", err, want)
	}
}

// tallying is an observer that keeps, without a lock, what belongs to one command.
type tallying struct {
	sink.Func

	last map[string]int // that of the last command
}

type tallyKey struct{}

func (*tallying) TagCommand(ctx context.Context, _ vehicle.Command) context.Context {
	return context.WithValue(ctx, tallyKey{}, make(map[string]int))
}

func (*tallying) TagAttempt(ctx context.Context, _ vehicle.Attempt) context.Context { return ctx }

func (o *tallying) Observe(ctx context.Context, event vehicle.Event) {
	tally, ok := ctx.Value(tallyKey{}).(map[string]int)
	if !ok {
		return // the client's
	}
	switch e := event.(type) {
	case vehicle.SinkCalled:
		tally[e.Sink+"."+e.Method]++ // the race detector looks on
	case vehicle.CommandEnded:
		o.last = tally
	}
}

// What an observer keeps with a command is one goroutine's, as vehicle.Observer says, also where several sinks are called at once.
func TestObserversAreToldOfATeesCallsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	observer := new(tallying)
	client := vehicletest.NewServer(t).Client(t)
	a, b, c := new(sink.Memory), new(sink.Memory), new(sink.Memory)
	for range 20 {
		_, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ClearDTC"},
			vehicle.WithSink(observer, sink.Tee(a, sink.Chain(b, sink.Tee(c)))))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int{
			"*sink.Memory.Begin": 3, "*sink.Memory.Write": 3, "*sink.Memory.End": 3,
			"*sink_test.tallying.Begin": 1, "*sink_test.tallying.Write": 1, "*sink_test.tallying.End": 1,
		}
		if diff := cmp.Diff(want, observer.last); diff != "" {
			t.Fatalf("the calls that the observer saw (-want +got):\n%s", diff)
		}
	}
}

func TestASinkOfATeeCountsAsInsideASink(t *testing.T) {
	t.Parallel()
	_, a, _, _ := spies()
	a.during = func(context.Context, string) {
		if within.Inside((*vehicle.Client).Execute) != 1 {
			t.Error("it does not: Client.Close would wait for a command that waits for Close")
		}
	}
	if err := live(t.Context(), sink.Tee(a)); err != nil {
		t.Errorf("got error %v, want none", err)
	}
}
