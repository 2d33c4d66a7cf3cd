package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

var vehicleID = uuid.MustParse("123e4567-e89b-42d3-a456-426614174000")

// startMock starts a mock vehicle service and gives a client of it, and what closes both.
func startMock(opts ...vehicletest.Option) (*vehicle.Client, func()) {
	server, err := vehicletest.Start(opts...)
	if err != nil {
		panic(err)
	}
	fast := vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond})
	client, err := vehicle.New(server.Target(), append(server.Options(), fast)...)
	if err != nil {
		panic(err)
	}
	return client, func() {
		_ = client.Close()
		_ = server.Close()
	}
}

// The link breaks in the middle of the answer. The loop sees each chunk once, in order, and no error.
func ExampleClient_Stream() {
	client, stop := startMock(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Send(`{"dtc":"P0420"}`, `{"dtc":"C0035-13"}`), vehicletest.Cut()},
		vehicletest.Script{vehicletest.Answer(`{"dtc":"P0420"}`, `{"dtc":"C0035-13"}`, `{"dtc":"U0121-87"}`)}))
	defer stop()

	stream := client.Stream(context.Background(), vehicle.Command{VehicleID: vehicleID, Name: "ReadDTC"})
	for chunk, err := range stream.Chunks() {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(chunk.Seq, string(chunk.Payload), chunk.Final)
	}
	res := stream.Result()
	fmt.Printf("%s after %d attempts; %d chunks came again and were dropped\n", res.Status, res.Attempts, res.Replayed)
	// Output:
	// 0 {"dtc":"P0420"} false
	// 1 {"dtc":"C0035-13"} false
	// 2 {"dtc":"U0121-87"} true
	// completed after 2 attempts; 2 chunks came again and were dropped
}

// Execute leaves the chunks to the sinks, which are served in order: what stores comes before what announces.
func ExampleClient_Execute() {
	client, stop := startMock()
	defer stop()

	var store sink.Memory
	announce := sink.Func{OnEnd: func(_ context.Context, res vehicle.Result) error {
		fmt.Println(res.Command.Name, res.Status)
		return nil
	}}
	res, err := client.Execute(context.Background(), vehicle.Command{
		VehicleID: vehicleID,
		Name:      "ReadDTC",
		Params:    map[string]any{"statusMask": "0x08"},
	}, vehicle.WithSink(&store, announce))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, chunk := range store.Chunks(res.Command.ID) {
		fmt.Println("stored chunk", chunk.Seq)
	}
	// Output:
	// ReadDTC completed
	// stored chunk 0
	// stored chunk 1
	// stored chunk 2
}

// ExecuteAll pulls commands as it has room for them and yields results as they come. One failure stops nothing.
func ExampleClient_ExecuteAll() {
	client, stop := startMock()
	defer stop()

	commands := func(yield func(vehicle.Command) bool) {
		for _, dataID := range []string{"0xF189", "0xF40C", "0xFFFF"} { // the last is one that no ECU knows
			cmd := vehicle.Command{VehicleID: vehicleID, Name: "ReadDataByID", Params: map[string]any{"dataId": dataID}}
			if !yield(cmd) {
				return
			}
		}
	}
	var lines []string
	for res, err := range client.ExecuteAll(context.Background(), commands, vehicle.WithConcurrency(2)) {
		lines = append(lines, fmt.Sprintln(res.Command.Params["dataId"], res.Status, errors.Is(err, vehicle.ErrInvalidCommand)))
	}
	slices.Sort(lines) // they come in the order in which the commands end
	fmt.Print(lines)
	// Output:
	// [0xF189 completed false
	//  0xF40C completed false
	//  0xFFFF failed true
	// ]
}

// What can be said for one call can be said for the client, as the default of its calls.
func ExampleWithRetry() {
	client, err := vehicle.New("gateway.example.com:443",
		vehicle.WithRetry(vehicle.RetryPolicy{
			MaxRetries: 5,               // after UNAVAILABLE; each chunk that is delivered starts the count again
			BaseDelay:  2 * time.Second, // then 4 s, 8 s, 16 s, 30 s
			MaxDelay:   30 * time.Second,
		}),
		vehicle.WithAttemptTimeout(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	ctx, cancel := context.WithCancel(context.Background())
	cancel() // this call goes nowhere
	_, err = client.Execute(ctx, vehicle.Command{VehicleID: vehicleID, Name: "ReadDTC"}, vehicle.WithoutRetry())
	fmt.Println(err)
	// Output:
	// vehicle: ReadDTC on 123e4567-e89b-42d3-a456-426614174000 was canceled: by the caller before it began (not sent)
}

// A command marked Once is not sent again once the vehicle may have seen it. The error says how far it got.
func ExampleError() {
	client, stop := startMock(vehicletest.On("ECUReset",
		vehicletest.Script{vehicletest.Send(`{"status":"resetting"}`), vehicletest.Fail(codes.Unavailable, "vehicle is offline")}))
	defer stop()

	_, err := client.Execute(context.Background(), vehicle.Command{VehicleID: vehicleID, Name: "ECUReset", Once: true})
	switch e, _ := errors.AsType[*vehicle.Error](err); {
	case err == nil:
		fmt.Println("the ECU was reset")
	case e.MayHaveRun():
		fmt.Println("ask the vehicle before you send it again")
	case errors.Is(err, vehicle.ErrUnavailable):
		fmt.Println("send it again later")
	}
	fmt.Println(err)
	// Output:
	// ask the vehicle before you send it again
	// vehicle: ECUReset on 123e4567-e89b-42d3-a456-426614174000 failed: vehicle service unavailable: vehicle is offline (1 attempt, 1 chunk delivered)
}

// setenv sets a variable and gives what takes it away again.
func setenv(name, value string) (unset func()) {
	_ = os.Setenv(name, value)
	return func() { _ = os.Unsetenv(name) }
}

// The environment says where the service is and how to reach it; options given explicitly win.
func ExampleNewFromEnv() {
	server, err := vehicletest.Start(vehicletest.WithTCP())
	if err != nil {
		panic(err)
	}
	defer server.Close()
	defer setenv("VEHICLE_ENDPOINT_URL", server.Target())()
	defer setenv("VEHICLE_MAX_RETRIES", "5")()

	client, err := vehicle.NewFromEnv(vehicle.WithPoolSize(4))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: vehicleID, Name: "ClearDTC"})
	fmt.Println(res.Status, err)

	defer setenv("VEHICLE_MAX_RETRIES", "many")()
	_, err = vehicle.NewFromEnv()
	fmt.Println(err)
	// Output:
	// completed <nil>
	// vehicle: VEHICLE_MAX_RETRIES="many": want a whole number, 0 or more
}

// A test of one's own code runs it against vehicletest: here the vehicle is busy at first, and says when to
// come back. In a test, vehicletest.NewServer(t) and server.Client(t) close themselves.
func Example_testing() {
	server, err := vehicletest.Start(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Refuse(0x19, vehicletest.NRCBusyRepeatRequest)},
		nil)) // the second attempt is the built-in vehicle's
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client, err := vehicle.New(server.Target(), server.Options()...)
	if err != nil {
		panic(err)
	}
	defer client.Close()

	res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: vehicleID, Name: "ReadDTC"})
	fmt.Println(res.Status, res.Chunks, err)
	for _, request := range server.Requests() {
		end, err := request.Wait(context.Background())
		fmt.Println(request.Attempt, end, err)
	}
	// Output:
	// completed 3 <nil>
	// 1 finished with ResourceExhausted <nil>
	// 2 finished with OK <nil>
}

// The sink of the example is a sink: this is all that a test of one's own takes. It has no Read, so the suite looks
// at its behaviour only.
func TestTheSinkOfTheExampleKeepsTheRules(t *testing.T) {
	t.Parallel()
	vehicletest.TestSink(t, func(*testing.T) vehicletest.Harness {
		return vehicletest.Harness{Sink: new(Counter)}
	})
}
