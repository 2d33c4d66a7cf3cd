package redissink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// connect gives a client of the server at url that is closed with the test.
func connect(tb testing.TB, url string, edit ...func(*redis.Options)) *redis.Client {
	tb.Helper()
	opt, err := redis.ParseURL(url)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range edit {
		e(opt)
	}
	rdb := redis.NewClient(opt)
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// private starts a server of the test's own.
func private(tb testing.TB, settings ...string) *servers.Redis {
	tb.Helper()
	server, err := servers.StartRedis(tb.Context(), settings...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	return server
}

// newSink gives a sink that is closed with the test.
func newSink(tb testing.TB, rdb redis.UniversalClient, opts ...redissink.Option) *redissink.Sink {
	tb.Helper()
	s := redissink.New(rdb, opts...)
	tb.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(tb.Context())); err != nil {
			tb.Errorf("closing the sink: %v", err)
		}
	})
	return s
}

// streams is what most tests keep.
func streams() redissink.Option { return redissink.WithStream(0, time.Hour) }

func newCommand() vehicle.Command {
	return vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "ReadDTC"}
}

// answer makes n chunks, the last of them final.
func answer(cmd vehicle.Command, n int) []vehicle.Chunk {
	chunks := make([]vehicle.Chunk, n)
	for i := range chunks {
		chunks[i] = vehicle.Chunk{
			CommandID: cmd.ID, VehicleID: cmd.VehicleID, Seq: int32(i), Final: i == n-1,
			Payload: json.RawMessage(fmt.Sprintf(`{"dtc":"P%04d"}`, i)),
		}
	}
	return chunks
}

func completed(cmd vehicle.Command) vehicle.Result {
	return vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, FinishedAt: time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// play runs a command that completes through a sink, a batch for each chunk.
func play(tb testing.TB, s vehicle.Sink, cmd vehicle.Command, chunks []vehicle.Chunk) {
	tb.Helper()
	ctx := tb.Context()
	must(tb, s.Begin(ctx, cmd))
	for i := range chunks {
		must(tb, s.Write(ctx, chunks[i:i+1]))
	}
	must(tb, s.End(ctx, completed(cmd)))
}

// events are those that follow from a command that completed.
func events(cmd vehicle.Command, chunks []vehicle.Chunk) []redissink.Event {
	all := make([]redissink.Event, 0, len(chunks)+1)
	for _, c := range chunks {
		all = append(all, redissink.Event{
			Event: "response", CommandID: cmd.ID, ResponseID: c.ID(), Payload: c.Payload, Seq: c.Seq, Final: c.Final,
		})
	}
	return append(all, redissink.Event{
		Event: "status", CommandID: cmd.ID, Status: vehicle.StatusCompleted, CompletedAt: completed(cmd).FinishedAt,
	})
}

// collect runs a loop to its end.
func collect(seq iter.Seq2[redissink.Event, error]) (got []redissink.Event, err error) {
	for e, err := range seq {
		if err != nil {
			return got, err
		}
		got = append(got, e)
	}
	return got, nil
}

// payloads compares them as bytes, since cmp would take them apart.
var payloads = cmp.Comparer(func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })

func wantEvents(tb testing.TB, got []redissink.Event, err error, want []redissink.Event) {
	tb.Helper()
	if err != nil {
		tb.Errorf("after %d events: %v", len(got), err)
	}
	if diff := cmp.Diff(want, got, payloads); diff != "" {
		tb.Errorf("events (-want +got):\n%s", diff)
	}
}

// following is a loop that runs beside the test.
type following struct {
	seen chan redissink.Event // unbuffered: the loop goes on when the test has looked
	err  chan error
}

// follow starts a loop and returns when it has subscribed.
func follow(tb testing.TB, ctx context.Context, rdb redis.UniversalClient, id uuid.UUID) *following {
	tb.Helper()
	before := subscribers(tb, rdb, id)
	f := follows(tb, redissink.Follow(ctx, rdb, id))
	eventually(tb, "the follower has subscribed", func() bool { return subscribers(tb, rdb, id) > before })
	return f
}

func follows(tb testing.TB, seq iter.Seq2[redissink.Event, error]) *following {
	tb.Helper()
	f := &following{seen: make(chan redissink.Event), err: make(chan error, 1)}
	go func() {
		defer close(f.seen)
		for e, err := range seq {
			if err != nil {
				f.err <- err
				return
			}
			f.seen <- e
		}
		f.err <- nil
	}()
	return f
}

// rest gives the events that come until the loop ends.
func (f *following) rest() ([]redissink.Event, error) {
	var got []redissink.Event
	for e := range f.seen {
		got = append(got, e)
	}
	return got, <-f.err
}

// subscribers counts those to the announcements, which every follower needs.
func subscribers(tb testing.TB, rdb redis.UniversalClient, id uuid.UUID) int64 {
	tb.Helper()
	n, err := rdb.PubSubNumSub(tb.Context(), redissink.StreamOf(id)).Result()
	must(tb, err)
	return n[redissink.StreamOf(id)]
}

// eventually waits for something that another program does and does not tell of.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	limit := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		if time.Now().After(limit) {
			tb.Fatalf("it has not come about that %s", what)
		}
		<-tick.C
	}
}
