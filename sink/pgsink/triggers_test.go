package pgsink_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

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
	if got := query[int64](db, tries); got > 5 { // halves that are tried all the same make six at least
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
