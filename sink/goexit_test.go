package sink_test

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// arrangements are the ways in which two sinks are served.
var arrangements = map[string]func(a, b vehicle.Sink) []vehicle.Sink{
	"side by side": func(a, b vehicle.Sink) []vehicle.Sink { return []vehicle.Sink{a, b} },
	"in a chain":   func(a, b vehicle.Sink) []vehicle.Sink { return []vehicle.Sink{sink.Chain(a, b)} },
	"in a tee":     func(a, b vehicle.Sink) []vehicle.Sink { return []vehicle.Sink{sink.Tee(a, b)} },
}

// A sink of a test fails it with t.FailNow, which ends the goroutine: each sink that had begun gets its End.
func TestASinkThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	for name, arrange := range arrangements {
		for _, test := range []struct {
			name    string
			other   func(count vehicle.Sink, exits sink.Func) (a, b vehicle.Sink)
			exiting sink.Func
		}{
			{
				"in Begin", func(count vehicle.Sink, exits sink.Func) (a, b vehicle.Sink) { return count, exits },
				sink.Func{OnBegin: func(context.Context, vehicle.Command) error { runtime.Goexit(); return nil }},
			},
			{
				"in End", func(count vehicle.Sink, exits sink.Func) (a, b vehicle.Sink) { return exits, count },
				sink.Func{OnEnd: func(context.Context, vehicle.Result) error { runtime.Goexit(); return nil }},
			},
		} {
			t.Run(test.name+", "+name, func(t *testing.T) {
				t.Parallel()
				server := vt.NewServer(t)
				begun, ends := 0, 0
				var told vehicle.Result
				client := server.Client(t, vehicle.WithSink(arrange(test.other(sink.Func{
					OnBegin: func(context.Context, vehicle.Command) error { begun++; return nil },
					OnEnd:   func(_ context.Context, res vehicle.Result) error { ends, told = ends+1, res; return nil },
				}, test.exiting))...))
				var wg sync.WaitGroup
				wg.Go(func() {
					_, _ = client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
				})
				wg.Wait()
				if begun != 1 || ends != 1 {
					t.Errorf("the other sink: got %d Begin and %d End, want one each", begun, ends)
				}
				if name != "in a tee" && told.Status != vehicle.StatusFailed { // a Tee tells all at once what the command came to
					t.Errorf("the other sink was told %s, want failed", told.Status)
				}
			})
		}
	}
}

// exits is a log handler that ends the goroutine, as t.FailNow does.
type exits struct{ slog.Handler }

func (exits) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (exits) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "vehicle: a sink failed to end a failed command" {
		runtime.Goexit()
	}
	return nil
}

func TestALogThatEndsTheGoroutine(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Fail(codes.NotFound, "no such vehicle")}))
	ends := 0
	client := server.Client(t, vehicle.WithLogger(slog.New(exits{slog.DiscardHandler})), vehicle.WithSink(
		sink.Func{OnEnd: func(context.Context, vehicle.Result) error { return errDisk }},
		sink.Func{OnEnd: func(context.Context, vehicle.Result) error { ends++; return nil }}))
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"}) })
	wg.Wait()
	if ends != 1 {
		t.Errorf("the second sink: got %d End, want one", ends)
	}
}
