package sink_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/sovd-go/vehicle"
)

func TestMain(m *testing.M) {
	time.Local = time.FixedZone("", 2*60*60) // or UTC would look right by chance
	goleak.VerifyTestMain(m)
}

var errDisk = errors.New("disk full")

// journal is what several spies saw, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// spy is a sink that writes down its calls and fails where it is told to.
type spy struct {
	name    string
	journal *journal
	fail    map[string]error                     // by call
	panics  map[string]any                       // by call
	during  func(ctx context.Context, op string) // before it returns

	mu      sync.Mutex
	results []vehicle.Result
}

func (s *spy) Begin(ctx context.Context, _ vehicle.Command) error {
	return s.call(ctx, "Begin", "")
}

func (s *spy) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	return s.call(ctx, "Write", fmt.Sprintf(" %d", len(chunks)))
}

func (s *spy) End(ctx context.Context, res vehicle.Result) error {
	s.mu.Lock()
	s.results = append(s.results, res)
	s.mu.Unlock()
	return s.call(ctx, "End", " "+string(res.Status))
}

func (s *spy) call(ctx context.Context, op, detail string) error {
	if s.journal != nil {
		s.journal.add(s.name + "." + op + detail)
	}
	if s.during != nil {
		s.during(ctx, op)
	}
	if v, ok := s.panics[op]; ok {
		panic(v)
	}
	return s.fail[op]
}

// result is the one that End brought.
func (s *spy) result(t *testing.T) vehicle.Result {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.results) != 1 {
		t.Fatalf("%s: got %d calls of End, want 1", s.name, len(s.results))
	}
	return s.results[0]
}

// spies are sinks a, b, c that share a journal.
func spies() (j *journal, a, b, c *spy) {
	j = new(journal)
	return j, &spy{name: "a", journal: j}, &spy{name: "b", journal: j}, &spy{name: "c", journal: j}
}

func newCommand() vehicle.Command {
	return vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "ReadDTC"}
}

func chunksOf(cmd vehicle.Command, payloads ...string) []vehicle.Chunk {
	var chunks []vehicle.Chunk
	for i, payload := range payloads {
		chunks = append(chunks, vehicle.Chunk{
			CommandID: cmd.ID, VehicleID: cmd.VehicleID, Seq: int32(i),
			Payload: json.RawMessage(payload), Final: i == len(payloads)-1,
		})
	}
	return chunks
}

func completed(cmd vehicle.Command) vehicle.Result {
	now := time.Now()
	return vehicle.Result{
		Command: cmd, Status: vehicle.StatusCompleted, Chunks: 2, Attempts: 1,
		StartedAt: now.Add(-1500 * time.Millisecond), FinishedAt: now,
	}
}

func failed(cmd vehicle.Command, err error) vehicle.Result {
	res := completed(cmd)
	res.Status, res.Err = vehicle.StatusFailed, err
	return res
}

// live runs a command of one batch of two chunks the way the SDK does, and returns the first error.
func live(ctx context.Context, s vehicle.Sink) error {
	cmd := newCommand()
	if err := s.Begin(ctx, cmd); err != nil {
		return err
	}
	res := completed(cmd)
	err := s.Write(ctx, chunksOf(cmd, `{"code":"P0420"}`, `{"code":"U0121"}`))
	if err != nil {
		res = failed(cmd, err)
	}
	if endErr := s.End(ctx, res); err == nil {
		err = endErr
	}
	return err
}
