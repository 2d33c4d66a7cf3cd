package sink_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

func TestChainGoesOnWhenTheSinkBeforeHasTakenIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		fail   map[string]error // of b
		panics map[string]any
		want   []string
		err    string
	}{
		{
			name: "all take it",
			want: []string{"a.Begin", "b.Begin", "c.Begin", "a.Write 2", "b.Write 2", "c.Write 2", "a.End completed", "b.End completed", "c.End completed"},
		},
		{
			name: "one refuses Begin: those before it end, those after it hear nothing",
			fail: map[string]error{"Begin": errDisk},
			want: []string{"a.Begin", "b.Begin", "a.End failed"},
			err:  "sink 2 of 3 (*sink_test.spy): disk full",
		},
		{
			name:   "a panic in Begin is a refusal",
			panics: map[string]any{"Begin": errDisk},
			want:   []string{"a.Begin", "b.Begin", "a.End failed"},
			err:    "sink 2 of 3 (*sink_test.spy): panic at helper_test.go:",
		},
		{
			name: "one fails in Write: those after it do not see the batch, and all end",
			fail: map[string]error{"Write": errDisk},
			want: []string{"a.Begin", "b.Begin", "c.Begin", "a.Write 2", "b.Write 2", "a.End failed", "b.End failed", "c.End failed"},
			err:  "sink 2 of 3 (*sink_test.spy): disk full",
		},
		{
			name:   "a panic in Write is a failure",
			panics: map[string]any{"Write": errDisk},
			want:   []string{"a.Begin", "b.Begin", "c.Begin", "a.Write 2", "b.Write 2", "a.End failed", "b.End failed", "c.End failed"},
			err:    "sink 2 of 3 (*sink_test.spy): panic at helper_test.go:",
		},
		{
			name: "one fails in End: those after it hear that the command failed",
			fail: map[string]error{"End": errDisk},
			want: []string{"a.Begin", "b.Begin", "c.Begin", "a.Write 2", "b.Write 2", "c.Write 2", "a.End completed", "b.End completed", "c.End failed"},
			err:  "sink 2 of 3 (*sink_test.spy): disk full",
		},
		{
			name:   "a panic in End is a failure",
			panics: map[string]any{"End": errDisk},
			want:   []string{"a.Begin", "b.Begin", "c.Begin", "a.Write 2", "b.Write 2", "c.Write 2", "a.End completed", "b.End completed", "c.End failed"},
			err:    "sink 2 of 3 (*sink_test.spy): panic at helper_test.go:",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			j, a, b, c := spies()
			b.fail, b.panics = test.fail, test.panics
			err := live(t.Context(), sink.Chain(a, b, c))
			if diff := cmp.Diff(test.want, j.lines); diff != "" {
				t.Errorf("the calls (-want +got):\n%s", diff)
			}
			wantError(t, err, test.err)
		})
	}
}

// wantError wants errDisk with a text that begins as given, or no error for "".
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Errorf("got error %q, want none", err)
	case text != "" && (!errors.Is(err, errDisk) || !strings.HasPrefix(err.Error(), text)):
		t.Errorf("got error %v, want %q, which is errDisk", err, text)
	}
}

func TestSinksAreToldWhyACommandThatDidNotBeginFailed(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func(...vehicle.Sink) vehicle.Sink{"Chain": sink.Chain, "Tee": sink.Tee} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, a, b, _ := spies()
			errQuota := errors.New("over quota")
			a.fail = map[string]error{"End": errQuota}
			b.fail = map[string]error{"Begin": errDisk}
			cmd := newCommand()
			before := time.Now()
			err := of(a, b).Begin(t.Context(), cmd)
			wantError(t, err, "sink 2 of 2 (*sink_test.spy): disk full; sink 1 of 2 (*sink_test.spy): over quota")
			if !errors.Is(err, errQuota) {
				t.Errorf("got error %v, want errQuota in it too", err)
			}
			got := a.result(t)
			if !errors.Is(got.Err, vehicle.ErrSink) || !errors.Is(got.Err, errDisk) {
				t.Errorf("got Err %v, want ErrSink and errDisk", got.Err)
			}
			if got.StartedAt.Before(before) || got.FinishedAt.Before(got.StartedAt) || got.FinishedAt.After(time.Now()) {
				t.Errorf("got %v to %v, want times of the call", got.StartedAt, got.FinishedAt)
			}
			want := vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: got.Err, StartedAt: got.StartedAt, FinishedAt: got.FinishedAt}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return a.Error() == b.Error() })); diff != "" {
				t.Errorf("the Result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChainHidesNoEarlierFailure(t *testing.T) {
	t.Parallel()
	_, a, b, c := spies()
	a.fail = map[string]error{"End": errDisk}
	errQuota := errors.New("over quota")
	b.fail = map[string]error{"End": errQuota}
	s := sink.Chain(a, b, c)

	res := failed(newCommand(), context.Canceled)
	err := s.End(t.Context(), res)
	if want := "sink 1 of 3 (*sink_test.spy): disk full; sink 2 of 3 (*sink_test.spy): over quota"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %q", err, want)
	}
	if !errors.Is(err, errDisk) || !errors.Is(err, errQuota) {
		t.Errorf("got error %v, want errDisk and errQuota in it", err)
	}
	if got := c.result(t); got.Err != context.Canceled { //nolint:errorlint // the very same
		t.Errorf("got Err %v for the last, want the command's own", got.Err)
	}
}

func TestChainTellsLaterSinksWhatFailedBeforeThem(t *testing.T) {
	t.Parallel()
	_, a, b, c := spies()
	a.fail = map[string]error{"End": errDisk}
	b.fail = map[string]error{"End": errors.New("over quota")}
	if err := sink.Chain(a, b, c).End(t.Context(), completed(newCommand())); err == nil {
		t.Error("got no error, want one")
	}
	if got := a.result(t); got.Status != vehicle.StatusCompleted || got.Err != nil {
		t.Errorf("the first: got %s, %v, want completed", got.Status, got.Err)
	}
	for _, s := range []*spy{b, c} {
		if got := s.result(t); got.Status != vehicle.StatusFailed || !errors.Is(got.Err, vehicle.ErrSink) || !errors.Is(got.Err, errDisk) {
			t.Errorf("%s: got %s, %v, want failed with ErrSink and the first error, errDisk", s.name, got.Status, got.Err)
		}
	}
}

func TestEndsContextOutlivesTheCallersAndHasABound(t *testing.T) {
	t.Parallel()
	combine := map[string]func(...vehicle.Sink) vehicle.Sink{"Chain": sink.Chain, "Tee": sink.Tee}
	for name, of := range combine {
		t.Run(name+", after a refused Begin", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, a, b, _ := spies()
				ctx, cancel := context.WithCancel(t.Context())
				a.during = wantFresh(t)
				b.fail = map[string]error{"Begin": errDisk}
				b.during = func(context.Context, string) { cancel() }
				wantError(t, of(a, b).Begin(ctx, newCommand()), "sink 2 of 2")
				a.result(t)
			})
		})
		t.Run(name+", when one hangs", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, a, b, _ := spies()
				a.during = func(ctx context.Context, _ string) { <-ctx.Done() }
				b.during = wantFresh(t)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := of(a, b).End(ctx, completed(newCommand())); err != nil {
					t.Errorf("got error %v, want none", err)
				}
				b.result(t)
			})
		})
	}
}

func wantFresh(t *testing.T) func(context.Context, string) {
	return func(ctx context.Context, op string) {
		if op != "End" {
			return
		}
		deadline, ok := ctx.Deadline()
		if left := time.Until(deadline); ctx.Err() != nil || !ok || left != 10*time.Second {
			t.Errorf("End's context: got error %v and %v left (%t), want 10s", ctx.Err(), left, ok)
		}
	}
}

func TestANilSinkRefusesEachCommand(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]vehicle.Sink{
		"Chain": sink.Chain(new(sink.Memory), nil),
		"Tee":   sink.Tee(new(sink.Memory), nil),
	} {
		want := "sink 2 of 2 (<nil>): the sink is nil"
		if err := s.Begin(t.Context(), newCommand()); err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %q", name, err, want)
		}
	}
}

func TestThePanicsTextSaysWhereAndHoldsNoPayload(t *testing.T) {
	t.Parallel()
	type node struct {
		counts map[string]int
		next   *node
	}
	var nothing node
	for _, test := range []struct {
		name  string
		panic func()
		want  string
	}{
		{"a string", func() { panic(`{"vin":"secret"}`) }, "with a string"},
		{"an error", func() { panic(errors.New("secret")) }, "with a *errors.errorString"},
		{"a nil map", func() { nothing.counts["secret"] = 1 }, "assignment to entry in nil map"},
		{"a nil pointer", func() { nothing.next.counts = nil }, "invalid memory address or nil pointer dereference"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := sink.Chain(&spy{during: func(context.Context, string) { test.panic() }})
			err := s.Begin(t.Context(), newCommand())
			if err == nil {
				t.Fatal("got no error, want one")
			}
			if text := err.Error(); !strings.Contains(text, "panic at chain_test.go:") || !strings.Contains(text, test.want) || strings.Contains(text, "secret") {
				t.Errorf("got %q, want the place, %q, and no secret", text, test.want)
			}
		})
	}
}

func TestChainDoesNotShareItsArgumentsSlice(t *testing.T) {
	t.Parallel()
	j, a, b, _ := spies()
	sinks := []vehicle.Sink{a}
	s := sink.Chain(sinks...)
	sinks[0] = b
	if err := s.Begin(t.Context(), newCommand()); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if diff := cmp.Diff([]string{"a.Begin"}, j.lines); diff != "" {
		t.Errorf("the calls (-want +got):\n%s", diff)
	}
}

// What a sink after the one that failed stores or logs is a text like the client's own: without VINs, and of one line.
func TestChainTellsSinksNoMoreThanTheClientWould(t *testing.T) {
	t.Parallel()
	const vin = "1FTFW1ET5DFC10312"
	itself := errors.New("cannot file " + vin + "\nsecond line")
	failing := sink.Func{OnEnd: func(context.Context, vehicle.Result) error { return itself }}
	var told error
	after := sink.Func{OnEnd: func(_ context.Context, res vehicle.Result) error { told = res.Err; return nil }}
	chain, cmd := sink.Chain(failing, after), newCommand()
	mustDo(t, chain.Begin(t.Context(), cmd))
	_ = chain.End(t.Context(), completed(cmd))
	if !errors.Is(told, vehicle.ErrSink) || !errors.Is(told, itself) {
		t.Errorf("got %v, want ErrSink and the sink's own error", told)
	}
	if text := told.Error(); strings.Contains(text, vin) || strings.Contains(text, "\n") || !strings.Contains(text, "cannot file [VIN] second line") {
		t.Errorf("got %q, want one line without the VIN", text)
	}
}

// What the first sink has taken too long for is not the next one's doing, in a Chain as in WithSink(a, b).
func TestASinkThatTookTheFinalChunkLateHasItInAChain(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(a, b vehicle.Sink) []vehicle.Sink{
		"side by side":               func(a, b vehicle.Sink) []vehicle.Sink { return []vehicle.Sink{a, b} },
		"in a chain":                 func(a, b vehicle.Sink) []vehicle.Sink { return []vehicle.Sink{sink.Chain(a, b)} },
		"in a chain, as best it can": func(a, b vehicle.Sink) []vehicle.Sink { return []vehicle.Sink{sink.Chain(a, sink.BestEffort(b, nil))} },
		"in a chain in a chain": func(a, b vehicle.Sink) []vehicle.Sink {
			return []vehicle.Sink{sink.BestEffort(sink.Chain(sink.Chain(a), b), nil)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`0`)}))
				slow := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { time.Sleep(40 * time.Second); return nil }}
				var told vehicle.Result
				next := sink.Func{
					OnWrite: func(ctx context.Context, _ []vehicle.Chunk) error { return ctx.Err() },
					OnEnd:   func(_ context.Context, res vehicle.Result) error { told = res; return nil },
				}
				client := server.Client(t, vehicle.WithSink(arrange(slow, next)...))
				_, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"})
				if err != nil || told.Err != nil {
					t.Errorf("got %v, and the second sink was told %v, want neither", err, told.Err)
				}
			})
		})
	}
}

// inTime gives the sinks in it a time of their own, as BestEffort's documentation asks for.
type inTime struct {
	vehicle.Sink
	d time.Duration
}

func (w inTime) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	ctx, cancel := context.WithTimeout(ctx, w.d)
	defer cancel()
	return w.Sink.Write(ctx, chunks)
}

// The time that a sink gives to a Chain bounds the sinks in it, whatever the attempt's limit.
func TestAChainKeepsTheTimeThatItIsGiven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`0`)}))
		slow := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { time.Sleep(40 * time.Second); return nil }}
		var took time.Duration
		hangs := sink.Func{OnWrite: func(ctx context.Context, _ []vehicle.Chunk) error {
			start := time.Now()
			<-ctx.Done()
			took = time.Since(start)
			return ctx.Err()
		}}
		client := server.Client(t, vehicle.WithSink(sink.BestEffort(inTime{sink.Chain(slow, hangs), 5 * time.Second}, nil)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"})
		if err != nil || took > time.Minute {
			t.Errorf("got %v, and the sink had %v, want no error and no more than the 5 s that were given", err, took)
		}
	})
}

// valued gives the sinks in it a value.
type valued struct{ vehicle.Sink }

type valuedKey struct{}

func (w valued) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	return w.Sink.Write(context.WithValue(ctx, valuedKey{}, "value"), chunks)
}

// What the second sink of a Chain gets, where the first has taken its time: the attempt's deadline while there is any of it,
// and what the context carries in any case.
func TestTheContextOfTheNextInAChain(t *testing.T) {
	t.Parallel()
	for took, want := range map[time.Duration]time.Duration{time.Second: 29 * time.Second, 40 * time.Second: time.Hour - 40*time.Second} {
		t.Run(took.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`0`)}))
				first := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { time.Sleep(took); return nil }}
				var got time.Duration
				var value any
				next := sink.Func{OnWrite: func(ctx context.Context, _ []vehicle.Chunk) error {
					deadline, _ := ctx.Deadline()
					got, value = time.Until(deadline), ctx.Value(valuedKey{})
					return nil
				}}
				client := server.Client(t, vehicle.WithSink(valued{sink.Chain(first, next)}))
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				_, err := client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"})
				if err != nil || got != want || value != "value" {
					t.Errorf("got %v, and the second sink %v, with the value %v; want no error, %v, and the value", err, got, value, want)
				}
			})
		})
	}
}

// What ends the command meanwhile is the cause, as ever.
func TestTheCauseInAChainThatGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`0`)}))
		ctx, cancel := context.WithCancelCause(t.Context())
		mine := errors.New("mine")
		slow := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { time.Sleep(40 * time.Second); return nil }}
		var cause, derived, err error
		next := sink.Func{OnWrite: func(ctx context.Context, _ []vehicle.Chunk) error {
			d, stop := context.WithCancel(ctx)
			defer stop()
			cancel(mine)
			<-d.Done()
			err, cause, derived = ctx.Err(), context.Cause(ctx), context.Cause(d)
			return ctx.Err()
		}}
		client := server.Client(t, vehicle.WithSink(sink.Chain(slow, next)))
		_, _ = client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"})
		if !errors.Is(cause, mine) || !errors.Is(derived, mine) {
			t.Errorf("ctx ended with %v; got the cause %v, and of a context made of it %v, want %v", err, cause, derived, mine)
		}
	})
}
