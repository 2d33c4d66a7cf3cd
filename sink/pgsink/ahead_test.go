package pgsink_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// A stage of storing a large batch, as a tracer of the pool sees it begin.
const (
	stageWhole  = "a transaction in one round trip"
	stageAhead  = "the second half's rows"
	stageWaits  = "the second half waits"
	stageTurn   = "the second half's turn"
	stageCommit = "the second half's commit"
	stageLook   = "a look for what changed nothing"
)

// stages is a tracer that does something when a stage begins.
type stages struct {
	do map[stageOf]func(ctx context.Context, conn *pgx.Conn)

	mu   sync.Mutex
	seen map[string]int
}

type stageKey struct{}

type stageOf struct {
	stage string
	time  int // from 1
}

func (s *stages) begin(ctx context.Context, conn *pgx.Conn, stage string) {
	s.mu.Lock()
	if s.seen == nil {
		s.seen = make(map[string]int)
	}
	s.seen[stage]++
	do := s.do[stageOf{stage, s.seen[stage]}]
	s.mu.Unlock()
	if do != nil {
		do(ctx, conn)
	}
}

func (s *stages) count(stage string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[stage]
}

func (s *stages) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	queries := data.Batch.QueuedQueries
	begins, commits := strings.HasPrefix(queries[0].SQL, "begin"), queries[len(queries)-1].SQL == "commit"
	writes := false
	for _, q := range queries {
		writes = writes || strings.Contains(q.SQL, "WITH ORDINALITY") && strings.Contains(q.SQL, "NOWAIT")
	}
	switch {
	case begins && !commits:
		s.begin(ctx, conn, stageAhead)
		return context.WithValue(ctx, stageKey{}, stageWaits)
	case !begins:
		s.begin(ctx, conn, stageTurn)
	case writes:
		s.begin(ctx, conn, stageWhole)
	}
	return ctx
}

func (s *stages) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (s *stages) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchEndData) {
	if stage, ok := ctx.Value(stageKey{}).(string); ok {
		s.begin(ctx, conn, stage)
	}
}

func (s *stages) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	switch {
	case data.SQL == "commit":
		s.begin(ctx, conn, stageCommit)
	case strings.Contains(data.SQL, "SELECT g.command_id"):
		s.begin(ctx, conn, stageLook)
	}
	return ctx
}

func (s *stages) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *stages) on(config *pgxpool.Config) { config.ConnConfig.Tracer = s }

// large is a batch that is divided, and its payloads.
func large(cmd vehicle.Command, run string) (chunks []vehicle.Chunk, payloads []string) {
	payloads = make([]string, 1200)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`"%s %d"`, run, i)
	}
	return chunksOf(cmd, 0, payloads...), payloads
}

// world is where a large batch is stored.
type world struct {
	*database
	*proxy
	cmd   vehicle.Command
	leave func()        // ends the caller's ctx, and waits until it has returned
	again chan struct{} // closed when what was not stored at once is tried again
	waits chan struct{} // closed when the second half's rows are written
}

// untilAgain has another transaction do something that it takes back when this one has made the sink try again.
func (w *world) untilAgain(sql string) {
	w.tb.Helper()
	tx, err := w.pool.Begin(w.tb.Context())
	if err == nil {
		_, err = tx.Exec(w.tb.Context(), w.sql(sql))
	}
	if err != nil {
		w.tb.Fatal(err)
	}
	go func() {
		<-w.again
		if err := tx.Rollback(context.Background()); err != nil {
			w.tb.Error(err)
		}
	}()
}

// refuse has a trigger do something when a row changes.
func refuse(db *database, table, event, when, do string) {
	db.tb.Helper()
	name := db.table("refuse")
	db.exec(`CREATE FUNCTION ` + name + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + do + `; END $$;
		CREATE TRIGGER refuse BEFORE ` + event + ` ON ` + db.table(table) + ` FOR EACH ROW WHEN (` + when + `) EXECUTE FUNCTION ` + name + `()`)
}

// Whatever gets in the way of a batch that is stored in two halves at once: it is stored as if it had not been.
func TestALargeBatchIsStoredInTwoHalves(t *testing.T) {
	t.Parallel()
	const anyNumber = -1
	terminate := func(ctx context.Context, w *world, conn *pgx.Conn) {
		if err := onServer(ctx, w.database.url, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 10000)`, conn.PgConn().PID())); err != nil {
			w.tb.Error(err)
		}
	}
	touch := func(w *world) {
		w.exec(`CREATE FUNCTION ` + w.table("touch") + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			UPDATE {commands} SET submitted_at = submitted_at + interval '1 second' WHERE command_id = NEW.command_id; RETURN NULL; END $$;
			CREATE TRIGGER touch AFTER INSERT ON {responses} FOR EACH ROW EXECUTE FUNCTION ` + w.table("touch") + `()`)
	}
	secondFirst := func(_ context.Context, w *world, _ *pgx.Conn) { <-w.waits }
	otherRuns := func(ctx context.Context, w *world, _ *pgx.Conn) {
		if err := execute(ctx, w.newSink(), w.cmd, chunksOf(w.cmd, 0, "1", "2")); err != nil {
			w.tb.Error(err)
		}
	}
	othersAnswer := func(*world, []string) stored {
		return stored{Status: "completed", Completed: true, Chunks: []string{"1", "2"}, Audit: []string{"command_completed"}}
	}
	otherBegins := func(ctx context.Context, w *world, _ *pgx.Conn) {
		if err := w.newSink().Begin(ctx, w.cmd); err != nil {
			w.tb.Error(err)
		}
	}
	wide := `"` + strings.Repeat("x", 256<<10) + `"`
	inProgress := func(*world, []string) stored { return stored{Status: "in_progress"} }
	for _, test := range []struct {
		name    string
		opts    []pgsink.Option
		conns   int32    // 0 means 16
		bouncer bool     // with one connection to the server
		head    bool     // the first chunk comes alone
		untold  bool     // what end follows
		texts   []string // the chunks' payloads; nil means 1,200
		prepare func(w *world)
		stage   string // when to do this:
		do      func(ctx context.Context, w *world, conn *pgx.Conn)
		err     error
		code    string                                   // of PostgreSQL's error
		want    func(w *world, payloads []string) stored // nil means that all is well
		halves  int                                      // how many second halves were begun
		commits int                                      // and committed
	}{
		{name: "where nothing is in the way", halves: 1, commits: 1},
		{name: "where more is to follow", untold: true, halves: 1, commits: 1},
		{name: "where something came before", head: true, halves: 1, commits: 1},
		{name: "of two chunks that are large themselves", texts: []string{wide, wide}, halves: 1, commits: 1},
		{name: "but not where it is one chunk", texts: []string{wide[:len(wide)-1] + wide[1:]}},
		{name: "with a claim", opts: []pgsink.Option{pgsink.WithClaim()}, halves: 1, commits: 1},
		{name: "with four writers", opts: []pgsink.Option{pgsink.WithWriters(4)}, halves: 1, commits: 1},
		{name: "but not by a single writer", opts: []pgsink.Option{pgsink.WithWriters(1)}},
		{name: "one after the other where there is one connection", conns: 1, halves: 1, commits: 1},
		{
			name: "where a tracer panics", stage: stageAhead,
			do:     func(context.Context, *world, *pgx.Conn) { panic("no") },
			halves: 1,
		},
		{
			name: "where the server drops the second half's connection before its turn", stage: stageTurn, do: terminate,
			halves: 1,
		},
		{
			name: "where it drops that before the commit", stage: stageCommit, do: terminate,
			halves: 1, commits: 1,
		},
		{
			name: "where it drops that at the start", stage: stageAhead, do: terminate,
			halves: 1,
		},
		{
			name: "where it drops the first half's connection", stage: stageWhole, do: terminate,
			halves: 1,
		},
		{
			name: "where the answer to the second half's commit is lost", stage: stageCommit,
			do:     func(_ context.Context, w *world, _ *pgx.Conn) { w.loseAnswerToCommit(1) },
			halves: 1, commits: 1,
		},
		{
			name:    "where a trigger changes the command's row with each chunk",
			prepare: touch,
			halves:  1, commits: anyNumber, // they may take turns
		},
		{
			name:    "where that holds what the first half needs",
			prepare: touch, stage: stageWhole, do: secondFirst, halves: 1,
		},
		{name: "but not where there is no time for retries", opts: []pgsink.Option{pgsink.WithRetryFor(0)}, prepare: touch},
		{name: "behind one connection to the server", bouncer: true, stage: stageWhole, do: secondFirst, halves: 1},
		{
			name:    "where the command's row is locked",
			prepare: func(w *world) { w.untilAgain(`UPDATE {commands} SET submitted_at = submitted_at`) },
			halves:  1, commits: anyNumber, // its rows may have taken so long
		},
		{
			name: "where the caller leaves before the second half's turn, and fails the command", stage: stageTurn,
			do:  func(_ context.Context, w *world, _ *pgx.Conn) { w.leave() },
			err: context.Canceled, halves: 1,
			want: func(_ *world, payloads []string) stored {
				return stored{Status: "failed", ErrorMessage: "left", Completed: true, Chunks: payloads[:len(payloads)/2], Audit: []string{"command_failed"}}
			},
		},
		{
			name: "where the caller leaves before the second half's commit, and fails the command", stage: stageCommit,
			do:  func(_ context.Context, w *world, _ *pgx.Conn) { w.leave() },
			err: context.Canceled, halves: 1, commits: 1,
			want: func(_ *world, payloads []string) stored {
				return stored{Status: "failed", ErrorMessage: "left", Completed: true, Chunks: payloads, Audit: []string{"command_failed"}}
			},
		},
		{
			name: "where another process runs the command before the second half's turn", stage: stageTurn,
			do: otherRuns, err: pgsink.ErrReplaced, want: othersAnswer, halves: 1,
		},
		{
			name: "where another process does so, and the end is not known", untold: true, stage: stageTurn,
			do: otherRuns, err: pgsink.ErrReplaced, want: othersAnswer, halves: 1,
		},
		{
			name: "where another process has begun the command", stage: stageTurn,
			do: otherBegins, err: pgsink.ErrReplaced, want: inProgress, halves: 1,
		},
		{
			name: "where another process has begun the command, and the end is not known", untold: true, stage: stageTurn,
			do: otherBegins, err: pgsink.ErrReplaced, want: inProgress, halves: 1,
		},
		{
			name: "where another process cannot begin the command before the second half's commit", untold: true, stage: stageCommit,
			do: func(ctx context.Context, w *world, _ *pgx.Conn) {
				if err := w.newSink(pgsink.WithRetryFor(0)).Begin(ctx, w.cmd); err == nil || !strings.Contains(err.Error(), "55P03") {
					w.tb.Errorf("the other Begin: got %v, want the row locked", err)
				}
			},
			halves: 1, commits: 1,
		},
		{
			name: "where the database refuses the first half", head: true,
			prepare: func(w *world) {
				refuse(w.database, "responses", "INSERT", "NEW.sequence_number = 1", "RAISE EXCEPTION 'no'")
			},
			code: "P0001", halves: 1,
			want: func(_ *world, payloads []string) stored {
				return stored{Status: "failed", ErrorMessage: "left", Completed: true, Chunks: payloads[:1], Audit: []string{"command_failed"}}
			},
		},
		{
			name: "where it refuses the first half of all there is",
			prepare: func(w *world) {
				refuse(w.database, "responses", "INSERT", "NEW.sequence_number = 1", "RAISE EXCEPTION 'no'")
			},
			code: "P0001", halves: 1,
			want: func(*world, []string) stored {
				return stored{Status: "failed", ErrorMessage: "left", Completed: true, Audit: []string{"command_failed"}}
			},
		},
		{
			name: "where it refuses the second half",
			prepare: func(w *world) {
				refuse(w.database, "responses", "INSERT", "NEW.sequence_number = 1100", "RAISE EXCEPTION 'no'")
			},
			code: "P0001", halves: 1,
			want: func(_ *world, payloads []string) stored {
				return stored{Status: "failed", ErrorMessage: "left", Completed: true, Chunks: payloads[:600], Audit: []string{"command_failed"}}
			},
		},
		{
			name:    "where it keeps the command from completing",
			prepare: func(w *world) { refuse(w.database, "commands", "UPDATE", "NEW.status = 'completed'", "RETURN NULL") },
			err:     pgsink.ErrReplaced, halves: 1,
			want: func(_ *world, payloads []string) stored {
				return stored{Status: "failed", ErrorMessage: "left", Completed: true, Chunks: payloads, Audit: []string{"command_failed"}}
			},
		},
		{
			name: "where somebody is inserting a chunk of the second half",
			prepare: func(w *world) {
				w.untilAgain(`INSERT INTO {responses} (response_id, command_id, response_payload, sequence_number)
					VALUES ('` + vehicle.Chunk{CommandID: w.cmd.ID, Seq: 1100}.ID().String() + `', '` + w.cmd.ID.String() + `', '1', 1100)`)
			},
			halves: 1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &world{database: newDatabase(t, databaseURL(t)), proxy: newProxy(t, databaseURL(t)), cmd: newCommand()}
			w.again, w.waits = make(chan struct{}), make(chan struct{})
			trace := &stages{do: map[stageOf]func(context.Context, *pgx.Conn){
				{stageWhole, 2}: func(context.Context, *pgx.Conn) { close(w.again) },
				{stageWaits, 1}: func(context.Context, *pgx.Conn) { close(w.waits) },
			}}
			if test.do != nil {
				trace.do[stageOf{test.stage, 1}] = func(ctx context.Context, conn *pgx.Conn) { test.do(context.WithoutCancel(ctx), w, conn) }
			}
			way := w.proxy.url
			if test.bouncer {
				way = bouncerURL(t, 1)
			}
			pool := w.newPool(func(config *pgxpool.Config) {
				trace.on(config)
				own, err := pgx.ParseConfig(way)
				if err != nil {
					t.Fatal(err)
				}
				config.ConnConfig.Host, config.ConnConfig.Port = own.Host, own.Port
				config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // for PgBouncer
				if test.conns > 0 {
					config.MaxConns = test.conns
				}
			})
			s := w.newSinkOn(pool, test.opts...)
			if !test.bouncer {
				pgsink.WaitAhead(s)
			}
			if err := s.Begin(t.Context(), w.cmd); err != nil {
				t.Fatal(err)
			}
			if test.prepare != nil {
				test.prepare(w)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // as a client gives sinks
			defer cancel()
			chunks, payloads := large(w.cmd, "run")
			if test.texts != nil {
				chunks, payloads = chunksOf(w.cmd, 0, test.texts...), test.texts
			}
			res := completed(w.cmd, len(chunks))
			if !test.untold {
				ctx, _ = tell(ctx, s, &res)
			}
			if test.head {
				if err := s.Write(ctx, chunks[:1]); err != nil {
					t.Fatal(err)
				}
				chunks = chunks[1:]
			}
			returned := make(chan struct{})
			w.leave = func() { cancel(); <-returned }
			err := s.Write(ctx, chunks)
			close(returned)
			var pg *pgconn.PgError
			if errors.As(err, &pg); !errors.Is(err, test.err) && test.code == "" || test.code != "" && (pg == nil || pg.Code != test.code) {
				t.Errorf("Write: got %v, want %v%s", err, test.err, test.code)
			}
			if err != nil {
				res = failed(w.cmd, errors.New("left"))
			}
			if err := s.End(t.Context(), res); err != nil && !errors.Is(err, test.err) {
				t.Errorf("End: got %v", err)
			}
			want := stored{Status: "completed", Completed: true, Chunks: payloads, Audit: []string{"command_completed"}}
			if test.want != nil {
				want = test.want(w, payloads)
			}
			if diff := cmp.Diff(want, w.stored(w.cmd.ID), emptyIsNil); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := trace.count(stageAhead); got != test.halves {
				t.Errorf("got %d second halves, want %d", got, test.halves)
			}
			if got := trace.count(stageCommit); got != test.commits && test.commits != anyNumber {
				t.Errorf("got %d second halves committed, want %d", got, test.commits)
			}
		})
	}
}

// Backends are killed meanwhile, and readers look at any time: they see the beginning of the answer, without a gap.
func TestReadersSeeTheBeginningOfALargeBatchOrAllOfIt(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, privateServer(t).URL())
	trace := &stages{}
	cmds := make([]vehicle.Command, 4)
	for i := range cmds {
		cmds[i] = newCommand()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writing, others sync.WaitGroup
	for _, cmd := range cmds {
		writing.Go(func() {
			chunks, _ := large(cmd, "run")
			for range 5 { // a sink each, since a half that was rolled back leaves the next ones whole
				s := db.newSinkOn(db.newPool(trace.on))
				if err := execute(ctx, s, cmd, chunks[:1], chunks[1:]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	others.Go(func() { killBackends(ctx, db.url) })
	others.Go(func() {
		conn := db.newPool(nil)
		for ctx.Err() == nil {
			var gaps int
			err := conn.QueryRow(ctx, db.sql(`SELECT count(*) FROM (
				SELECT count(*) AS n, max(sequence_number) AS last FROM {responses} GROUP BY command_id) c WHERE n <> last + 1`)).Scan(&gaps)
			if err == nil && gaps > 0 { // the connection may be killed
				t.Errorf("%d answers have gaps", gaps)
				return
			}
		}
	})
	writing.Wait()
	cancel()
	others.Wait()
	db.pool.Reset() // its connections were killed too
	for _, cmd := range cmds {
		_, payloads := large(cmd, "run")
		if diff := cmp.Diff(payloads, db.stored(cmd.ID).Chunks); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if trace.count(stageCommit) == 0 {
		t.Error("no second half was committed: the test shows nothing")
	}
}

// A half that was in somebody's way would be so again.
func TestBatchesStayWholeForAWhileAfterAHalfWasRolledBack(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	trace := &stages{do: map[stageOf]func(context.Context, *pgx.Conn){
		{stageTurn, 1}: func(ctx context.Context, conn *pgx.Conn) { _ = conn.Close(context.WithoutCancel(ctx)) },
	}}
	s := db.newSinkOn(db.newPool(trace.on))
	for range 3 {
		cmd := newCommand()
		chunks, payloads := large(cmd, "run")
		if err := execute(t.Context(), s, cmd, chunks); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(payloads, db.stored(cmd.ID).Chunks); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if got := trace.count(stageAhead); got != 1 {
		t.Errorf("got %d second halves of three batches, want 1", got)
	}
}

// A writer that stores a half for another one has commands of its own.
func TestLargeBatchesAmongSmallCommands(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	trace := &stages{}
	s := pgsink.WaitAhead(db.newSinkOn(db.newPool(trace.on)))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			for range 10 {
				cmd := newCommand()
				chunks, payloads := chunksOf(cmd, 0, "1", "2", "3"), []string{"1", "2", "3"}
				if i < 3 {
					chunks, payloads = large(cmd, "run")
				}
				if err := executeTold(ctx, s, cmd, chunks); err != nil {
					t.Error(err)
				}
				want := stored{Status: "completed", Completed: true, Chunks: payloads, Audit: []string{"command_completed"}}
				if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
	all.Wait()
	if trace.count(stageCommit) == 0 {
		t.Error("no second half was committed: the test shows nothing")
	}
}

// A large batch delays no command of the other writer, and says why it was not stored, as one does that is not divided.
func TestALargeBatchThatWaits(t *testing.T) {
	t.Parallel()
	for _, n := range []int{600, 1200} { // 600 are not divided
		t.Run(fmt.Sprintf("%d chunks, for the server", n), func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			db.exec(`CREATE TABLE ` + db.table("go") + ` ()`)
			refuse(db, "responses", "INSERT", `NEW.response_payload = '"run 0"'`,
				`LOOP PERFORM pg_sleep(0.001); EXIT WHEN EXISTS (SELECT 1 FROM `+db.table("go")+`); END LOOP; RETURN NEW`)
			s := db.newSink()
			cmd, neighbour := newCommand(), newCommand()
			cmd.ID[15], neighbour.ID[15] = 0, 1
			for _, c := range []vehicle.Command{cmd, neighbour} {
				if err := s.Begin(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // as a client gives sinks
			defer cancel()
			chunks, _ := large(cmd, "run")
			done := make(chan error, 1)
			go func() { done <- s.Write(ctx, chunks[:n]) }()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for !query[bool](db, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND strpos(query, $1) > 0)`, db.table("responses")) {
				<-tick.C
			}
			if err := s.Write(ctx, chunksOf(neighbour, 0, "1")); err != nil {
				t.Errorf("the neighbour: %v", err)
			}
			db.exec(`INSERT INTO ` + db.table("go") + ` DEFAULT VALUES`)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		t.Run(fmt.Sprintf("%d chunks, until its caller leaves", n), func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			s := db.newSink()
			cmd := newCommand()
			if err := s.Begin(t.Context(), cmd); err != nil {
				t.Fatal(err)
			}
			tx := db.lock(cmd.Name)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			chunks, _ := large(cmd, "run")
			if err := s.Write(ctx, chunks[:n]); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "55P03") {
				t.Errorf("got %v, want the deadline and that the row was locked", err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.End(t.Context(), failed(cmd, errors.New("left"))); err != nil {
				t.Error(err)
			}
		})
	}
}

// lock has another transaction lock the rows of commands of that name.
func (db *database) lock(name string) pgx.Tx {
	db.tb.Helper()
	tx, err := db.pool.Begin(db.tb.Context())
	if err == nil {
		_, err = tx.Exec(db.tb.Context(), db.sql(`UPDATE {commands} SET submitted_at = submitted_at WHERE command_name = $1`), name)
	}
	if err != nil {
		db.tb.Fatal(err)
	}
	return tx
}

// The server does not get to know that the network is gone, and must not keep the second half's locks for long.
func TestASecondHalfWhoseNetworkVanishes(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{stageTurn, stageCommit} {
		t.Run("before "+stage, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			trace := &stages{do: map[stageOf]func(context.Context, *pgx.Conn){
				{stage, 1}: func(_ context.Context, conn *pgx.Conn) { conn.PgConn().Conn().(*vanishing).gone.Store(true) },
			}}
			s := db.newSinkOn(db.newPool(func(config *pgxpool.Config) {
				trace.on(config)
				config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil {
						t.Cleanup(func() { _ = conn.Close() })
					}
					return &vanishing{Conn: conn}, err
				}
			}))
			cmd := newCommand()
			chunks, payloads := large(cmd, "run")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := execute(ctx, s, cmd, chunks); err != nil {
				t.Error(err)
			}
			want := stored{Status: "completed", Completed: true, Chunks: payloads, Audit: []string{"command_completed"}}
			if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// vanishing is a connection that may be gone without the other end being told.
type vanishing struct {
	net.Conn
	gone atomic.Bool
}

func (c *vanishing) Write(p []byte) (int, error) {
	if c.gone.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *vanishing) Close() error {
	if c.gone.Load() {
		return nil
	}
	return c.Conn.Close()
}
