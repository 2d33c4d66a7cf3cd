package vehicle_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// recorder is a sink that keeps what it was given, and complains about calls out of turn. The functions, where
// set, run before a call is recorded, and their errors are the call's.
type recorder struct {
	tb      testing.TB
	onBegin func(context.Context, vehicle.Command) error
	onWrite func(context.Context, []vehicle.Chunk) error
	onEnd   func(context.Context, vehicle.Result) error

	mu      sync.Mutex
	chunks  map[uuid.UUID][]vehicle.Chunk
	begun   map[uuid.UUID]int
	ended   map[uuid.UUID][]vehicle.Result
	batches []int
}

func newRecorder(tb testing.TB) *recorder {
	return &recorder{tb: tb, chunks: map[uuid.UUID][]vehicle.Chunk{}, begun: map[uuid.UUID]int{}, ended: map[uuid.UUID][]vehicle.Result{}}
}

func (r *recorder) Begin(ctx context.Context, cmd vehicle.Command) error {
	if r.onBegin != nil {
		if err := r.onBegin(ctx, cmd); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun[cmd.ID]++; r.begun[cmd.ID] > 1 {
		r.tb.Errorf("Begin of command %s: got call %d, want 1", cmd.ID, r.begun[cmd.ID])
	}
	return nil
}

func (r *recorder) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	if r.onWrite != nil {
		if err := r.onWrite(ctx, chunks); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(chunks) == 0 {
		r.tb.Error("Write: got no chunks, want at least one")
		return nil
	}
	id := chunks[0].CommandID
	if r.begun[id] != 1 || len(r.ended[id]) != 0 {
		r.tb.Errorf("Write to command %s: it has begun %d times and ended %d times", id, r.begun[id], len(r.ended[id]))
	}
	r.chunks[id] = append(r.chunks[id], chunks...)
	r.batches = append(r.batches, len(chunks))
	return nil
}

func (r *recorder) End(ctx context.Context, res vehicle.Result) error {
	if err := ctx.Err(); err != nil {
		r.tb.Errorf("End: its ctx has ended: %v", err)
	}
	r.mu.Lock()
	if r.ended[res.Command.ID] = append(r.ended[res.Command.ID], res); r.begun[res.Command.ID] != 1 || len(r.ended[res.Command.ID]) > 1 {
		r.tb.Errorf("End of command %s: it has begun %d times and ended %d times", res.Command.ID, r.begun[res.Command.ID], len(r.ended[res.Command.ID]))
	}
	r.mu.Unlock()
	if r.onEnd != nil {
		return r.onEnd(ctx, res)
	}
	return nil
}

// check compares what was recorded of a command with what should have been. want nil: it never began.
func (r *recorder) check(id uuid.UUID, want *vehicle.Result, payloads []string) {
	r.tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if want == nil {
		if r.begun[id]+len(r.ended[id])+len(r.chunks[id]) > 0 {
			r.tb.Errorf("command %s: got %d begins, %d ends, %d chunks, want none", id, r.begun[id], len(r.ended[id]), len(r.chunks[id]))
		}
		return
	}
	if r.begun[id] != 1 || len(r.ended[id]) != 1 {
		r.tb.Fatalf("command %s: got %d begins and %d ends, want one of each", id, r.begun[id], len(r.ended[id]))
	}
	got := r.ended[id][0]
	if got.Status != want.Status || got.Chunks != want.Chunks || got.Attempts != want.Attempts || got.Replayed != want.Replayed {
		r.tb.Errorf("End: got %s, %d chunks, %d attempts, %d replayed; want %s, %d, %d, %d",
			got.Status, got.Chunks, got.Attempts, got.Replayed, want.Status, want.Chunks, want.Attempts, want.Replayed)
	}
	if diff := cmp.Diff(payloads, texts(r.chunks[id])); diff != "" {
		r.tb.Errorf("payloads in the sink (-want +got):\n%s", diff)
	}
}

func (r *recorder) ends() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.ended {
		n += len(e)
	}
	return n
}

func texts(chunks []vehicle.Chunk) (payloads []string) {
	for _, c := range chunks {
		payloads = append(payloads, string(c.Payload))
	}
	return payloads
}

// numbered makes n payloads.
func numbered(n int) []string {
	payloads := make([]string, n)
	for i := range payloads {
		payload, _ := json.Marshal(map[string]int{"record": i})
		payloads[i] = string(payload)
	}
	return payloads
}

func command(name string) vehicle.Command {
	return vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: name}
}

// quickly is a policy for tests over real sockets, where waiting is not the subject.
func quickly() vehicle.CallOption {
	return vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: 1, MaxDelay: 1})
}
