package pgsink_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/sink/pgsink"
)

func TestExactlyOneOfEightContendersGetsTheClaim(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		submit bool // the application has inserted the row
		lose   bool // answers to COMMIT get lost
	}{
		{"of a row that is pending", true, false},
		{"of a command without a row", false, false},
		{"of a row that is pending, over a link that breaks", true, true},
		{"of a command without a row, over a link that breaks", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			p := newProxy(t, db.url)
			admin := db.url
			db.url = p.url
			sinks := make([]*pgsink.Sink, 8)
			for i := range sinks {
				sinks[i] = db.newSink(pgsink.WithClaim())
			}
			db.url = admin
			for range 20 {
				cmd := db.admitted()
				if test.submit {
					db.submit(cmd)
				}
				if test.lose {
					p.loseAnswerToCommit(5)
				}
				var wg sync.WaitGroup
				errs := make([]error, len(sinks))
				for i, s := range sinks {
					wg.Go(func() { errs[i] = s.Begin(t.Context(), cmd) })
				}
				wg.Wait()
				winner := -1
				for i, err := range errs {
					switch {
					case err == nil && winner < 0:
						winner = i
					case err == nil:
						t.Fatalf("contenders %d and %d both got it", winner, i)
					case !errors.Is(err, pgsink.ErrClaimed):
						t.Fatalf("contender %d: got %v, want ErrClaimed", i, err)
					}
				}
				if winner < 0 {
					t.Fatal("nobody got it")
				}
				s := sinks[winner]
				if err := s.Write(t.Context(), chunksOf(cmd, 0, "1")); err != nil {
					t.Fatal(err)
				}
				if err := sinks[(winner+1)%len(sinks)].Begin(t.Context(), cmd); !errors.Is(err, pgsink.ErrClaimed) {
					t.Errorf("one that comes late: got %v, want ErrClaimed", err)
				}
				if err := s.End(t.Context(), completed(cmd, 1)); err != nil {
					t.Fatal(err)
				}
				want := stored{Status: "completed", Completed: true, Chunks: []string{"1"}, Audit: []string{"command_completed"}}
				if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// The application sets a command back that has failed, say, and nothing is left of that.
func TestACommandThatIsPendingAgainIsClaimedAnew(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	s, cmd := db.newSink(pgsink.WithClaim()), newCommand()
	db.submit(cmd)
	cmd.UserID = uuid.Nil // the row knows
	if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, `"old"`)); err != nil {
		t.Fatal(err)
	}
	db.exec(`UPDATE {commands} SET status = 'pending'`)
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil { // what was under way is done
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored{Status: "in_progress", Audit: []string{"command_completed"}}, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The claim's token is gone soon after: nobody mistakes it for an error.
func TestAClaimLeavesNoTrace(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink(pgsink.WithClaim())
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil { // what was under way is done
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored{Status: "in_progress"}, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
