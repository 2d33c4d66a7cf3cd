package vehicletest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// A program starts a server, and closes it itself.
func ExampleStart() {
	server, err := vehicletest.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	client, err := vehicle.New(server.Target(), server.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	cmd := vehicle.Command{
		VehicleID: uuid.MustParse("123e4567-e89b-42d3-a456-426614174000"),
		Name:      "ReadDataByID",
		Params:    map[string]any{"dataId": "0xF40D"},
	}
	for chunk, err := range client.Stream(context.Background(), cmd).Chunks() {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(chunk.Seq, string(chunk.Payload))
	}
	// Output:
	// 0 {"status":"reading","dataId":"0xF40D","ecuAddress":"0x10"}
	// 1 {"status":"complete","data":{"dataId":"0xF40D","description":"Vehicle Speed","value":0,"unit":"km/h"},"ecuAddress":"0x10"}
}

// The link breaks in the first attempt, and the second begins where the client asks.
func ExampleOn() {
	server, err := vehicletest.Start(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Send(`"P0420"`, `"C0035-13"`), vehicletest.Cut()},
		vehicletest.Script{vehicletest.Resume(), vehicletest.Answer(`"P0420"`, `"C0035-13"`, `"U0121-87"`)},
	))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	client, err := vehicle.New(server.Target(), append(server.Options(),
		vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond}))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
	fmt.Println(res.Chunks, "chunks,", res.Replayed, "replayed, error", err)
	for _, r := range server.Requests() {
		fmt.Println("attempt", r.Attempt, "resume from", r.ResumeFrom)
	}
	// Output:
	// 3 chunks, 0 replayed, error <nil>
	// attempt 1 resume from -1
	// attempt 2 resume from 2
}

// A responder looks at the request. Here it puts a fault into the middle of a built-in vehicle's answer,
// and knows one vehicle less than there are.
func ExampleWithResponder() {
	unknown := uuid.MustParse("00000000-0000-4000-8000-000000000404")
	fleet := vehicletest.NewFleet(42)
	server, err := vehicletest.Start(vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
		if r.Command.GetVehicleId() == unknown.String() {
			return vehicletest.Script{vehicletest.Fail(codes.NotFound, "no such vehicle")}
		}
		script := fleet.Respond(r)
		if r.Try == 1 && len(script) > 1 {
			return vehicletest.Script{script[0], vehicletest.Cut()}
		}
		return script
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	client, err := vehicle.New(server.Target(), append(server.Options(),
		vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond}))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
	fmt.Println(res.Chunks, "chunks,", res.Replayed, "replayed, error", err)
	_, err = client.Execute(context.Background(), vehicle.Command{VehicleID: unknown, Name: "ReadDTC"})
	fmt.Println(errors.Is(err, vehicle.ErrVehicleNotFound))
	// Output:
	// 3 chunks, 1 replayed, error <nil>
	// true
}

// A step is a function: this one sends a chunk for each of three measurements.
func ExampleStep() {
	count := func(ctx context.Context, c *vehicletest.Call) error {
		for n := range 3 {
			step := vehicletest.Send(fmt.Sprintf(`{"rpm":%d}`, 800+n))
			if err := step(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
	server, err := vehicletest.Start(vehicletest.On("Monitor", vehicletest.Script{count, vehicletest.Answer(`{"rpm":0}`)}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	client, err := vehicle.New(server.Target(), server.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	for chunk, err := range client.Stream(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "Monitor"}).Chunks() {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(chunk.Payload))
	}
	// Output:
	// {"rpm":800}
	// {"rpm":801}
	// {"rpm":802}
	// {"rpm":0}
}

// The test of a sink. Where the sink cannot be read back, leave Read out: then its behaviour is tested, and not what it
// kept.
func ExampleTestSink() {
	_ = func(t *testing.T) { // func TestMySink(t *testing.T), in your package
		vehicletest.TestSink(t, func(*testing.T) vehicletest.Harness {
			s := new(sink.Memory) // yours
			read := func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
				return s.Chunks(id), s.Status(id), nil
			}
			return vehicletest.Harness{Sink: s, Read: read}
		})
	}
}

// A server with mutual TLS and certificates that rotate. In a test, NewCA(t) makes a CA whose folder goes with the test.
func ExampleMakeCA() {
	dir, err := os.MkdirTemp("", "ca")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ca, err := vehicletest.MakeCA(dir)
	if err != nil {
		panic(err)
	}
	server, err := vehicletest.Start(vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca))
	if err != nil {
		panic(err)
	}
	defer server.Close()
	for range 2 {
		client, err := vehicle.New(server.Target(), server.Options()...) // with the folder's certificates
		if err != nil {
			panic(err)
		}
		res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ClearDTC"})
		fmt.Println(res.Status, err)
		_ = client.Close()
		if err := ca.Rotate(); err != nil { // a new authority, new certificates on both sides
			panic(err)
		}
	}
	// Output:
	// completed <nil>
	// completed <nil>
}
