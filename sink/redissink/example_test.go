package redissink_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// A command is run with a sink that keeps streams; its events are followed afterwards.
func Example() {
	ctx := context.Background()
	opt, err := redis.ParseURL(sharedURL) // redis://localhost:6379/0
	if err != nil {
		fmt.Println(err)
		return
	}
	rdb := redis.NewClient(opt)
	defer rdb.Close()

	gateway, err := vehicletest.Start(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Answer(`{"ecu":"ECM","dtc":"P0420"}`, `{"ecu":"ABS","dtc":"C0035-13"}`)}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gateway.Close()

	announce := redissink.New(rdb, redissink.WithStream(10_000, time.Hour))
	client, err := vehicle.New(gateway.Target(), append(gateway.Options(), vehicle.WithSink(announce))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	res, err := client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for event, err := range redissink.Follow(ctx, rdb, res.Command.ID) {
		switch {
		case err != nil:
			fmt.Println(err)
		case event.Event == "response":
			fmt.Println(event.Seq, string(event.Payload))
		default:
			fmt.Println(event.Status)
		}
	}
	// Output:
	// 0 {"ecu":"ECM","dtc":"P0420"}
	// 1 {"ecu":"ABS","dtc":"C0035-13"}
	// completed
}

// What the database has comes first, and diagnostics go on without Redis: what it fails to announce is counted.
func ExampleNew_bestEffort() {
	store := new(sink.Memory) // or pgsink.New(pool)
	// Nobody listens there.
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer rdb.Close()
	announce := redissink.New(rdb, redissink.WithRetryFor(100*time.Millisecond))

	lost := 0
	both := sink.Chain(store, sink.BestEffort(announce, func(_ context.Context, _ uuid.UUID, _ string, _ error) {
		lost++
	}))
	gateway, err := vehicletest.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gateway.Close()
	client, err := vehicle.New(gateway.Target(), append(gateway.Options(), vehicle.WithSink(both))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
	fmt.Println(res.Status, err, lost > 0)
	// Output:
	// completed <nil> true
}

// Redis as the environment says, behind Sentinel or as a cluster: redis.NewUniversalClient chooses.
func ExampleNew() {
	rdb := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs:      []string{os.Getenv("REDIS_ADDR")},
		MasterName: os.Getenv("REDIS_SENTINEL_MASTER"), // empty: no Sentinel
		Password:   os.Getenv("REDIS_PASSWORD"),
	})
	announce := redissink.New(rdb, redissink.WithStream(10_000, time.Hour), redissink.WithRetryFor(30*time.Second))
	_ = vehicle.WithSink(announce)
}
