package redissink_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// Hundreds of commands run at once, while the link to the vehicles is cut, connections to Redis are
// killed, and Redis itself is. Each has a follower that joins at some time.
func TestChaos(t *testing.T) {
	t.Parallel()
	const commands, chunks = 500, 12
	payloads := make([]string, chunks)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`{"part":%d,"of":%d}`, i, chunks)
	}
	gateway := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
		pause := func() vehicletest.Step { return vehicletest.Delay(rand.N(50 * time.Millisecond)) }
		if cut := rand.IntN(3 * chunks); r.Try < 4 && cut < chunks {
			return vehicletest.Script{pause(), vehicletest.Send(payloads[:cut]...), vehicletest.Cut()}
		}
		half := rand.IntN(chunks)
		return vehicletest.Script{vehicletest.Send(payloads[:half]...), pause(), vehicletest.Answer(payloads[half:]...)}
	}))
	server := private(t)
	rdb := connect(t, server.URL(), func(o *redis.Options) { o.DialerRetries = 1 })
	client := gateway.Client(t,
		vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 1000, BaseDelay: time.Millisecond, MaxDelay: 100 * time.Millisecond}),
		vehicle.WithAttemptTimeout(2*time.Minute),
		vehicle.WithSink(newSink(t, rdb, streams(), redissink.WithRetryFor(2*time.Minute))),
	)

	calm, stop := context.WithCancel(t.Context())
	var faults, work sync.WaitGroup
	faults.Go(func() {
		for calm.Err() == nil {
			gateway.CutConnections()
			pause(calm, rand.N(200*time.Millisecond))
		}
	})
	faults.Go(func() {
		admin := connect(t, server.URL())
		for range 3 {
			for range 10 {
				kind := []string{"normal", "pubsub"}[rand.IntN(2)]
				_ = admin.ClientKillByFilter(t.Context(), "TYPE", kind, "SKIPME", "yes").Err()
				pause(calm, rand.N(100*time.Millisecond))
			}
			if err := server.Crash(t.Context()); err != nil {
				t.Error(err)
			}
			pause(calm, rand.N(200*time.Millisecond))
			if err := server.Start(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for range commands {
		cmd := newCommand()
		joins := rand.N(3 * time.Second)
		work.Go(func() {
			pause(t.Context(), rand.N(2*time.Second))
			res, err := client.Execute(t.Context(), cmd)
			if err != nil || res.Chunks != chunks {
				t.Errorf("got %d chunks, %v, want %d", res.Chunks, err, chunks)
			}
		})
		work.Go(func() {
			pause(t.Context(), joins)
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			if err != nil || numbers(got) != wantNumbers(chunks) {
				t.Errorf("followed %s, %v, want %s", numbers(got), err, wantNumbers(chunks))
			}
		})
	}
	work.Wait()
	stop()
	faults.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// numbers is what a follower got, in short.
func numbers(events []redissink.Event) string {
	var b strings.Builder
	for _, e := range events {
		if e.Event == "response" {
			fmt.Fprintf(&b, "%d ", e.Seq)
		} else {
			b.WriteString(string(e.Status))
		}
	}
	return b.String()
}

func wantNumbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d ", i)
	}
	return b.String() + "completed"
}
