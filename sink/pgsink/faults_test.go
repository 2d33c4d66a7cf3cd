package pgsink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

func TestPayloadsThatJSONBCannotHold(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSink()
	pgsink.NastyPayloads(func(name, text string, plain bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := newCommand()
			if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, text)); err != nil {
				t.Fatal(err)
			}
			held := query[string](db, `SELECT response_payload::text FROM {responses} WHERE command_id = $1::uuid`, cmd.ID.String())
			if wrapped := strings.HasPrefix(held, `{"$json": "`); wrapped == plain {
				t.Errorf("got %.80s, want it stored as it is: %t", held, plain)
			}
			for c, err := range s.History(t.Context(), cmd.ID) {
				if err != nil {
					t.Fatal(err)
				}
				if !plain && string(c.Payload) != text {
					t.Errorf("History: got %.80q, want %.80q", c.Payload, text)
				}
			}
		})
	})
}

func TestOneBadCommandAmongFiftyFailsAlone(t *testing.T) {
	t.Parallel()
	unknown := uuid.New()
	for _, test := range []struct {
		name   string
		spoil  func(cmd *vehicle.Command)
		chunk  string
		reason []string // all in the error
	}{
		{"an unknown vehicle", func(c *vehicle.Command) { c.VehicleID = unknown }, "1", []string{"23503", "vehicle_id", unknown.String()}},
		{"an unknown user", func(c *vehicle.Command) { c.UserID = unknown }, "1", []string{"23503", "user_id", unknown.String()}},
		{"no user where there must be one", func(c *vehicle.Command) { c.UserID = uuid.Nil }, "1", []string{"23502", "user_id"}},
		{"a name that is too long", func(c *vehicle.Command) { c.Name = strings.Repeat("é", 101) }, "1", []string{"name", "100"}},
		{"a name with NUL", func(c *vehicle.Command) { c.Name = "Read\x00DTC" }, "1", []string{"name"}},
		{"a payload that is not UTF-8", func(*vehicle.Command) {}, "\"secret\xff\"", []string{"UTF-8"}},
		{"a payload that a constraint refuses", func(*vehicle.Command) {}, `"secret"`, []string{"23514", "no_secrets"}},
		{"a payload that a trigger refuses", func(*vehicle.Command) {}, `"trigger secret"`, []string{"P0001"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			db.exec(`ALTER TABLE {responses} ADD CONSTRAINT no_secrets CHECK (response_payload <> '"secret"')`)
			fn := pgx.Identifier{db.schema, "refuse"}.Sanitize()
			db.exec(`CREATE FUNCTION ` + fn + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.response_payload = '"trigger secret"' THEN RAISE 'refused: %', NEW.response_payload; END IF; RETURN NEW; END $$;
				CREATE TRIGGER refuse BEFORE INSERT ON {responses} FOR EACH ROW EXECUTE FUNCTION ` + fn + `()`)
			s := db.newSink(pgsink.WithWriters(1))
			bad := 17
			var wg sync.WaitGroup
			cmds, errs := make([]vehicle.Command, 51), make([]error, 51)
			release := db.holdUp(t) // so that they are in one transaction
			for i := range cmds {
				cmds[i] = db.admitted()
				payload := fmt.Sprintf(`{"n": %d}`, i)
				if i == bad {
					test.spoil(&cmds[i])
					payload = test.chunk
				}
				wg.Go(func() { errs[i] = execute(t.Context(), s, cmds[i], chunksOf(cmds[i], 0, payload)) })
			}
			release()
			wg.Wait()
			for i, cmd := range cmds {
				if i == bad {
					continue
				}
				if errs[i] != nil {
					t.Errorf("neighbour %d: %v", i, errs[i])
				}
				want := stored{Status: "completed", Completed: true, Chunks: []string{fmt.Sprintf(`{"n": %d}`, i)}, Audit: []string{"command_completed"}}
				if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
					t.Errorf("neighbour %d (-want +got):\n%s", i, diff)
				}
			}
			err := errs[bad]
			if err == nil {
				t.Fatal("got no error")
			}
			for _, reason := range test.reason {
				if !strings.Contains(err.Error(), reason) {
					t.Errorf("got the error %q, want one that says %q", err, reason)
				}
			}
			if strings.Contains(err.Error(), "secret\"") || strings.Contains(err.Error(), "secret\xff") {
				t.Errorf("got the error %q, which quotes the payload", err)
			}
		})
	}
}

// The tables let a command neither be inserted nor be started, for a while.
func TestACommandThatCannotBeginHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, forbid, allow string }{
		{
			"because of another key", `CREATE UNIQUE INDEX one ON {commands} (command_name) WHERE status = 'in_progress' AND command_name = 'taken'`,
			`DROP INDEX {schema}.one`,
		},
		{
			"because of a trigger", `CREATE FUNCTION {schema}.skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
				CREATE TRIGGER skip BEFORE INSERT ON {commands} FOR EACH ROW WHEN (NEW.command_name = 'taken') EXECUTE FUNCTION {schema}.skip()`,
			`DROP TRIGGER skip ON {commands}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			schema := pgx.Identifier{db.schema}.Sanitize()
			first, second := db.admitted(), db.admitted()
			first.Name, second.Name = "taken", "taken"
			db.submit(first)
			db.exec(strings.ReplaceAll(test.forbid, "{schema}", schema))
			s := db.newSink(pgsink.WithWriters(1))
			if err := s.Begin(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.Begin(context.WithoutCancel(t.Context()), second) }()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for range 10 {
				neighbour := db.admitted()
				if err := execute(ctx, s, neighbour, chunksOf(neighbour, 0, "1")); err != nil {
					t.Errorf("a neighbour: %v", err)
				}
			}
			select {
			case err := <-done:
				t.Errorf("got %v while it could not begin", err)
			default:
			}
			db.exec(strings.ReplaceAll(test.allow, "{schema}", schema))
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// holdUp locks the table of commands for a moment, so that what is begun meanwhile gathers in the sink.
func (db *database) holdUp(t *testing.T) (release func()) {
	t.Helper()
	tx, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), db.sql(`LOCK TABLE {responses} IN SHARE MODE`)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAnAnswerToCommitThatIsLostIsNoLossAndNoDouble(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		opts []pgsink.Option
		lose func(*proxy) *atomic.Int32
	}{
		{"the answer to COMMIT", nil, func(p *proxy) *atomic.Int32 { return p.loseAnswerToCommit(3) }},
		{"the answer to COMMIT of a claim", []pgsink.Option{pgsink.WithClaim()}, func(p *proxy) *atomic.Int32 { return p.loseAnswerToCommit(3) }},
		{"half of the request", nil, func(p *proxy) *atomic.Int32 { return p.loseRequest(3) }},
		{"half of the request of a claim", []pgsink.Option{pgsink.WithClaim()}, func(p *proxy) *atomic.Int32 { return p.loseRequest(3) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			p := newProxy(t, db.url)
			cmd := newCommand()
			db.submit(cmd)
			db.url = p.url
			pool := db.newPool(withMode(pgx.QueryExecModeExec)) // the SQL's text is in each request
			s := db.newSinkOn(pool, test.opts...)
			chunks := chunksOf(cmd, 0, "0", "1", "2")
			for _, step := range []struct {
				name string
				call func() error
			}{
				{"Begin", func() error { return s.Begin(t.Context(), cmd) }},
				{"the first Write", func() error { return s.Write(t.Context(), chunks[:1]) }},
				{"the second Write", func() error { return s.Write(t.Context(), chunks[1:]) }},
				{"End", func() error { return s.End(t.Context(), completed(cmd, 3)) }},
			} {
				lost := test.lose(p)
				if err := step.call(); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if lost.Load() == 0 {
					t.Fatalf("%s: nothing was lost", step.name)
				}
			}
			want := stored{Status: "completed", Completed: true, Chunks: []string{"0", "1", "2"}, Audit: []string{"command_completed"}}
			if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What cannot pass is not retried.
func TestFailuresThatCannotPassAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		spoil  func(t *testing.T, db *database) func(*pgxpool.Config)
		reason []string
	}{
		{"a read-only server", func(*testing.T, *database) func(*pgxpool.Config) {
			return func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on" }
		}, []string{"25006", "read-only"}},
		{"a missing table", func(_ *testing.T, db *database) func(*pgxpool.Config) {
			db.exec(`DROP TABLE {audit_logs}`)
			return nil
		}, []string{"42P01", "audit_logs", "Migrate"}},
		{"a missing privilege", func(t *testing.T, db *database) func(*pgxpool.Config) {
			t.Helper()
			role := pgx.Identifier{"role " + uuid.NewString()}.Sanitize()
			db.exec(`CREATE ROLE ` + role + `; GRANT USAGE ON SCHEMA ` + pgx.Identifier{db.schema}.Sanitize() + ` TO ` + role +
				`; GRANT SELECT, UPDATE, INSERT ON {commands} TO ` + role + `; GRANT SELECT ON {responses} TO ` + role)
			t.Cleanup(func() { db.exec(`DROP OWNED BY ` + role + `; DROP ROLE ` + role) })
			return func(c *pgxpool.Config) {
				c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
					_, err := conn.Exec(ctx, "SET ROLE "+role)
					return err
				}
			}
		}, []string{"42501", "permission denied", "responses"}},
		{"a database that is not there", func(*testing.T, *database) func(*pgxpool.Config) {
			return func(c *pgxpool.Config) { c.ConnConfig.Database = "nobody" }
		}, []string{"3D000", "nobody"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			s := db.newSinkOn(db.newPool(test.spoil(t, db)))
			start := time.Now()
			cmd := newCommand()
			err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, "1"))
			if err == nil {
				t.Fatal("got no error")
			}
			for _, reason := range test.reason {
				if !strings.Contains(err.Error(), reason) {
					t.Errorf("got %q, want it to say %q", err, reason)
				}
			}
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != test.reason[0] {
				t.Errorf("got %v, want the server's own error within reach", err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v: it was retried", took)
			}
		})
	}
}

// pgx refuses by itself, with errors that cannot be told apart but by their texts.
func TestAPoolThatPgxCannotUseSaysWhy(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	for want, configure := range map[string]func(*pgxpool.Config){
		"standard_conforming_strings=on": func(c *pgxpool.Config) {
			c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
			c.ConnConfig.RuntimeParams["standard_conforming_strings"] = "off"
		},
		"disabled statement cache": func(c *pgxpool.Config) { c.ConnConfig.StatementCacheCapacity = 0 },
		"disabled description cache": func(c *pgxpool.Config) {
			c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
			c.ConnConfig.DescriptionCacheCapacity = 0
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			pool := db.newPool(configure)
			s := db.newSinkOn(pool)
			var read error
			for _, err := range s.History(t.Context(), uuid.New()) {
				read = err
			}
			_, recovered := s.Recover(t.Context(), time.Hour)
			for call, err := range map[string]error{
				"Begin": s.Begin(t.Context(), newCommand()), "History": read, "Recover": recovered,
				"Migrate": pgsink.Migrate(t.Context(), pool, pgsink.WithSchema(db.schema)),
			} {
				if err == nil || !strings.HasPrefix(err.Error(), "pgsink: ") || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %v, want an error that says %q", call, err, want)
				}
			}
		})
	}
}

// What the transaction did is not known then.
func TestAConnectionThatIsLostAfterTheCommit(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	trace := &stages{do: map[stageOf]func(context.Context, *pgx.Conn){
		{stageLook, 1}: func(ctx context.Context, conn *pgx.Conn) { _ = conn.Close(context.WithoutCancel(ctx)) },
	}}
	s, other, cmd := db.newSinkOn(db.newPool(trace.on)), db.newSink(), newCommand()
	if err := errors.Join(s.Begin(t.Context(), cmd), execute(t.Context(), other, cmd, chunksOf(cmd, 0, "1"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), chunksOf(cmd, 0, "2")); !errors.Is(err, pgsink.ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", err)
	}
	if got := trace.count(stageLook); got != 2 {
		t.Errorf("got %d looks, want 2", got)
	}
}

// The command's row is locked, and the server calls it something else that may pass.
func TestWhatMayPassIsRetried(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{
		"a row that is locked": "55P03", "a statement that took too long": "57014", "a conflict": "40001", "a deadlock": "40P01",
		"no memory": "53200", "a pooler that lost its server": "08006",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			cmd := newCommand()
			db.submit(cmd)
			tx := db.lock(cmd.Name)
			p := newProxy(t, db.url)
			db.url = p.url
			failing := make(chan struct{})
			var once sync.Once
			rename := func(fromServer bool, data []byte) int {
				if i := bytes.Index(data, []byte("55P03")); fromServer && i >= 0 {
					copy(data[i:], code)
					once.Do(func() { close(failing) })
				}
				return len(data)
			}
			p.cut.Store(&rename)
			done := make(chan error, 1)
			s := db.newSink()
			go func() { done <- s.Begin(context.WithoutCancel(t.Context()), cmd) }()
			<-failing
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("got %v, want no error once it has passed", err)
			}
		})
	}
}

func TestATransientFailureIsRetriedOnlySoLong(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	pool := newUnreachablePool(t, func() { tries.Add(1) })
	s := pgsink.New(pool, pgsink.WithRetryFor(300*time.Millisecond))
	err := s.Begin(t.Context(), newCommand())
	if err == nil || !strings.Contains(err.Error(), "300ms") || !strings.Contains(err.Error(), "connect") {
		t.Errorf("got %v, want how long it was tried and why it failed", err)
	}
	if n := tries.Load(); n < 2 || n > 8 { // pauses of 5 ms, 10, 20, 40, 80 and 160 at least
		t.Errorf("got %d tries, want a few, with ever longer pauses", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	patient := pgsink.New(pool)
	err = patient.Begin(ctx, newCommand())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connect") {
		t.Errorf("got %v, want the deadline and why it failed", err)
	}
	for _, s := range []*pgsink.Sink{s, patient} {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// newUnreachablePool is for a port that nobody listens on. It calls trying before each attempt.
func newUnreachablePool(t *testing.T, trying func()) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig("postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { trying(); return nil }
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestAPoolThatIsExhaustedForAWhile(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	pool := db.newPool(func(c *pgxpool.Config) { c.MaxConns = 1 })
	s := db.newSinkOn(pool)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := newCommand()
	done := make(chan error, 1)
	go func() { done <- execute(context.WithoutCancel(t.Context()), s, cmd, chunksOf(cmd, 0, "1")) }()
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case err := <-done:
		t.Fatalf("got %v while there was no connection", err)
	case <-timer.C:
	}
	conn.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The pool's tracer is the application's: where it fails, the call does, and what comes after it is stored.
func TestATracerThatFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		does func()
		want string
	}{
		{"it panics", func() { panic("secret") }, "panic"},
		{"it ends its goroutine, as t.FailNow does", runtime.Goexit, "ended its goroutine"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			trace := &stages{do: map[stageOf]func(context.Context, *pgx.Conn){
				{stageWhole, 1}: func(context.Context, *pgx.Conn) { test.does() },
			}}
			s := db.newSinkOn(db.newPool(trace.on), pgsink.WithWriters(1))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			cmd, next := newCommand(), newCommand()
			if err := s.Begin(ctx, cmd); err != nil {
				t.Fatal(err)
			}
			err := s.Write(ctx, chunksOf(cmd, 0, "1"))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q, and no value", err, test.want)
			}
			if err := s.End(ctx, failed(cmd, err)); err != nil {
				t.Errorf("End: %v", err)
			}
			if err := execute(ctx, s, next, chunksOf(next, 0, "1")); err != nil {
				t.Errorf("the next command: %v", err)
			}
			got := []string{db.stored(cmd.ID).Status, db.stored(next.ID).Status}
			if diff := cmp.Diff([]string{"failed", "completed"}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A nil pointer that a hook returns as its error, as it is easily done by mistake, has no text: to ask for it panics, in a goroutine of ours.
func TestAHookWhoseErrorHasNoText(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	var fails atomic.Bool
	s := db.newSinkOn(db.newPool(func(c *pgxpool.Config) {
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) {
			if fails.Load() {
				return true, (*textless)(nil)
			}
			return true, nil
		}
	}))
	cmd := newCommand()
	if err := s.Begin(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	fails.Store(true)
	err := s.Write(t.Context(), chunksOf(cmd, 0, "1"))
	if err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("got %v, want the panic", err)
	}
	fails.Store(false)
	if err := s.End(t.Context(), failed(cmd, err)); err != nil {
		t.Errorf("End: %v", err)
	}
}

// Those that ask the pool in their caller's goroutine do not panic there.
func TestAHookWhoseErrorHasNoTextFailsWhoCalls(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	pool := db.newPool(func(c *pgxpool.Config) {
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return true, (*textless)(nil) }
	})
	s := db.newSinkOn(pool)
	for name, call := range map[string]func() error{
		"History": func() (err error) {
			for _, err = range s.History(t.Context(), uuid.New()) {
			}
			return err
		},
		"Recover": func() error { _, err := s.Recover(t.Context(), time.Minute); return err },
		"Migrate": func() error { return pgsink.Migrate(t.Context(), pool) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("got the panic %v, want it as an error", v)
				}
			}()
			if err := call(); err == nil || !strings.Contains(err.Error(), "panic") {
				t.Errorf("got %v, want the panic", err)
			}
		})
	}
}

type textless struct{ text string }

func (e *textless) Error() string { return e.text }

// What PostgreSQL says of a value that is out of range quotes it.
func TestAValueThatIsOutOfRangeIsNotShown(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	db.exec(`ALTER TABLE {commands} ADD COLUMN phone integer GENERATED ALWAYS AS ((command_params->>'phone')::integer) STORED`)
	cmd := newCommand()
	cmd.Params = map[string]any{"phone": "4915112345678"}
	err := db.newSink().Begin(t.Context(), cmd)
	if err == nil || !strings.Contains(err.Error(), "22003") || strings.Contains(err.Error(), "4915112345678") {
		t.Errorf("got %v, want 22003 without the value", err)
	}
}

// Nor is the key of another table than ours.
func TestAKeyThatIsMissingElsewhereIsNotShown(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	db.exec(`CREATE TABLE ` + db.table("known") + ` (name text PRIMARY KEY);
		ALTER TABLE {commands} ADD FOREIGN KEY (command_name) REFERENCES ` + db.table("known"))
	cmd := newCommand()
	cmd.Name = "secret"
	if err := db.newSink().Begin(t.Context(), cmd); err == nil || !strings.Contains(err.Error(), "23503") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want 23503 without the value", err)
	}
}
