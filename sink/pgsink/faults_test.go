package pgsink_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
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

// A server whose encoding lacks a character refuses its escape, which the check does not foresee.
func TestAPayloadThatTheServerRefusesUnexpectedlyIsWrapped(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			db := newEncodedDatabase(t, encoding, "UTF8")
			s := db.newSinkOn(db.newPool(func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["log_parameter_max_length_on_error"] = "-1" }))
			for _, payloads := range [][]string{
				{`"\u00e9"`, `"\u20ac"`},
				{"[\"PL/I\",\n\"PL/I \\u20ac\"]"}, {`["SQL function ", "\u20ac"]`}, // the server quotes it where it names the functions it was in
			} {
				cmd := newCommand()
				if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, payloads...)); err != nil {
					t.Errorf("%s: %v", payloads, err)
				}
				var want []string
				for _, payload := range payloads {
					want = append(want, `{"$json": `+strconv.Quote(payload)+`}`)
				}
				if diff := cmp.Diff(want, db.stored(cmd.ID).Chunks); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// Wrapped, a payload would pass by a trigger that has refused it, whatever code that chose.
func TestAPayloadThatATriggerRefusesIsNotWrapped(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"0A000", "22P02", "54000"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			fn := pgx.Identifier{db.schema, "refuse"}.Sanitize()
			db.exec(`CREATE FUNCTION ` + fn + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.response_payload ? 'secret' THEN RAISE 'no' USING ERRCODE = '` + code + `'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER refuse BEFORE INSERT ON {responses} FOR EACH ROW EXECUTE FUNCTION ` + fn + `()`)
			cmd := newCommand()
			err := execute(t.Context(), db.newSink(), cmd, chunksOf(cmd, 0, `{"secret": 1}`))
			if err == nil || !strings.Contains(err.Error(), code) {
				t.Errorf("got %v, want %s", err, code)
			}
			if got := db.stored(cmd.ID).Chunks; len(got) > 0 {
				t.Errorf("got %q stored, want nothing", got)
			}
		})
	}
}

// newEncodedDatabase is a database of its own, whose connections have this client_encoding, or say nothing of it.
func newEncodedDatabase(t *testing.T, encoding, client string) *database {
	t.Helper()
	admin := openDatabase(t, databaseURL(t))
	name := pgx.Identifier{"encoded " + uuid.NewString()}.Sanitize()
	admin.exec(`CREATE DATABASE ` + name + ` TEMPLATE template0 ENCODING ` + encoding + ` LC_COLLATE 'C' LC_CTYPE 'C'`)
	t.Cleanup(func() { admin.exec(`DROP DATABASE ` + name + ` WITH (FORCE)`) })
	u, err := url.Parse(admin.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + strings.Trim(name, `"`)
	if client != "" {
		q := u.Query()
		q.Set("client_encoding", client)
		u.RawQuery = q.Encode()
	}
	return newDatabase(t, u.String())
}

// A server takes what it is sent to be in its own encoding, unless the client names another. It would store é as two characters, and
// History would give back a byte that is not UTF-8.
func TestAConnectionWithAnotherEncodingIsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, server, client, want string }{
		{"the server's own", "LATIN1", "", "LATIN1"},
		{"one that was asked for", "UTF8", "WIN1252", "WIN1252"},
		{"of bytes as they are", "SQL_ASCII", "", ""},
		{"of bytes as they are, which the server takes for UTF-8", "UTF8", "SQL_ASCII", ""},
		{"of bytes as they are, which the server takes for another", "LATIN1", "SQL_ASCII", "SQL_ASCII"},
		{"UTF-8 to a server of another", "LATIN1", "UTF8", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newEncodedDatabase(t, test.server, test.client)
			s := db.newSink()
			cmd := newCommand()
			err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, `"é"`))
			var got []string
			var read error
			for c, err := range s.History(t.Context(), cmd.ID) {
				read = err
				got = append(got, string(c.Payload))
			}
			if test.want == "" {
				if err != nil || read != nil || !cmp.Equal(got, []string{`"é"`}) {
					t.Errorf("got %v, and History %q, %v, want \"é\" stored", err, got, read)
				}
				return
			}
			for call, err := range map[string]error{"Begin": err, "History": read} {
				if err == nil || !strings.Contains(err.Error(), "client_encoding is "+test.want) {
					t.Errorf("%s: got %v, want an error that says that client_encoding is %s", call, err, test.want)
				}
			}
		})
	}
}

// PgBouncer says client_encoding as it was asked for, and PostgreSQL has more than one name for UTF-8.
func TestUTF8IsKnownByEachOfItsNames(t *testing.T) {
	t.Parallel()
	bouncer := bouncerURL(t, 2)
	for _, name := range []string{"UTF8", "utf-8", "Unicode"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			db.url = bouncer
			pool := db.newPool(func(c *pgxpool.Config) {
				c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
				c.ConnConfig.RuntimeParams["client_encoding"] = name
			})
			cmd := newCommand()
			if err := execute(t.Context(), db.newSinkOn(pool), cmd, chunksOf(cmd, 0, `"é"`)); err != nil {
				t.Errorf("got %v, want it stored", err)
			}
		})
	}
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

// A trigger may find that its command's own table is missing, or that another server that it asks for the command is down.
func TestWhateverATriggerRaisesConcernsItsOwnCommandAlone(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{
		"a missing table":         "42P01",
		"a missing schema":        "3F000",
		"no authorization":        "28000",
		"a read-only server":      "25006",
		"a full disk":             "53100",
		"too many connections":    "53300",
		"a lost connection":       "08006",
		"a server that stops":     "57P01",
		"a conflict":              "40001",
		"a row that is locked":    "55P03",
		"a reason of its own":     "P0001",
		"a value that is no JSON": "22P02",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			fn := pgx.Identifier{db.schema, "refuse"}.Sanitize()
			db.exec(`CREATE FUNCTION ` + fn + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.command_id = (SELECT command_id FROM {commands} WHERE command_name = 'bad') THEN RAISE 'no' USING ERRCODE = '` + code + `'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER refuse BEFORE INSERT ON {responses} FOR EACH ROW EXECUTE FUNCTION ` + fn + `()`)
			s := db.newSink(pgsink.WithWriters(1), pgsink.WithRetryFor(time.Second))
			var wg sync.WaitGroup
			cmds, errs := make([]vehicle.Command, 21), make([]error, 21)
			release := db.holdUp(t) // so that they are in one transaction
			for i := range cmds {
				cmds[i] = db.admitted()
				if i == 7 {
					cmds[i].Name = "bad"
				}
				wg.Go(func() { errs[i] = execute(t.Context(), s, cmds[i], chunksOf(cmds[i], 0, "1")) })
			}
			release()
			wg.Wait()
			want := stored{Status: "completed", Completed: true, Chunks: []string{"1"}, Audit: []string{"command_completed"}}
			for i, cmd := range cmds {
				if i == 7 {
					if errs[i] == nil || !strings.Contains(errs[i].Error(), code) {
						t.Errorf("the command: got %v, want %s", errs[i], code)
					}
					continue
				}
				if errs[i] != nil {
					t.Errorf("neighbour %d: %v", i, errs[i])
				}
				if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
					t.Errorf("neighbour %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// A trigger may take its time to fail, for each command. What nobody waits for any more is not divided to the last.
func TestCommandsThatHaveBeenLeftAreNotTriedOneByOne(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	db.exec(strings.ReplaceAll(`CREATE SEQUENCE {schema}.tries;
		CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nextval('{schema}.tries'::regclass); PERFORM pg_sleep(0.2); RAISE 'no' USING ERRCODE = '08006'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON {responses} FOR EACH ROW EXECUTE FUNCTION {schema}.refuse()`, "{schema}", pgx.Identifier{db.schema}.Sanitize()))
	s := db.newSink(pgsink.WithWriters(1))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	cmds := make([]vehicle.Command, 32)
	for i := range cmds {
		cmds[i] = db.admitted()
		if err := s.Begin(t.Context(), cmds[i]); err != nil {
			t.Fatal(err)
		}
	}
	tries := db.sql(`SELECT last_value FROM ` + db.table("tries") + ` WHERE is_called`)
	await := func(want int64) {
		for n := int64(0); n < want; {
			if err := db.pool.QueryRow(t.Context(), tries).Scan(&n); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				t.Fatal(err)
			}
		}
	}
	var wg sync.WaitGroup
	for i, cmd := range cmds {
		wg.Go(func() {
			if err := s.Write(ctx, chunksOf(cmd, 0, "1")); !errors.Is(err, context.Canceled) {
				t.Errorf("Write: got %v, want it cancelled", err)
			}
		})
		if i == 0 {
			await(1) // the others gather while it fails
		}
	}
	await(3) // it, the others, and half of those
	leave()
	wg.Wait()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := query[int64](db, tries); got > 12 {
		t.Errorf("got %d tries, want few after the callers have left", got)
	}
}

// A constraint may ask a function, which need not be one of a procedural language.
func TestAFunctionInSQLThatFailsConcernsItsOwnCommandAlone(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]string{
		"where it is read": `SELECT NOT EXISTS (SELECT FROM {schema}.banned WHERE id = $1)`,
		"where it is run":  `SELECT pg_table_size((''{schema}.ban'' || left($1::text, 0) || ''ned'')::regclass) = 0`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAFunctionInSQLThatFails(t, asks)
		})
	}
}

func testAFunctionInSQLThatFails(t *testing.T, asks string) {
	t.Helper()
	db := newAppDatabase(t, databaseURL(t))
	db.exec(strings.ReplaceAll(`CREATE TABLE {schema}.banned (id uuid);
		CREATE FUNCTION {schema}.allowed(uuid) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS '`+asks+`';
		ALTER TABLE {commands} ADD CONSTRAINT allowed CHECK (command_name <> 'bad' OR {schema}.allowed(command_id));
		DROP TABLE {schema}.banned`, "{schema}", pgx.Identifier{db.schema}.Sanitize()))
	s := db.newSink(pgsink.WithWriters(1))
	var wg sync.WaitGroup
	errs := make([]error, 21)
	release := db.holdUp(t) // so that they are in one transaction
	for i := range errs {
		cmd := db.admitted()
		if i == 7 {
			cmd.Name = "bad"
		}
		wg.Go(func() { errs[i] = execute(t.Context(), s, cmd, chunksOf(cmd, 0, "1")) })
	}
	release()
	wg.Wait()
	for i, err := range errs {
		if want := i == 7; (err != nil) != want {
			t.Errorf("command %d: got %v, want an error: %t", i, err, want)
		}
	}
	if err := errs[7]; err == nil || !strings.Contains(err.Error(), "42P01 in a function of the database") {
		t.Errorf("got %v, want an error that says that a function raised 42P01", err)
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

func TestATransientFailureIsRetriedOnlySoLong(t *testing.T) {
	t.Parallel()
	pool := newUnreachablePool(t, func() {})
	s := pgsink.New(pool, pgsink.WithRetryFor(300*time.Millisecond))
	err := s.Begin(t.Context(), newCommand())
	if err == nil || !strings.Contains(err.Error(), "300ms") || !strings.Contains(err.Error(), "connect") {
		t.Errorf("got %v, want how long it was tried and why it failed", err)
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

// The pool's tracer is the application's: where it panics, calls fail, and the process lives.
func TestAPanicInATracerIsAnError(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	s := db.newSinkOn(db.newPool(func(c *pgxpool.Config) { c.ConnConfig.Tracer = panicking{} }))
	err := s.Begin(t.Context(), newCommand())
	if err == nil || !strings.Contains(err.Error(), "panic") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want the panic, without its value", err)
	}
}

// panicking is a tracer of batches.
type panicking struct{ pgx.QueryTracer }

func (panicking) TraceBatchStart(context.Context, *pgx.Conn, pgx.TraceBatchStartData) context.Context {
	panic("secret")
}
func (panicking) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (panicking) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

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

// A trigger may quote rows under codes whose messages are otherwise free of them.
func TestWhatATriggerSaysIsNotShown(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	fn := pgx.Identifier{db.schema, "refuse"}.Sanitize()
	db.exec(`CREATE FUNCTION ` + fn + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		RAISE '%', NEW.response_payload USING ERRCODE = NEW.response_payload->>'code',
			DETAIL = 'secret of (command_id)=(' || NEW.command_id || ')'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON {responses} FOR EACH ROW EXECUTE FUNCTION ` + fn + `()`)
	s := db.newSink()
	for name, code := range map[string]string{
		"a constraint's":        "23514",
		"a foreign key's":       "23503",
		"a missing privilege's": "42501",
		"a wrong state's":       "55000",
		"its own":               "P0001",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := db.admitted()
			err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, `{"code": "`+code+`", "vin": "secret"}`))
			if err == nil || !strings.HasSuffix(err.Error(), "PostgreSQL error "+code+" in a function of the database") {
				t.Errorf("got %v, want the code alone", err)
			}
		})
	}
}
