package pgsink_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// Another transaction holds one command's row: its neighbours do not wait, and its caller may leave.
func TestALockedRowDelaysItsOwnCommandAlone(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	s := db.newSink(pgsink.WithWriters(1))
	held := newCommand()
	db.submit(held)
	var left []vehicle.Command // one for each try: the next Begin of a command waits for the one that was left
	for wait := 200 * time.Millisecond; wait < 20*time.Second; wait *= 2 {
		left = append(left, newCommand())
		db.submit(left[len(left)-1])
	}
	tx, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // the pool waits for it
	if _, err := tx.Exec(t.Context(), db.sql(`UPDATE {commands} SET submitted_at = submitted_at`)); err != nil {
		t.Fatal(err)
	}
	for i, wait := 0, 200*time.Millisecond; ; i, wait = i+1, 2*wait { // until there has been time to try
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		err := s.Begin(ctx, left[i])
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "55P03") {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) || i == len(left)-1 {
			t.Fatalf("after %v: got %v, want the deadline and that the row was locked", wait, err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.Begin(t.Context(), held) }()
	var wg sync.WaitGroup
	for range 20 {
		cmd := db.admitted()
		wg.Go(func() {
			if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, "1", "2")); err != nil {
				t.Errorf("a neighbour: %v", err)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-done:
		t.Errorf("Begin: got %v while the row was locked", err)
	default:
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The application inserts commands, runs them, and has not committed yet.
func TestRowsThatAreBeingInsertedDelayTheirOwnCommandsAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		rows int
	}{
		{"a row", 1},
		{"so many that one of them can always be tried again", 24},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			s := db.newSink(pgsink.WithWriters(1))
			tx, err := db.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // the pool waits for it
			held, done := make([]vehicle.Command, test.rows), make(chan error, test.rows)
			for i := range held {
				held[i] = db.admitted()
				_, err = tx.Exec(t.Context(), db.sql(`INSERT INTO {commands} (command_id, user_id, vehicle_id, command_name) VALUES ($1::uuid, $2::uuid, $3::uuid, 'from the application')`),
					held[i].ID.String(), held[i].UserID.String(), held[i].VehicleID.String())
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, cmd := range held {
				go func() { done <- execute(context.WithoutCancel(t.Context()), s, cmd, chunksOf(cmd, 0, "1")) }()
			}
			var wg sync.WaitGroup
			for range 20 {
				neighbour := db.admitted()
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					if err := execute(ctx, s, neighbour, chunksOf(neighbour, 0, "1", "2")); err != nil {
						t.Errorf("a neighbour: %v", err)
					}
				})
			}
			wg.Wait()
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range held {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			want := stored{Status: "completed", Completed: true, Chunks: []string{"1"}, Audit: []string{"command_completed"}}
			for _, cmd := range held {
				if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if got := query[string](db, `SELECT command_name FROM {commands} WHERE command_id = $1::uuid`, cmd.ID.String()); got != "from the application" {
					t.Errorf("command_name: got %q, want the application's row", got)
				}
			}
		})
	}
}

// The application holds a vehicle's row, which foreign keys of commands and of the audit trail refer to.
func TestALockedVehicleDelaysItsOwnCommandsAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		finish func(ctx context.Context, s *pgsink.Sink, cmd vehicle.Command) error
	}{
		{"an end", func(ctx context.Context, s *pgsink.Sink, cmd vehicle.Command) error {
			return s.End(ctx, completed(cmd, 0))
		}},
		{"a whole answer", func(ctx context.Context, s *pgsink.Sink, cmd vehicle.Command) error {
			res := completed(cmd, 1)
			ctx, _ = tell(ctx, s, &res)
			return s.Write(ctx, chunksOf(cmd, 0, "1"))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newAppDatabase(t, databaseURL(t))
			s := db.newSink(pgsink.WithWriters(1))
			held, neighbours := db.admitted(), make([]vehicle.Command, 5)
			for i := range neighbours {
				neighbours[i] = db.admitted()
			}
			for _, cmd := range append(neighbours, held) {
				if err := s.Begin(t.Context(), cmd); err != nil {
					t.Fatal(err)
				}
			}
			tx, err := db.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }() // the pool waits for it
			if _, err := tx.Exec(t.Context(), db.sql(`SELECT 1 FROM {vehicles} WHERE vehicle_id = $1::uuid FOR UPDATE`), held.VehicleID.String()); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- test.finish(t.Context(), s, held) }()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for !query[bool](db, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid)))`, tx.Conn().PgConn().PID()) {
				<-tick.C
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // as a client gives End
			defer cancel()
			for _, cmd := range neighbours {
				if err := test.finish(ctx, s, cmd); err != nil {
					t.Fatalf("a neighbour: %v", err)
				}
			}
			select {
			case err := <-done:
				t.Errorf("got %v while the vehicle was locked", err)
			default:
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Several processes run the same commands at once, in groups that overlap: none deadlocks, and no answer is a mix.
func TestOverlappingGroupsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	deadlocks := query[int64](db, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`)
	cmds := make([]vehicle.Command, 30)
	for i := range cmds {
		cmds[i] = newCommand()
	}
	var wg sync.WaitGroup
	for r := range 4 {
		s := db.newSink()
		for _, cmd := range cmds {
			wg.Go(func() {
				for range 3 {
					own := fmt.Sprintf(`"%d %s"`, r, uuid.New())
					chunks := chunksOf(cmd, 0, own, own, own, own)
					err := execute(t.Context(), s, cmd, chunks[:1], chunks[1:3], chunks[3:])
					if errors.Is(err, pgsink.ErrReplaced) {
						err = nil // as it should
						_ = s.End(t.Context(), failed(cmd, pgsink.ErrReplaced))
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, cmd := range cmds {
		chunks := db.stored(cmd.ID).Chunks
		for _, c := range chunks {
			if c != chunks[0] {
				t.Errorf("got a mix: %q", chunks)
			}
		}
	}
	if _, err := db.pool.Exec(t.Context(), `SELECT pg_stat_clear_snapshot()`); err != nil {
		t.Fatal(err)
	}
	if got := query[int64](db, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); got != deadlocks {
		t.Errorf("got %d deadlocks", got-deadlocks)
	}
}

// A trigger takes its time with one command. The others, whichever they are, go into the other writer's transactions.
func TestALongTransactionHoldsUpNoCommandThatIsNotInIt(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	schema := pgx.Identifier{db.schema}.Sanitize()
	db.exec(strings.ReplaceAll(`CREATE TABLE {schema}.over (); CREATE SEQUENCE {schema}.waits;
		CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nextval('{schema}.waits');
			WHILE NOT EXISTS (SELECT FROM {schema}.over) LOOP PERFORM pg_sleep(0.001); END LOOP;
			RETURN NEW; END $$;
		CREATE TRIGGER wait BEFORE INSERT ON {responses} FOR EACH ROW WHEN (NEW.response_payload = '"slow"') EXECUTE FUNCTION {schema}.wait()`,
		"{schema}", schema))
	s := db.newSink()
	slow := db.admitted()
	if err := s.Begin(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Write(t.Context(), chunksOf(slow, 0, `"slow"`)) }()
	for !query[bool](db, `SELECT is_called FROM `+schema+`.waits`) {
		time.Sleep(time.Millisecond) // the server cannot tell
	}
	for range 8 {
		cmd := db.admitted()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a transaction has 15
		if err := execute(ctx, s, cmd, chunksOf(cmd, 0, "1", "2")); err != nil {
			t.Errorf("a command beside the long transaction: %v", err)
		}
		cancel()
		if t.Failed() {
			break
		}
	}
	select {
	case err := <-done:
		t.Errorf("the long transaction: got %v before its trigger returned", err)
	default:
	}
	db.exec(`INSERT INTO ` + schema + `.over DEFAULT VALUES`)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
