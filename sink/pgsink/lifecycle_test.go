package pgsink_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

func TestARowThatTheApplicationInsertedIsMovedAndKept(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := newCommand()
	db.submit(cmd)
	submitted := query[time.Time](db, `SELECT submitted_at FROM {commands}`)
	owner := cmd.UserID
	cmd.UserID = uuid.Nil // the row knows
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored{Status: "in_progress"}, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("after Begin (-want +got):\n%s", diff)
	}
	if err := s.Write(t.Context(), chunksOf(cmd, 0, `{"a": 1}`, `2`)); err != nil {
		t.Fatal(err)
	}
	res := completed(cmd, 2)
	if err := s.End(t.Context(), res); err != nil {
		t.Fatal(err)
	}
	want := stored{Status: "completed", Completed: true, Chunks: []string{`{"a": 1}`, `2`}, Audit: []string{"command_completed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("after End (-want +got):\n%s", diff)
	}
	if got := query[string](db, `SELECT command_params::text FROM {commands}`); got != `{"from": "the application"}` {
		t.Errorf("command_params: got %s, want the application's", got)
	}
	if got := query[time.Time](db, `SELECT submitted_at FROM {commands}`); !got.Equal(submitted) {
		t.Errorf("submitted_at: got %v, want the application's %v", got, submitted)
	}
	if got, want := query[time.Time](db, `SELECT completed_at FROM {commands}`), res.FinishedAt.Truncate(time.Microsecond); !got.Equal(want) {
		t.Errorf("completed_at: got %v, want %v", got, want)
	}
	type row struct{ LogID, UserID, VehicleID, EntityType, EntityID, Details string }
	var got row
	err := db.pool.QueryRow(t.Context(), db.sql(`SELECT log_id::text, user_id::text, vehicle_id::text, entity_type, entity_id::text, details::text FROM {audit_logs}`)).
		Scan(&got.LogID, &got.UserID, &got.VehicleID, &got.EntityType, &got.EntityID, &got.Details)
	if err != nil {
		t.Fatal(err)
	}
	wantRow := row{
		uuid.NewSHA1(cmd.ID, []byte("audit:command_completed")).String(), owner.String(), cmd.VehicleID.String(),
		"command", cmd.ID.String(), `{"chunk_count": 2, "command_name": "ReadDTC"}`,
	}
	if diff := cmp.Diff(wantRow, got); diff != "" {
		t.Errorf("the audit row (-want +got):\n%s", diff)
	}
	if got, want := query[string](db, `SELECT min(response_id::text) FROM {responses} WHERE sequence_number = 1`), chunksOf(cmd, 1, "")[0].ID().String(); got != want {
		t.Errorf("response_id of chunk 1: got %s, want Chunk.ID %s", got, want)
	}
}

func TestAMissingRowIsInserted(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := db.admitted()
	cmd.Params = map[string]any{"did": "F190", "deep": map[string]any{"n": 1}}
	if err := execute(t.Context(), s, cmd); err != nil {
		t.Fatal(err)
	}
	var user, vehicleID, name, params string
	err := db.pool.QueryRow(t.Context(), db.sql(`SELECT user_id::text, vehicle_id::text, command_name, command_params::text FROM {commands}`)).Scan(&user, &vehicleID, &name, &params)
	if err != nil {
		t.Fatal(err)
	}
	if user != cmd.UserID.String() || vehicleID != cmd.VehicleID.String() || name != cmd.Name || params != `{"did": "F190", "deep": {"n": 1}}` {
		t.Errorf("got %s, %s, %s, %s", user, vehicleID, name, params)
	}
}

// A command may have no user and no parameters, or such as jsonb cannot hold.
func TestACommandWithoutAUser(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]pgsink.Option{nil, {pgsink.WithClaim()}} {
		for want, params := range map[string]map[string]any{`{}`: nil, `{"$json": "{\"nul\":\"\\u0000\"}"}`: {"nul": "\x00"}} {
			db := newDatabase(t, databaseURL(t))
			cmd := newCommand()
			cmd.UserID, cmd.Params = uuid.Nil, params
			if err := execute(t.Context(), db.newSink(opts...), cmd); err != nil {
				t.Fatal(err)
			}
			if got := query[string](db, `SELECT coalesce(user_id::text, 'nobody') || ' ' || command_params FROM {commands}`); got != "nobody "+want {
				t.Errorf("with %d options: got %s, want nobody %s", len(opts), got, want)
			}
		}
	}
}

func TestAFailedCommandSaysWhy(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if err := s.End(t.Context(), failed(cmd, errors.New("no\x00final \xffchunk"))); err != nil {
		t.Fatal(err)
	}
	want := stored{Status: "failed", ErrorMessage: "no\uFFFDfinal \uFFFDchunk", Completed: true, Audit: []string{"command_failed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := query[string](db, `SELECT details::text FROM {audit_logs}`), `{"error": "no�final �chunk", "command_name": "ReadDTC"}`; got != want {
		t.Errorf("the audit row's details: got %s, want %s", got, want)
	}
}

func TestACommandThatIsRunAgainReplacesItsRows(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := newCommand()
	db.submit(cmd)
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), chunksOf(cmd, 0, `"first 0"`, `"first 1"`, `"first 2"`)); err != nil {
		t.Fatal(err)
	}
	if err := s.End(t.Context(), failed(cmd, errors.New("lost"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored{Status: "in_progress", Audit: []string{"command_failed"}}, db.stored(cmd.ID), emptyIsNil); diff != "" {
		t.Errorf("after the second Begin (-want +got):\n%s", diff)
	}
	if err := s.Write(t.Context(), chunksOf(cmd, 0, `"second 0"`, `"second 1"`)); err != nil {
		t.Fatal(err)
	}
	if err := s.End(t.Context(), completed(cmd, 2)); err != nil {
		t.Fatal(err)
	}
	want := stored{
		Status: "completed", Completed: true, Chunks: []string{`"second 0"`, `"second 1"`},
		Audit: []string{"command_failed", "command_completed"},
	}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A run goes on in a process that was thought dead, while another has begun the command anew.
func TestAStragglerCannotMixIn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name            string
		before, between bool // the old run has written before the new one begins; the new one has written before the old one goes on
		status          vehicle.Status
	}{
		{"in the middle of both answers", true, true, vehicle.StatusFailed},
		{"before the new run's first chunk", true, false, vehicle.StatusFailed},
		{"with its first chunk after the new run's", false, true, vehicle.StatusFailed},
		{"in the middle of both answers, and complete", true, true, vehicle.StatusCompleted}, // its error was passed over
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			oldSink, newSink := db.newSink(), db.newSink()
			cmd := newCommand()
			db.submit(cmd)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(oldSink.Begin(t.Context(), cmd))
			oldChunks := chunksOf(cmd, 0, `"old 0"`, `"old 1"`, `"old 2"`, `"old 3"`)
			if test.before {
				must(oldSink.Write(t.Context(), oldChunks[:2]))
				oldChunks = oldChunks[2:]
			}
			must(newSink.Begin(t.Context(), cmd))
			newChunks := chunksOf(cmd, 0, `"new 0"`, `"new 1"`, `"new 2"`)
			if test.between {
				must(newSink.Write(t.Context(), newChunks[:1]))
				newChunks = newChunks[1:]
			}
			if err := oldSink.Write(t.Context(), oldChunks); !errors.Is(err, pgsink.ErrReplaced) {
				t.Errorf("the old run's Write: got %v, want ErrReplaced", err)
			}
			must(newSink.Write(t.Context(), newChunks))
			must(newSink.End(t.Context(), completed(cmd, 3)))
			if err := oldSink.End(t.Context(), vehicle.Result{Command: cmd, Status: test.status, FinishedAt: time.Now()}); !errors.Is(err, pgsink.ErrReplaced) {
				t.Errorf("the old run's End: got %v, want ErrReplaced", err)
			}
			want := stored{Status: "completed", Completed: true, Chunks: []string{`"new 0"`, `"new 1"`, `"new 2"`}, Audit: []string{"command_completed"}}
			if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestACommandCannotRunTwiceAtOnceInOneSink(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(t.Context(), cmd); !errors.Is(err, pgsink.ErrRunning) {
		t.Errorf("got %v, want ErrRunning", err)
	}
	if err := s.End(t.Context(), completed(cmd, 0)); err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), s, cmd); err != nil {
		t.Errorf("after End: %v", err)
	}
}

func TestCallsForACommandThatIsNotRunningAreRefused(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := newCommand()
	for _, when := range []string{"before Begin", "after End"} {
		if err := s.Write(t.Context(), chunksOf(cmd, 0, "1")); err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("Write %s: got %v", when, err)
		}
		if err := s.End(t.Context(), completed(cmd, 0)); err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("End %s: got %v", when, err)
		}
		if err := execute(t.Context(), s, cmd); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheRowMayDisappearUnderARun(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	db.exec(`DELETE FROM {commands}`)
	err := s.Write(t.Context(), chunksOf(cmd, 0, "1"))
	if err == nil || !strings.Contains(err.Error(), "23503") || !strings.Contains(err.Error(), cmd.ID.String()) {
		t.Errorf("Write: got %v, want a foreign key that names the command", err)
	}
	if err := s.End(t.Context(), completed(cmd, 0)); !errors.Is(err, pgsink.ErrReplaced) {
		t.Errorf("End: got %v, want ErrReplaced", err)
	}
}

func TestLongAnswersAndLargeOnes(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	payloads := make([]string, 10_000)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`{"n": %d}`, i)
	}
	long := newCommand()
	if err := execute(t.Context(), s, long, chunksOf(long, 0, payloads...)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(payloads, db.stored(long.ID).Chunks); diff != "" {
		t.Errorf("10,000 chunks (-want +got):\n%s", diff)
	}
	large := newCommand()
	var texts []string
	for i := range 12 {
		texts = append(texts, `"`+strings.Repeat(string(rune('a'+i)), 3<<20)+`"`)
	}
	texts = append(texts, `"`+strings.Repeat("z", 5<<20)+`"`) // more than a transaction has otherwise
	if err := execute(t.Context(), s, large, chunksOf(large, 1, texts...)); err != nil {
		t.Fatal(err)
	}
	if got := db.stored(large.ID).Chunks; !cmp.Equal(got, texts) {
		t.Errorf("12 chunks of 3 MiB and one of 5: got %d chunks, not the same", len(got))
	}
}

// emptyIsNil makes nil of slices without elements.
var emptyIsNil = cmp.Transformer("emptyIsNil", func(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
})

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// Every mode of pgx, and a connection pool that gives each transaction another connection.
func TestEveryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			for _, opts := range [][]pgsink.Option{nil, {pgsink.WithClaim()}} {
				db := newAppDatabase(t, databaseURL(t))
				checkMode(t, db, db.newPool(withMode(mode)), opts...)
			}
		})
	}
}

// A database or a role may say how its sessions write times, and what else a transaction begins with.
func TestEveryExecModeInASessionWithOtherSettings(t *testing.T) {
	t.Parallel()
	for _, settings := range []map[string]string{
		{"DateStyle": "German", "TimeZone": "Asia/Kathmandu", "IntervalStyle": "iso_8601", "default_transaction_isolation": "serializable"},
		{"DateStyle": "SQL, DMY", "TimeZone": "Pacific/Kiritimati", "IntervalStyle": "sql_standard", "default_transaction_isolation": "repeatable read"},
		{"DateStyle": "Postgres, MDY", "TimeZone": "America/St_Johns", "array_nulls": "off"},
	} {
		for _, mode := range execModes {
			t.Run(settings["DateStyle"]+"/"+mode.String(), func(t *testing.T) {
				t.Parallel()
				db := newAppDatabase(t, databaseURL(t))
				pool := db.newPool(func(c *pgxpool.Config) {
					withMode(mode)(c)
					maps.Copy(c.ConnConfig.RuntimeParams, settings)
				})
				checkMode(t, db, pool)
				s, cmd := db.newSinkOn(pool), db.admitted()
				chunks := chunksOf(cmd, 0, "1", "2")
				chunks[1].ReceivedAt = time.Date(1969, 7, 20, 20, 17, 39, 123456000, time.UTC)
				if err := execute(t.Context(), s, cmd, chunks); err != nil {
					t.Fatal(err)
				}
				for c, err := range s.History(t.Context(), cmd.ID) {
					if err != nil {
						t.Fatal(err)
					}
					if want := chunks[c.Seq].ReceivedAt.UTC().Truncate(time.Microsecond); !c.ReceivedAt.Equal(want) {
						t.Errorf("chunk %d: got the time %v, want %v", c.Seq, c.ReceivedAt, want)
					}
				}
			})
		}
	}
}

func TestThroughPgBouncerInTransactionMode(t *testing.T) {
	t.Parallel()
	bouncer := bouncerURL(t, 4)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			db.url = bouncer
			checkMode(t, db, db.newPool(withMode(mode)))
		})
	}
}

func withMode(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }
}

// checkMode runs commands, all at once, with what is hard to encode.
func checkMode(t *testing.T, db *database, pool *pgxpool.Pool, opts ...pgsink.Option) {
	t.Helper()
	s := db.newSinkOn(pool, opts...)
	payloads := []string{`{"a":"\\ \" ' ? $1 , {} NULL"}`, `null`, `"é🚗"`, `"\u0000"`, `[1.50,"",{}]`, `""`}
	want := []string{`{"a": "\\ \" ' ? $1 , {} NULL"}`, `null`, `"é🚗"`, `{"$json": "\"\\u0000\""}`, `[1.50, "", {}]`, `""`}
	cmds := make([]vehicle.Command, 40)
	errs := make(chan error, len(cmds))
	for i := range cmds {
		cmds[i] = db.admitted()
		cmds[i].Name = `Read "it's" {NULL} \ $1`
		go func() {
			chunks := chunksOf(cmds[i], 0, payloads...)
			switch i % 3 {
			case 0:
				errs <- execute(t.Context(), s, cmds[i], chunks[:2], chunks[2:])
			case 1:
				errs <- executeTold(t.Context(), s, cmds[i], chunks[:2], chunks[2:])
			default:
				errs <- executeTold(t.Context(), s, cmds[i], chunks)
			}
		}()
	}
	for range cmds {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range cmds {
		want := stored{Status: "completed", Completed: true, Chunks: want, Audit: []string{"command_completed"}}
		if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		n := 0
		for c, err := range s.History(t.Context(), cmd.ID) {
			if err != nil {
				t.Fatal(err)
			}
			original := want.Chunks[n]
			if strings.HasPrefix(original, `{"$json"`) {
				original = payloads[n]
			}
			if string(c.Payload) != original {
				t.Errorf("History: got %s, want %s", c.Payload, original)
			}
			n++
		}
		if n != len(payloads) {
			t.Errorf("History: got %d chunks, want %d", n, len(payloads))
		}
	}
	if n, err := s.Recover(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("Recover: got %d, %v, want nothing to do", n, err)
	}
}

func TestMigrateMayRunAnyTimeAndAtOnce(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run("where the default is "+isolation, func(t *testing.T) {
			t.Parallel()
			db := openDatabase(t, databaseURL(t))
			pool := db.newPool(func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["default_transaction_isolation"] = isolation })
			errs := make(chan error)
			for range 8 {
				go func() {
					errs <- pgsink.Migrate(context.WithoutCancel(t.Context()), pool, pgsink.WithSchema(db.schema))
				}()
			}
			for range 8 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			if err := execute(t.Context(), db.newSink(), newCommand()); err != nil {
				t.Error(err)
			}
		})
	}
}

// PostgreSQL keeps 63 bytes of a name.
func TestMigrateMayRunAgainInASchemaWithALongName(t *testing.T) {
	t.Parallel()
	db := openDatabase(t, databaseURL(t))
	db.schema += strings.Repeat("é", 30)
	for i := range 2 {
		if err := pgsink.Migrate(t.Context(), db.pool, pgsink.WithSchema(db.schema)); err != nil {
			t.Errorf("call %d: got %v, want no error", i+1, err)
		}
	}
	if err := execute(t.Context(), db.newSink(), newCommand()); err != nil {
		t.Error(err)
	}
}

func TestTheSearchPathFindsTheTables(t *testing.T) {
	t.Parallel()
	db := openDatabase(t, databaseURL(t))
	schema := pgx.Identifier{db.schema}.Sanitize()
	db.exec(`CREATE SCHEMA ` + schema)
	pool := db.newPool(func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["search_path"] = schema })
	if err := pgsink.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	s, cmd := pgsink.New(pool, nil, pgsink.WithWriters(0)), newCommand() // which is no option, and no number of writers
	if err := errors.Join(execute(t.Context(), s, cmd, chunksOf(cmd, 0, "1")), s.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	want := stored{Status: "completed", Completed: true, Chunks: []string{"1"}, Audit: []string{"command_completed"}}
	if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMigrateLeavesTheApplicationsTablesAlone(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	describe := `SELECT string_agg(format('%s %s %s', c.relname, c.relkind, a.attname), E'\n' ORDER BY c.relname, a.attnum)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1`
	before := query[string](db, describe, db.schema)
	if err := pgsink.Migrate(t.Context(), db.pool, pgsink.WithSchema(db.schema)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, query[string](db, describe, db.schema)); diff != "" {
		t.Errorf("the tables changed (-before +after):\n%s", diff)
	}
}
