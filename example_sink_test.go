package vehicle_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

// Counter is a sink that counts what commands bring. It is safe for concurrent use: different commands
// call it at once, while the calls for one command come one after the other.
type Counter struct {
	mu              sync.Mutex
	running, chunks int
	ended           map[vehicle.Status]int
}

// Begin may return an error: then the vehicle is not asked.
func (c *Counter) Begin(context.Context, vehicle.Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running++
	return nil
}

// Write must not keep the slice; it may keep the payloads.
func (c *Counter) Write(_ context.Context, chunks []vehicle.Chunk) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chunks += len(chunks)
	return nil
}

// End comes once, whatever happened.
func (c *Counter) End(_ context.Context, res vehicle.Result) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.ended == nil {
		c.ended = make(map[vehicle.Status]int)
	}
	c.ended[res.Status]++
	return nil
}

// A sink is three methods. [vehicletest.TestSink] checks that they keep the rules of [vehicle.Sink].
func ExampleSink() {
	server, err := vehicletest.Start()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	var counter Counter
	client, err := vehicle.New(server.Target(), append(server.Options(), vehicle.WithSink(&counter))...)
	if err != nil {
		panic(err)
	}
	defer client.Close()

	for range 2 {
		if _, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(counter.running, "running;", counter.chunks, "chunks;", counter.ended[vehicle.StatusCompleted], "completed")
	// Output:
	// 0 running; 6 chunks; 2 completed
}
