package pgsink

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// The network vanishes while the end is stored of a command that began when its caller had gone. To find that out takes 15 s.
func TestACommandThatBeganInVainIsEndedAfterATransactionThatHung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, cmd := newModelServer(), vehicle.Command{ID: uuid.New(), Name: "ReadDTC"}
		trips := 0
		server.mishap = func() mishap {
			if trips++; trips == 2 { // after Begin's
				return silentBefore
			}
			return allWell
		}
		s := server.newSink(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		defer cancel()
		if err := s.Begin(ctx, cmd); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Begin: got %v, want the deadline", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := server.commands[cmd.ID.String()]; got == nil || got.status != "failed" {
			t.Errorf("got %+v, want a command that failed", got)
		}
	})
}

// A transaction failed because of one of its commands, and was divided. Its second half hangs for 15 s, which are not the first one's.
func TestWhatIsDoneWithOneHalfDoesNotWaitForTheOther(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		locked bool // the first half's command, for a while
	}{
		{"a command that has begun writes", false},
		{"a command whose row was locked is tried again", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testHalfHangs(t, test.locked) })
		})
	}
}

func testHalfHangs(t *testing.T, locked bool) {
	t.Helper()
	server := newModelServer()
	first, second := vehicle.Command{ID: uuid.New()}, vehicle.Command{ID: uuid.New()}
	unlocked := time.Now().Add(time.Second)
	trips := 0
	server.mishap = func() mishap {
		if trips++; trips == 3 { // after both, and the first
			return silentBefore
		}
		return allWell
	}
	server.refuse = func(id string) *pgError {
		if time.Now().Before(unlocked) && (locked && id == first.ID.String() || trips == 1) {
			return &pgError{codeLockNotAvailable, "could not obtain lock on row"}
		}
		return nil
	}
	s := server.newSink(t, nil)
	start := time.Now()
	begin := func(cmd vehicle.Command) *op {
		o, err := newBegin(cmd, false)
		if err == nil {
			err = s.register(cmd.ID, &run{mark: unmarked(cmd.ID)})
		}
		if err != nil {
			t.Fatal(err)
		}
		o.ctx, o.until = t.Context(), start.Add(time.Minute)
		return o
	}
	group := []*op{begin(first), begin(second)}
	s.mu.Lock()
	s.queue = append(s.queue, group...)
	s.call()
	s.mu.Unlock()
	<-group[0].done
	time.Sleep(10 * time.Millisecond) // the second half is under way
	chunk := vehicle.Chunk{CommandID: first.ID, Payload: json.RawMessage("1"), Final: true, ReceivedAt: start}
	if err := errors.Join(group[0].err, s.Write(t.Context(), []vehicle.Chunk{chunk})); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the first command took %v, want little more than its row was locked", took)
	}
	if err := errors.Join(s.Close(t.Context()), group[1].err); err != nil {
		t.Error(err)
	}
}
