package vehicle_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// Watcher is an observer: a sink that keeps nothing, here, and that is also told what happens on the way.
type Watcher struct{ sink.Func }

// TagCommand may add values to the context that the command runs under.
func (Watcher) TagCommand(ctx context.Context, _ vehicle.Command) context.Context { return ctx }

// TagAttempt may add values that gRPC's interceptors see.
func (Watcher) TagAttempt(ctx context.Context, _ vehicle.Attempt) context.Context { return ctx }

// Observe must be fast: the command waits. Later versions may have more events.
func (Watcher) Observe(_ context.Context, event vehicle.Event) {
	switch e := event.(type) {
	case vehicle.AttemptEnded:
		fmt.Println("attempt", e.Attempt.Number, "from chunk", e.Attempt.ResumeFrom, "ended with", e.Code)
	case vehicle.CommandEnded:
		fmt.Println(e.Result.Command.Name, e.Result.Status)
	}
}

// An observer sees attempts and retries. Package promsink makes metrics of them, and otelsink traces.
func ExampleObserver() {
	client, stop := startMock(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Send(`{"dtc":"P0420"}`), vehicletest.Fail(codes.Unavailable, "vehicle is offline")},
		vehicletest.Script{vehicletest.Resume(), vehicletest.Answer(`{"dtc":"P0420"}`, `{"dtc":"U0121-87"}`)}))
	defer stop()
	_, err := client.Execute(context.Background(), vehicle.Command{VehicleID: vehicleID, Name: "ReadDTC"}, vehicle.WithSink(Watcher{}))
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// attempt 1 from chunk 0 ended with Unavailable
	// attempt 2 from chunk 1 ended with OK
	// ReadDTC completed
}
