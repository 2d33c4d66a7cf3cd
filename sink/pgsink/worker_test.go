package pgsink_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// A process of this test binary with workerURL set is a worker: it runs the commands that workerSchema's table has,
// and says a line on standard output for each that it has done.
const (
	workerURL    = "PGSINK_TEST_WORKER_URL"
	workerSchema = "PGSINK_TEST_WORKER_SCHEMA"
	workerRun    = "PGSINK_TEST_WORKER_RUN"
)

const workerChunks = 40

// work is the worker's main.
func work(url string) int {
	if err := workOn(context.Background(), url, os.Getenv(workerSchema), os.Getenv(workerRun)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func workOn(ctx context.Context, url, schema, run string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	s := pgsink.New(pool, pgsink.WithSchema(schema))
	db := &database{schema: schema}
	rows, err := pool.Query(ctx, db.sql(`SELECT command_id::text FROM {commands}`))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for rows.Next() {
		cmd := newCommand()
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		cmd.ID = uuid.MustParse(id)
		wg.Go(func() {
			payloads := make([]string, workerChunks)
			for i := range payloads {
				payloads[i] = fmt.Sprintf(`"%s %d"`, run, i)
			}
			chunks := chunksOf(cmd, 0, payloads...)
			err := execute(ctx, s, cmd, chunks[:1], chunks[1:7], chunks[7:30], chunks[30:])
			mu.Lock()
			defer mu.Unlock()
			fmt.Println("done", err)
		})
	}
	wg.Wait()
	return s.Close(ctx)
}

func TestAKilledProcessIsStartedAgainAndRunsTheSameCommands(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	const commands = 100
	ids := make([]uuid.UUID, commands)
	for i := range ids {
		cmd := newCommand()
		db.submit(cmd)
		ids[i] = cmd.ID
	}
	for run, killAfter := range []int{1, 20, 60, commands} {
		start := func() *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), workerURL+"="+db.url, workerSchema+"="+db.schema, fmt.Sprintf("%s=run %d", workerRun, run))
			cmd.Stderr = os.Stderr
			return cmd
		}
		cmd := start()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := 0
		for lines := bufio.NewScanner(out); done < killAfter && lines.Scan(); done++ {
			if !strings.HasSuffix(lines.Text(), "<nil>") {
				t.Fatal(lines.Text())
			}
		}
		if done < killAfter {
			t.Fatalf("run %d ended after %d commands", run, done)
		}
		if killAfter < commands {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait()
	}
	want := make([]string, workerChunks)
	for i := range want {
		want[i] = fmt.Sprintf(`"run 3 %d"`, i)
	}
	for _, id := range ids {
		got := db.stored(id)
		if got.Status != "completed" {
			t.Errorf("got status %q", got.Status)
		}
		if diff := cmp.Diff(want, got.Chunks); diff != "" {
			t.Errorf("the chunks (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"command_completed"}, got.Audit); diff != "" {
			t.Errorf("the audit trail (-want +got):\n%s", diff)
		}
	}
}

func TestRecoverEndsWhatACrashedProcessLeft(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	crashed, s := db.newSink(), db.newSink()
	begin := func(s *pgsink.Sink, submitted, answered time.Duration) uuid.UUID {
		t.Helper()
		cmd := newCommand()
		db.submit(cmd)
		if err := s.Begin(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		db.exec(`UPDATE {commands} SET submitted_at = now() - $2::bigint * interval '1 microsecond' WHERE command_id = $1::uuid`, cmd.ID.String(), submitted.Microseconds())
		if answered > 0 {
			chunks := chunksOf(cmd, 0, "1")
			chunks[0].ReceivedAt = time.Now().Add(-answered)
			if err := s.Write(t.Context(), chunks); err != nil {
				t.Fatal(err)
			}
		}
		return cmd.ID
	}
	silent := begin(crashed, time.Hour, 0)
	again := begin(crashed, time.Hour, 0) // it failed the first time
	for _, err := range []error{crashed.End(t.Context(), failed(vehicle.Command{ID: again}, errors.New("lost"))), crashed.Begin(t.Context(), vehicle.Command{ID: again})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	answered := begin(crashed, time.Hour, 50*time.Minute)
	lately := begin(crashed, time.Hour, time.Minute)
	young := begin(crashed, time.Minute, 0)
	ours := begin(s, time.Hour, 0)
	undated := begin(crashed, time.Hour, 0) // the application's column takes NULL
	db.exec(`UPDATE {commands} SET submitted_at = NULL WHERE command_id = $1::uuid`, undated.String())
	pending := newCommand()
	db.submit(pending)
	db.exec(`UPDATE {commands} SET submitted_at = now() - interval '1 day' WHERE status = 'pending'`)
	for i, want := range []int64{4, 0} {
		if got, err := s.Recover(t.Context(), 30*time.Minute); err != nil || got != want {
			t.Errorf("call %d: got %d, %v, want %d", i+1, got, err, want)
		}
	}
	for _, id := range []uuid.UUID{silent, again, answered, undated} {
		got := db.stored(id)
		if got.Status != "failed" || !strings.Contains(got.ErrorMessage, "interrupted") || !got.Completed || !cmp.Equal(got.Audit, []string{"command_failed"}) {
			t.Errorf("got %+v", got)
		}
	}
	details := `SELECT details->>'command_name' || ': ' || (details->>'error') FROM {audit_logs} a JOIN {commands} c USING (command_id)
		WHERE command_id = $1::uuid AND entity_type = 'command' AND entity_id = command_id AND a.user_id = c.user_id`
	if got := query[string](db, details, silent.String()); !strings.HasPrefix(got, "ReadDTC: interrupted") {
		t.Errorf("the audit row's details: got %q", got)
	}
	for name, id := range map[string]uuid.UUID{"answered lately": lately, "submitted lately": young, "running here": ours} {
		if got := db.stored(id); got.Status != "in_progress" || got.Completed || len(got.Audit) > 0 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got := db.stored(pending.ID); got.Status != "pending" {
		t.Errorf("a pending command: got %+v", got)
	}
}

func TestRecoverTakesManyInBatches(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	db.exec(`INSERT INTO {commands} (command_id, vehicle_id, command_name, status, submitted_at)
		SELECT gen_random_uuid(), gen_random_uuid(), 'ReadDTC', 'in_progress', now() - interval '1 hour' FROM generate_series(1, 1234)`)
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	db.exec(`UPDATE {commands} SET submitted_at = now() - interval '1 day'`)
	if got, err := s.Recover(t.Context(), time.Minute); err != nil || got != 1234 {
		t.Errorf("got %d, %v, want 1234", got, err)
	}
	if got := query[int64](db, `SELECT count(*) FROM {audit_logs} WHERE action = 'command_failed'`); got != 1234 {
		t.Errorf("got %d audit rows, want 1234", got)
	}
	if got := db.stored(cmd.ID).Status; got != "in_progress" {
		t.Errorf("the command of this process: got %s", got)
	}
}

// Old rows may break a constraint that was added NOT VALID, and a trigger may refuse anything.
func TestRecoverPassesOverWhatTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	trigger := func(do string) string {
		return `CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + do + `; END $$;
			CREATE TRIGGER refuse BEFORE UPDATE ON {commands} FOR EACH ROW WHEN (NEW.command_name = 'old') EXECUTE FUNCTION {schema}.refuse()`
	}
	for _, test := range []struct {
		name, refuse, code string
		old                []int // the commands that are refused
	}{
		{"because of a constraint", `ALTER TABLE {commands} ADD CONSTRAINT named CHECK (command_name <> 'old') NOT VALID`, "23514", []int{7, 300}},
		{"because of a trigger that finds no table", trigger(`PERFORM FROM nowhere`), "42P01", []int{7, 300}},
		{"because of a trigger that has waited for a lock", trigger(`RAISE 'no' USING ERRCODE = '55P03'`), "55P03", []int{7}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			db.exec(`INSERT INTO {commands} (command_id, vehicle_id, command_name, status, submitted_at)
				SELECT gen_random_uuid(), gen_random_uuid(), CASE WHEN n = ANY($1) THEN 'old' ELSE 'ReadDTC' END, 'in_progress', now() - interval '1 hour'
				FROM generate_series(1, 700) n`, test.old)
			db.exec(strings.ReplaceAll(test.refuse, "{schema}", pgx.Identifier{db.schema}.Sanitize()))
			first := query[string](db, `SELECT min(command_id::text) FROM {commands} WHERE command_name = 'old'`)
			s := db.newSink()
			others := 700 - int64(len(test.old))
			for i, want := range []int64{others, 0} {
				got, err := s.Recover(t.Context(), time.Minute)
				if got != want || err == nil || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), test.code) {
					t.Errorf("call %d: got %d, %v, want %d and an error that says %s and %s", i+1, got, err, want, first, test.code)
				}
			}
			for what, sql := range map[string]string{
				"recovered commands": `SELECT count(*) FROM {commands} WHERE status = 'failed'`,
				"audit rows":         `SELECT count(*) FROM {audit_logs} WHERE action = 'command_failed'`,
			} {
				if got := query[int64](db, sql); got != others {
					t.Errorf("got %d %s, want %d", got, what, others)
				}
			}
		})
	}
}

// Somebody is about to change them, such as the process that runs them.
func TestRecoverPassesOverRowsThatAreLocked(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	db.exec(`INSERT INTO {commands} (command_id, vehicle_id, command_name, status, submitted_at)
		SELECT gen_random_uuid(), gen_random_uuid(), 'command ' || n, 'in_progress', now() - interval '1 hour' FROM generate_series(1, 3) n`)
	tx := db.lock("command 2")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := db.newSink().Recover(ctx, time.Minute)
	if got != 2 || err != nil {
		t.Errorf("got %d, %v, want the 2 others", got, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Which commands to recover may be what the database does not say.
func TestRecoverThatCannotLookFails(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	db.exec(`ALTER TABLE {commands} DROP COLUMN submitted_at`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if got, err := db.newSink().Recover(ctx, time.Minute); got != 0 || err == nil || !strings.Contains(err.Error(), "42703") {
		t.Errorf("got %d, %v, want 0 and 42703", got, err)
	}
}

// A command that takes longer than Recover was told is caught, and ends all the same.
func TestACommandThatWasRecoveredWhileItRanIsPutRight(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s, cmd := db.newSink(), newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if n, err := db.newSink().Recover(t.Context(), 0); n != 1 || err != nil {
		t.Fatalf("Recover: got %d, %v, want 1", n, err)
	}
	if err := errors.Join(s.Write(t.Context(), chunksOf(cmd, 0, "1")), s.End(t.Context(), completed(cmd, 1))); err != nil {
		t.Fatal(err)
	}
	want := stored{Status: "completed", Completed: true, Chunks: []string{"1"}, Audit: []string{"command_failed", "command_completed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What keeps one command waiting may keep them all, such as a lock on a whole table. To wait for it as often as there are commands would take hours.
func TestRecoverDoesNotWaitForEachCommand(t *testing.T) {
	t.Parallel()
	for timeout, code := range map[string]string{"lock_timeout": "55P03", "statement_timeout": "57014"} {
		t.Run(timeout, func(t *testing.T) {
			t.Parallel()
			testRecoverWaits(t, timeout, code)
		})
	}
}

func testRecoverWaits(t *testing.T, timeout, code string) {
	t.Helper()
	db := newDatabase(t, databaseURL(t))
	db.exec(`INSERT INTO {commands} (command_id, vehicle_id, command_name, status, submitted_at)
		SELECT gen_random_uuid(), gen_random_uuid(), 'ReadDTC', 'in_progress', now() - interval '1 hour' FROM generate_series(1, 40)`)
	var transactions atomic.Int32
	s := db.newSinkOn(db.newPool(func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams[timeout] = "100ms"
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { transactions.Add(1); return true, nil }
	}))
	tx, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // the pool waits for it
	if _, err := tx.Exec(t.Context(), db.sql(`LOCK TABLE {audit_logs}`)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Recover(t.Context(), time.Minute); got != 0 || err == nil || !strings.Contains(err.Error(), code) {
		t.Errorf("while the table is locked: got %d, %v, want 0 and %s", got, err, code)
	}
	if got := transactions.Load(); got > 8 { // of 40, 20, 10, 5, 2, 1, and of 2, 1
		t.Errorf("while the table is locked: got %d transactions, want at most 8", got)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := db.newSink().Recover(t.Context(), time.Minute); got != 40 || err != nil {
		t.Errorf("then: got %d, %v, want 40", got, err)
	}
}
