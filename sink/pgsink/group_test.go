package pgsink

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync"
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

// The network vanishes for good: the error says what the sink waited for, and how long it tried.
func TestATransactionThatHangsSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newModelServer()
		server.mishap = func() mishap { return silentBefore }
		s := server.newSink(t, nil, WithRetryFor(20*time.Second))
		start := time.Now()
		err := s.Begin(t.Context(), vehicle.Command{ID: uuid.New(), Name: "ReadDTC"})
		want := "gave up after 20s of retries: pgsink: the transaction was not done within 15s"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if took := time.Since(start).Truncate(time.Second); took != 30*time.Second {
			t.Errorf("took %v, want two transactions of 15s", took)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A transaction failed because of one of its commands, and was divided. Its second half hangs for 15 s, which are not the first one's.
func TestWhatIsDoneWithOneHalfDoesNotWaitForTheOther(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		locked bool // the first half's command, for a while
		left   bool // its caller leaves, and it is run again
	}{
		{"a command that has begun writes", false, false},
		{"a command whose row was locked is tried again", true, false},
		{"a command whose caller has left is run again", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testHalfHangs(t, test.locked, test.left) })
		})
	}
}

func testHalfHangs(t *testing.T, locked, leaves bool) {
	t.Helper()
	server := newModelServer()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	first, second := vehicle.Command{ID: uuid.New()}, vehicle.Command{ID: uuid.New()}
	unlocked := time.Now().Add(time.Second)
	trips, hangs := 0, 3 // after both, and the first
	if leaves {
		hangs = 2 // the first is not tried
	}
	server.mishap = func() mishap {
		trips++
		if leaves && trips == 1 {
			leave()
		}
		if trips == hangs {
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
	begin := func(ctx context.Context, cmd vehicle.Command) *op {
		o, err := newBegin(cmd, false)
		if err == nil {
			err = s.register(cmd.ID, &run{mark: unmarked(cmd.ID)})
		}
		if err != nil {
			t.Fatal(err)
		}
		o.ctx, o.until = ctx, start.Add(time.Minute)
		return o
	}
	group := []*op{begin(ctx, first), begin(t.Context(), second)}
	s.mu.Lock()
	s.queue = append(s.queue, group...)
	s.call()
	s.mu.Unlock()
	<-group[0].done
	time.Sleep(10 * time.Millisecond) // the second half is under way
	err := group[0].err
	if leaves {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("who left: got %v, want canceled", err)
		}
		s.unregister(first.ID, s.runs[first.ID])
		err = s.Begin(t.Context(), first)
	}
	chunk := vehicle.Chunk{CommandID: first.ID, Payload: json.RawMessage("1"), Final: true, ReceivedAt: start}
	if err := errors.Join(err, s.Write(t.Context(), []vehicle.Chunk{chunk})); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the first command took %v, want little more than its row was locked", took)
	}
	if err := errors.Join(s.Close(t.Context()), group[1].err); err != nil {
		t.Error(err)
	}
}

// Another command waits for the only writer, and nobody comes after it.
func TestWhatWaitsIsDoneThoughATracerEndsTheGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		over, failed := make(chan struct{}), 0
		s := newModelServer().newSink(t, failing{func() {
			if failed++; failed == 1 {
				<-over
				runtime.Goexit()
			}
		}}, WithWriters(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		results := [2]error{}
		var all sync.WaitGroup
		for i := range results {
			all.Go(func() { results[i] = s.Begin(ctx, vehicle.Command{ID: uuid.New()}) })
			synctest.Wait()
		}
		close(over)
		all.Wait()
		if !errors.Is(results[0], errNoReturn) || results[1] != nil {
			t.Errorf("got %v, want the first to fail and the second to be done", results)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// It had paused, and does not take that for a rest without work.
func TestAWriterThatHasPausedStaysForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, trips := newModelServer(), 0
		server.mishap = func() mishap {
			if trips++; trips == 1 {
				return serialization
			}
			return allWell
		}
		s := server.newSink(t, nil, WithWriters(1))
		if err := s.Begin(t.Context(), vehicle.Command{ID: uuid.New()}); err != nil {
			t.Fatal(err)
		}
		for _, after := range []struct {
			d    time.Duration
			want bool
		}{{0, true}, {linger / 2, true}, {linger, false}} {
			time.Sleep(after.d)
			synctest.Wait()
			s.mu.Lock()
			if got := s.writers[0].serving; got != after.want {
				t.Errorf("after %v more: the writer is there: got %t, want %t", after.d, got, after.want)
			}
			s.mu.Unlock()
		}
	})
}
