package pgsink_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// counter is a tracer that counts round trips and statements, except those that a pool sends by itself.
type counter struct {
	mu          sync.Mutex
	batches     int
	statements  int
	longest     int // statements in one batch
	transaction int
}

func (c *counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches++
	c.longest = max(c.longest, data.Batch.Len())
	return ctx
}

func (c *counter) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statements++
	if strings.HasPrefix(data.SQL, "begin") {
		c.transaction++
	}
}

func (c *counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statements++
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// reset returns what was counted.
func (c *counter) reset() (batches, statements, longest int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	batches, statements, longest = c.batches, c.statements, c.longest
	c.batches, c.statements, c.longest = 0, 0, 0
	return batches, statements, longest
}

func withTracer(c *counter) func(*pgxpool.Config) {
	return func(config *pgxpool.Config) { config.ConnConfig.Tracer = c }
}

func TestTheNumberOfStatementsDoesNotDependOnTheNumberOfChunks(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	var count counter
	s := db.newSinkOn(db.newPool(withTracer(&count)), pgsink.WithWriters(1))
	for _, chunks := range []int{1, 3, 1000, 4000} {
		cmd := newCommand()
		payloads := make([]string, chunks)
		for i := range payloads {
			payloads[i] = `{"dtc": "P0420"}`
		}
		all := chunksOf(cmd, 0, payloads...)
		for _, step := range []struct {
			name       string
			call       func() error
			statements int
		}{
			{"Begin", func() error { return s.Begin(t.Context(), cmd) }, 4}, // begin, lock_timeout, insert, commit
			{"Write", func() error { return s.Write(t.Context(), all) }, 4}, // begin, lock, insert, commit
			{"End", func() error { return s.End(t.Context(), completed(cmd, chunks)) }, 4},
		} {
			if err := step.call(); err != nil {
				t.Fatal(err)
			}
			if batches, statements, _ := count.reset(); batches != 1 || statements != step.statements {
				t.Errorf("%s with %d chunks: got %d statements in %d round trips, want %d in 1", step.name, chunks, statements, batches, step.statements)
			}
		}
	}
}

func TestCommandsShareTransactions(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	var count counter
	s := db.newSinkOn(db.newPool(withTracer(&count)))
	const commands = 400
	var wg sync.WaitGroup
	for range commands {
		wg.Go(func() {
			cmd := newCommand()
			chunks := chunksOf(cmd, 0, "1", "2", "3")
			if err := execute(t.Context(), s, cmd, chunks[:1], chunks[1:2], chunks[2:]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	batches, statements, longest := count.reset()
	if calls := commands * 5; batches > calls/4 {
		t.Errorf("got %d transactions for %d calls: they did not share", batches, calls)
	}
	if longest > 8 {
		t.Errorf("got a transaction of %d statements, want at most 8 (and %d in all)", longest, statements)
	}
}

func TestHistoryOfACommandThatIsNotKnownIsEmpty(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	for c, err := range db.newSink().History(t.Context(), uuid.New()) {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	pool := db.newPool(func(c *pgxpool.Config) { c.MaxConns = 1 })
	s := db.newSinkOn(pool)
	cmd := newCommand()
	chunks := chunksOf(cmd, 1, `{"a": 1}`, `"\u0000"`, `{"$json": "x"}`, `null`)
	chunks[2].ReceivedAt = chunks[2].ReceivedAt.Add(-time.Second) // a clock that was set back
	if err := execute(t.Context(), s, cmd, chunks[:2], chunks[2:]); err != nil {
		t.Fatal(err)
	}
	t.Run("gives back what was written", func(t *testing.T) {
		var got []vehicle.Chunk
		for c, err := range s.History(t.Context(), cmd.ID) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, c)
		}
		want := make([]vehicle.Chunk, len(chunks))
		for i, c := range chunks {
			c.ReceivedAt = c.ReceivedAt.UTC().Truncate(1000)
			want[i] = c
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("may be left", func(t *testing.T) {
		for range 2 { // the second time the pool's one connection must be back
			for _, err := range s.History(t.Context(), cmd.ID) {
				if err != nil {
					t.Error(err)
				}
				break
			}
		}
	})
	t.Run("reports an error once and last", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n := 0
		for _, err := range s.History(ctx, cmd.ID) {
			if n++; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want canceled", err)
			}
		}
		if n != 1 {
			t.Errorf("got %d turns of the loop, want 1", n)
		}
	})
	t.Run("reports one in the middle of an answer", func(t *testing.T) {
		long := newCommand()
		if err := execute(t.Context(), s, long, chunksOf(long, 0, slices.Repeat([]string{`"` + strings.Repeat("x", 64<<10) + `"`}, 100)...)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		for _, err := range s.History(ctx, long.ID) {
			cancel()
			last = err
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("got %v, want canceled", last)
		}
	})
	t.Run("takes chunks without a time, or with one that Go cannot say", func(t *testing.T) { // the application's column, and its rows
		db.exec(`ALTER TABLE {responses} ALTER COLUMN received_at DROP NOT NULL`)
		for _, at := range []any{nil, "infinity", "-infinity", "294276-12-31 23:59:59.999999+00"} {
			db.exec(`UPDATE {responses} SET received_at = $2::text::timestamptz WHERE command_id = $1::uuid`, cmd.ID.String(), at)
			n := 0
			for c, err := range s.History(t.Context(), cmd.ID) {
				if n++; err != nil || !c.ReceivedAt.IsZero() {
					t.Errorf("received_at is %v: got %v, %v, want no time", at, c.ReceivedAt, err)
				}
			}
			if n != len(chunks) {
				t.Errorf("received_at is %v: got %d chunks, want %d", at, n, len(chunks))
			}
		}
	})
}
