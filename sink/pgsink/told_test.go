package pgsink_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// tell makes the context of a sink that is told which End follows.
func tell(ctx context.Context, s vehicle.Sink, res *vehicle.Result) (context.Context, *lastly.End) {
	teller := lastly.NewTeller(res)
	ctx = teller.Next(ctx, s, true)
	return ctx, lastly.From(ctx)
}

// beginTold begins a command and writes its two chunks, with which the sink is told of the End that follows.
func beginTold(t *testing.T, s vehicle.Sink, cmd vehicle.Command, res vehicle.Result) {
	t.Helper()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	ctx, _ := tell(t.Context(), s, &res)
	if err := s.Write(ctx, chunksOf(cmd, 0, "1", "2")); err != nil {
		t.Fatal(err)
	}
}

// executeTold is execute for a sink that is told with the last batch what End follows.
func executeTold(ctx context.Context, s vehicle.Sink, cmd vehicle.Command, batches ...[]vehicle.Chunk) error {
	if err := s.Begin(ctx, cmd); err != nil {
		return err
	}
	n := 0
	for _, batch := range batches {
		n += len(batch)
	}
	res := completed(cmd, n)
	for i, batch := range batches {
		ctx := ctx
		if i == len(batches)-1 {
			ctx, _ = tell(ctx, s, &res)
		}
		if err := s.Write(ctx, batch); err != nil {
			return err
		}
	}
	return s.End(ctx, res)
}

func TestTheEndIsStoredWithTheFinalChunk(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	var count counter
	s := db.newSinkOn(db.newPool(withTracer(&count)))
	cmd := newCommand()
	chunks := chunksOf(cmd, 0, "1", "2", "3")
	res := completed(cmd, 3)
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	count.reset()
	ctx, end := tell(t.Context(), s, &res)
	if err := s.Write(ctx, chunks[:2]); err != nil { // told too early
		t.Fatal(err)
	}
	if batches, statements, _ := count.reset(); batches != 1 || statements != 4 || end.Done {
		t.Errorf("before the final chunk: got %d statements in %d round trips, done %t, want 4 in 1, not done", statements, batches, end.Done)
	}
	if err := s.Write(ctx, chunks[2:]); err != nil {
		t.Fatal(err)
	}
	if batches, statements, _ := count.reset(); batches != 1 || statements != 5 || !end.Done {
		t.Errorf("with the final chunk: got %d statements in %d round trips, done %t, want 5 in 1, done", statements, batches, end.Done)
	}
	want := stored{Status: "completed", Completed: true, Chunks: []string{"1", "2", "3"}, Audit: []string{"command_completed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("before End (-want +got):\n%s", diff)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.End(t.Context(), res); err != nil { // it is stored
		t.Fatal(err)
	}
	if batches, _, _ := count.reset(); batches != 0 {
		t.Errorf("End: got %d round trips, want none", batches)
	}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("after End (-want +got):\n%s", diff)
	}
	if err := s.End(t.Context(), res); err == nil {
		t.Error("a second End: got no error")
	}
}

// A sink after this one has failed, in a run of a command that had completed once before.
func TestAnEndThatWasToldAndDoesNotComeTrue(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		db := newDatabase(t, databaseURL(t))
		s := db.newSink()
		cmd := newCommand()
		audit := []string{"command_failed"}
		if again {
			if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, "0")); err != nil {
				t.Fatal(err)
			}
			audit = []string{"command_completed", "command_failed"}
			time.Sleep(2 * time.Microsecond) // the resolution of the times
		}
		beginTold(t, s, cmd, completed(cmd, 2))
		if err := s.End(t.Context(), failed(cmd, errors.New("not announced"))); err != nil {
			t.Fatal(err)
		}
		want := stored{Status: "failed", ErrorMessage: "not announced", Completed: true, Chunks: []string{"1", "2"}, Audit: audit}
		if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
			t.Errorf("again %t (-want +got):\n%s", again, diff)
		}
	}
}

// Something between the client and the sink changes the result.
func TestAnEndThatWasToldAndComesOtherwise(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*vehicle.Result){
		"with another count": func(res *vehicle.Result) { res.Chunks = 3 },
		"with another name":  func(res *vehicle.Result) { res.Command.Name = "hidden" },
		"at another time":    func(res *vehicle.Result) { res.FinishedAt = res.FinishedAt.Add(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			s, cmd := db.newSink(), newCommand()
			other := completed(cmd, 2)
			beginTold(t, s, cmd, other)
			change(&other)
			if err := s.End(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			var got vehicle.Result
			err := db.pool.QueryRow(t.Context(), db.sql(`SELECT details->>'command_name', (details->>'chunk_count')::int, completed_at
				FROM {audit_logs} JOIN {commands} USING (command_id) WHERE action = 'command_completed'`)).Scan(&got.Command.Name, &got.Chunks, &got.FinishedAt)
			if err != nil {
				t.Fatal(err)
			}
			if got.Command.Name != other.Command.Name || got.Chunks != other.Chunks || !got.FinishedAt.Equal(other.FinishedAt.Truncate(time.Microsecond)) {
				t.Errorf("got %s, %d chunks, %v, want what End said", got.Command.Name, got.Chunks, got.FinishedAt)
			}
		})
	}
}

// A sink may do something for another command meanwhile, with the context that it was given.
func TestAnEndThatWasToldOfAnotherCommand(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s, cmd := db.newSink(), newCommand()
	beginTold(t, s, cmd, completed(newCommand(), 2))
	if diff := cmp.Diff(stored{Status: "in_progress", Chunks: []string{"1", "2"}}, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The write is committed after its caller has gone, who then ends the command as failed.
func TestAnEndThatWasToldToAWriteThatWasLeft(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	p := newProxy(t, db.url)
	db.url = p.url
	s := db.newSink()
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left := make(chan struct{})
	hold := func(fromServer bool, data []byte) int {
		if fromServer && bytes.Contains(data, committed) {
			cancel()
			<-left
		}
		return len(data)
	}
	p.cut.Store(&hold)
	res := completed(cmd, 1)
	ctx, _ = tell(ctx, s, &res)
	err := s.Write(ctx, chunksOf(cmd, 0, "1"))
	close(left)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	if err := s.End(t.Context(), failed(cmd, errors.New("too slow"))); err != nil {
		t.Fatal(err)
	}
	want := stored{Status: "failed", ErrorMessage: "too slow", Completed: true, Chunks: []string{"1"}, Audit: []string{"command_failed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestARunThatWasReplacedStoresNoEndThatItWasTold(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	oldSink, newSink := db.newSink(), db.newSink()
	cmd := newCommand()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(oldSink.Begin(t.Context(), cmd))
	must(newSink.Begin(t.Context(), cmd))
	must(newSink.Write(t.Context(), chunksOf(cmd, 0, `"new 0"`, `"new 1"`)))
	res := completed(cmd, 2)
	ctx, end := tell(t.Context(), oldSink, &res)
	if err := oldSink.Write(ctx, chunksOf(cmd, 0, `"old 0"`, `"old 1"`)); !errors.Is(err, pgsink.ErrReplaced) || end.Done {
		t.Errorf("got %v, done %t, want ErrReplaced", err, end.Done)
	}
	want := stored{Status: "in_progress", Chunks: []string{`"new 0"`, `"new 1"`}}
	if diff := cmp.Diff(want, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Some rows are there, and were left by earlier runs or inserted by the application; others are not.
func TestCommandsBeginTogetherWhateverIsThere(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	first, s := db.newSink(), db.newSink()
	var commands []vehicle.Command
	for i := range 30 {
		cmd := newCommand()
		switch i % 3 {
		case 0:
			db.submit(cmd)
			if err := execute(t.Context(), first, cmd, chunksOf(cmd, 0, `"old"`, `"old"`, `"old"`)); err != nil {
				t.Fatal(err)
			}
		case 1:
			db.submit(cmd)
		default:
			if err := db.admit(t.Context(), cmd); err != nil {
				t.Fatal(err)
			}
		}
		commands = append(commands, cmd)
	}
	errs := make(chan error)
	for _, cmd := range commands {
		go func() { errs <- s.Begin(t.Context(), cmd) }()
	}
	for range commands {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, cmd := range commands {
		got := db.stored(cmd.ID)
		got.Audit = nil
		if diff := cmp.Diff(stored{Status: "in_progress"}, got, emptyIsNil); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := s.Write(t.Context(), chunksOf(cmd, 0, `"new"`)); err != nil {
			t.Error(err)
		}
		if err := s.End(t.Context(), completed(cmd, 1)); err != nil {
			t.Error(err)
		}
		got = db.stored(cmd.ID)
		if diff := cmp.Diff(stored{Status: "completed", Completed: true, Chunks: []string{`"new"`}, Audit: []string{"command_completed"}}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// A whole answer to a new command is one statement, and goes the long way where something is there all the same.
func TestAWholeAnswerIsStoredAtOnce(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	var count counter
	s := db.newSinkOn(db.newPool(withTracer(&count)))
	cmd := newCommand()
	run := func(payloads ...string) (batches, statements int) {
		t.Helper()
		if err := s.Begin(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		count.reset()
		res := completed(cmd, len(payloads))
		ctx, _ := tell(t.Context(), s, &res)
		if err := s.Write(ctx, chunksOf(cmd, 0, payloads...)); err != nil {
			t.Fatal(err)
		}
		if err := s.End(t.Context(), res); err != nil {
			t.Fatal(err)
		}
		want := stored{Status: "completed", Completed: true, Chunks: payloads, Audit: []string{"command_completed"}}
		got := db.stored(cmd.ID)
		got.Audit = db.texts(`SELECT action FROM {audit_logs} WHERE entity_type = 'command' AND entity_id = $1::uuid AND user_id = $2::uuid`, cmd.ID.String(), cmd.UserID.String())
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		batches, statements, _ = count.reset()
		return batches, statements
	}
	if batches, statements := run("1", "2", "3"); batches != 1 || statements != 3 { // begin, all of it, commit
		t.Errorf("a new command: got %d statements in %d round trips, want 3 in 1", statements, batches)
	}
	if batches, statements := run("1", "2"); batches != 1 || statements != 5 {
		t.Errorf("the same again: got %d statements in %d round trips, want 5 in 1", statements, batches)
	}
	db.exec(`DELETE FROM {commands}`) // the audit trail stays
	other := newCommand()
	if err := execute(t.Context(), s, other, chunksOf(other, 0, "0")); err != nil { // rows are not there any more
		t.Fatal(err)
	}
	if batches, _ := run("4"); batches != 2 {
		t.Errorf("a new command with an audit row: got %d round trips, want 2", batches)
	}
}

func TestALockedRowDelaysItsOwnAnswerAlone(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink(pgsink.WithWriters(1))
	commands := make([]vehicle.Command, 20)
	for i := range commands {
		commands[i] = newCommand()
		if err := s.Begin(t.Context(), commands[i]); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), db.sql(`SELECT 1 FROM {commands} WHERE command_id = $1::uuid FOR UPDATE`), commands[0].ID.String()); err != nil {
		t.Fatal(err)
	}
	write := func(cmd vehicle.Command) chan error {
		done := make(chan error, 1)
		go func() {
			res := completed(cmd, 2)
			ctx, _ := tell(t.Context(), s, &res)
			done <- s.Write(ctx, chunksOf(cmd, 0, "1", "2"))
		}()
		return done
	}
	locked := write(commands[0])
	for _, cmd := range commands[1:] {
		if err := <-write(cmd); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-locked:
		t.Errorf("the row is locked: got %v, want it to wait", err)
	default:
	}
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Error(err)
	}
	want := stored{Status: "completed", Completed: true, Chunks: []string{"1", "2"}, Audit: []string{"command_completed"}}
	for _, cmd := range commands {
		if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestAWholeAnswerWhoseCommitIsNotAnsweredIsStoredOnce(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	p := newProxy(t, db.url)
	db.url = p.url
	s := db.newSinkOn(db.newPool(withMode(pgx.QueryExecModeExec))) // the SQL's text is in each request
	cmd := newCommand()
	res := completed(cmd, 3)
	ctx, _ := tell(t.Context(), s, &res)
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"Begin", func() error { return s.Begin(t.Context(), cmd) }},
		{"Write", func() error { return s.Write(ctx, chunksOf(cmd, 0, "0", "1", "2")) }},
	} {
		lost := p.loseAnswerToCommit(3)
		if err := step.call(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if lost.Load() == 0 {
			t.Fatalf("%s: nothing was lost", step.name)
		}
	}
	if err := s.End(t.Context(), res); err != nil {
		t.Fatal(err)
	}
	want := stored{Status: "completed", Completed: true, Chunks: []string{"0", "1", "2"}, Audit: []string{"command_completed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
