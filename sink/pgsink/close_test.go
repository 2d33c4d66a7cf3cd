package pgsink_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sovd-go/vehicle/sink/pgsink"
)

// The caller of Begin leaves while its transaction is under way, which is then committed. Where the command's row is there, it takes two
// transactions to find out and to begin; where the answer to COMMIT is lost, nobody knows whether the command has begun.
func TestACommandThatBeganInVainIsEnded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		there, lost bool
		opts        []pgsink.Option
		other       bool // another process runs the command before it is ended
		claimed     bool // another process has the claim
	}{
		{name: "its row is not there", opts: []pgsink.Option{pgsink.WithRetryFor(0)}},
		{name: "its row is there", there: true, opts: []pgsink.Option{pgsink.WithRetryFor(0)}},
		{name: "the answer to COMMIT is lost", lost: true},
		{name: "the answer to COMMIT is lost, and it was claimed", there: true, lost: true, opts: []pgsink.Option{pgsink.WithClaim()}},
		{name: "another process has begun it and written", other: true},
		{name: "another process has the claim", claimed: true, opts: []pgsink.Option{pgsink.WithClaim()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			other := db.newSink(test.opts...)
			p := newProxy(t, db.url)
			db.url = p.url
			s, cmd := db.newSink(test.opts...), newCommand()
			if test.there {
				db.submit(cmd)
			}
			if test.claimed {
				if err := errors.Join(other.Begin(t.Context(), cmd), other.Close(t.Context())); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			left := make(chan struct{})
			var lost, began atomic.Bool
			hold := func(fromServer bool, data []byte) int {
				at := bytes.Index(data, committed)
				if !fromServer || at < 0 {
					return len(data)
				}
				cancel()
				<-left
				if test.other && !began.Swap(true) {
					if err := errors.Join(other.Begin(t.Context(), cmd), other.Write(t.Context(), chunksOf(cmd, 0, "1"))); err != nil {
						t.Error(err)
					}
				}
				if test.lost && !lost.Swap(true) {
					return at
				}
				return len(data)
			}
			p.cut.Store(&hold)
			err := s.Begin(ctx, cmd)
			close(left)
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want canceled", err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := stored{Status: "failed", ErrorMessage: "canceled before the vehicle was asked", Completed: true, Audit: []string{"command_failed"}}
			switch {
			case test.other:
				want = stored{Status: "in_progress", Chunks: []string{"1"}}
			case test.claimed:
				want = stored{Status: "in_progress"}
			}
			if diff := cmp.Diff(want, db.stored(cmd.ID), emptyIsNil); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A command's next Begin comes while one that was left is being committed.
func TestACommandThatBeganInVainIsEndedWhateverItsNextBeginDoes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		opts   []pgsink.Option
		begun  int32 // after so many transactions
		locked bool  // the command's row is, until the next Begin is left too
		want   error
		begins bool // the next Begin does, once the one before has been ended
	}{
		{"it is left too", []pgsink.Option{pgsink.WithWriters(1)}, 2, true, context.Canceled, false},
		{"it does not get the claim", []pgsink.Option{pgsink.WithClaim()}, 1, false, pgsink.ErrClaimed, false},
		{"it begins", nil, 2, false, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			p := newProxy(t, db.url)
			db.url = p.url
			s, cmd := db.newSink(test.opts...), newCommand()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			nextCtx, leaveNext := context.WithCancel(t.Context())
			defer leaveNext()
			next := &waitedFor{Context: nextCtx, waited: make(chan struct{})}
			db.submit(cmd)
			var commits atomic.Int32
			hold := func(fromServer bool, data []byte) int {
				switch {
				case fromServer && bytes.Contains(data, committed) && commits.Add(1) == test.begun:
					leave()
					<-next.waited
				case fromServer && bytes.Contains(data, []byte("55P03")): // the row is locked
					leaveNext()
				}
				return len(data)
			}
			p.cut.Store(&hold)
			if err := s.Begin(ctx, cmd); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want canceled", err)
			}
			tx, err := db.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // the pool waits for it
			if test.locked {
				if _, err := tx.Exec(t.Context(), db.sql(`SELECT 1 FROM {commands} WHERE command_id = $1::uuid FOR UPDATE`), cmd.ID.String()); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Begin(next, cmd); !errors.Is(err, test.want) {
				t.Errorf("the next Begin: got %v, want %v", err, test.want)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := stored{Status: "failed", ErrorMessage: "canceled before the vehicle was asked", Completed: true, Audit: []string{"command_failed"}}
			if test.begins {
				want = stored{Status: "in_progress", Audit: want.Audit}
			}
			if diff := cmp.Diff(want, db.stored(cmd.ID), emptyIsNil); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// waitedFor is a context that tells when a call begins to wait for its end.
type waitedFor struct {
	context.Context

	once   sync.Once
	waited chan struct{}
}

func (c *waitedFor) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waited) })
	return c.Context.Done()
}

// Many leave in the moment in which their transaction is committed: each has begun, and is ended, or has not.
func TestCommandsThatAreLeftAtTheCommitAreEnded(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	p := newProxy(t, db.url)
	db.url = p.url
	s := db.newSink(pgsink.WithWriters(1))
	for range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		var commits atomic.Int32
		leave := func(fromServer bool, data []byte) int {
			if fromServer && bytes.Contains(data, committed) && commits.Add(1) == 2 {
				cancel()
			}
			return len(data)
		}
		p.cut.Store(&leave)
		var wg sync.WaitGroup
		for range 400 {
			wg.Go(func() {
				cmd := newCommand()
				if err := s.Begin(ctx, cmd); err != nil {
					return
				}
				if err := s.End(t.Context(), completed(cmd, 0)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		cancel()
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := query[int](db, `SELECT count(*) FROM {commands} WHERE status = 'in_progress'`); n > 0 {
		t.Errorf("%d commands are in progress, and nobody runs them", n)
	}
}

func TestCloseFinishesWhatIsUnderWayAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	running := newCommand()
	if err := errors.Join(s.Begin(t.Context(), running), s.Write(t.Context(), chunksOf(running, 0, "1"))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, call := range map[string]func() error{
		"Begin": func() error { return s.Begin(t.Context(), newCommand()) },
		"Write": func() error { return s.Write(t.Context(), chunksOf(running, 1, "2")) },
		"End":   func() error { return s.End(t.Context(), completed(running, 1)) },
	} {
		if err := call(); !errors.Is(err, pgsink.ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", name, err)
		}
	}
	// These two need the pool and nothing else.
	read := 0
	for _, err := range s.History(t.Context(), running.ID) {
		if err != nil {
			t.Errorf("History: got %v, want no error", err)
		}
		read++
	}
	if read != 1 {
		t.Errorf("History: got %d chunks, want the one that is stored", read)
	}
	if n, err := s.Recover(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("Recover: got %d, error %v, want none of either", n, err)
	}
}

func TestCloseGivesUpWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	trying := make(chan struct{})
	var once sync.Once
	s := pgsink.New(newUnreachablePool(t, func() { once.Do(func() { close(trying) }) }))
	done := make(chan error, 1)
	go func() { done <- s.Begin(context.WithoutCancel(t.Context()), newCommand()) }()
	<-trying
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: got %v, want the deadline", err)
	}
	if err := <-done; !errors.Is(err, pgsink.ErrClosed) {
		t.Errorf("Begin: got %v, want ErrClosed", err)
	}
}
