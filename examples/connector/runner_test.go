package main

import (
	"context"
	"log/slog"
	"testing"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// A client may send it again, and a vehicle must not be asked twice. So it is however close the client's leaving is to
// the command's beginning.
func TestACommandThatIsRefusedDoesNotReachAVehicle(t *testing.T) {
	t.Parallel()
	server := vehicletest.NewServer(t)
	leave := make(chan context.CancelFunc, 1)
	client, err := vehicle.New(server.Target(), append(server.Options(), vehicle.WithSink(sink.Func{OnBegin: func(context.Context, vehicle.Command) error {
		go (<-leave)()
		return nil
	}}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := newRunner(&backends{vehicles: client, stats: new(stats), traces: new(traces)}, defaults(), slog.New(slog.DiscardHandler))
	defer r.close()
	accepted := 0
	for range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		leave <- cancel
		if err := r.start(ctx, vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "ReadDTC"}); err == nil {
			accepted++
		}
		r.running.Wait()
		if got := len(server.Requests()); got != accepted {
			t.Fatalf("got %d requests at the vehicle, want one for each of the %d commands that were accepted", got, accepted)
		}
	}
}
