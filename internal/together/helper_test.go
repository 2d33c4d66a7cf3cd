// Package together_test runs the whole chain, from the vehicle to PostgreSQL and to whoever follows on Redis, while
// every part of it breaks. What one sink does alone is tested beside that sink.
package together_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/sink/redissink"
)

func TestMain(m *testing.M) {
	redis.SetLogger(silence{}) // it prints what it cannot dial, which is what the tests are about
	if os.Getenv(workerDatabase) != "" {
		os.Exit(work())
	}
	// A pool of go-redis that could not dial looks once a second whether it can, or has been closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// stage has the servers of one test, which may stop them.
type stage struct {
	tb       testing.TB
	postgres *servers.Postgres
	redis    *servers.Redis
	db       *pgxpool.Pool // the test's own
	rdb      *redis.Client // likewise
}

func newStage(tb testing.TB) *stage {
	tb.Helper()
	pg, err := servers.StartPostgres(tb.Context(), "max_connections=200")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { check(tb, pg.Close()) })
	rd, err := servers.StartRedis(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { check(tb, rd.Close()) })
	s := &stage{tb: tb, postgres: pg, redis: rd}
	s.db, s.rdb = s.newPool(16), s.newRedis()
	if err := pgsink.Migrate(tb.Context(), s.db); err != nil {
		tb.Fatal(err)
	}
	return s
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}

func (s *stage) newPool(size int32) *pgxpool.Pool {
	s.tb.Helper()
	config, err := pgxpool.ParseConfig(s.postgres.URL())
	if err != nil {
		s.tb.Fatal(err)
	}
	config.MaxConns = size
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(pool.Close)
	return pool
}

func (s *stage) newRedis() *redis.Client {
	s.tb.Helper()
	opt, err := redis.ParseURL(s.redis.URL())
	if err != nil {
		s.tb.Fatal(err)
	}
	opt.DialerRetries = 1
	rdb := redis.NewClient(opt)
	s.tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// newChain is closed with the test.
func (s *stage) newChain() vehicle.Sink {
	s.tb.Helper()
	all, closeAll := chain(s.newPool(4), s.newRedis())
	s.tb.Cleanup(func() { check(s.tb, closeAll()) })
	return all
}

// chain is what a backend attaches: durable, then announced.
func chain(pool *pgxpool.Pool, rdb *redis.Client) (all vehicle.Sink, closeAll func() error) {
	stored := pgsink.New(pool)
	announced := redissink.New(rdb, redissink.WithStream(0, time.Hour), redissink.WithRetryFor(time.Minute))
	return sink.Chain(stored, announced), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := announced.Close(ctx); err != nil {
			return err
		}
		return stored.Close(ctx)
	}
}

// patient outlasts what the tests do to the link.
func patient() vehicle.Option {
	return vehicle.WithRetry(vehicle.RetryPolicy{
		MaxRetries: 1000, TimeoutRetries: 5, BaseDelay: 5 * time.Millisecond, MaxDelay: 100 * time.Millisecond,
	})
}

// command is the test's i-th, the same in every process.
func command(space uuid.UUID, i int) vehicle.Command {
	return vehicle.Command{
		ID: uuid.NewSHA1(space, fmt.Append(nil, i)), VehicleID: uuid.NewSHA1(space, []byte("vehicle")), Name: "ReadDTC",
	}
}

// payload is the vehicle's i-th of a command's answer.
func payload(command string, i int) string { return fmt.Sprintf(`"%s %d"`, command, i) }

// row is what PostgreSQL has of a chunk.
type row struct {
	ID      uuid.UUID
	Payload string
	Seq     int32
	Final   bool
}

// answer is what PostgreSQL should have of a command's answer.
func answer(id uuid.UUID, chunks int) []row {
	rows := make([]row, chunks)
	for i := range rows {
		c := vehicle.Chunk{CommandID: id, Seq: int32(i)}
		rows[i] = row{ID: c.ID(), Payload: payload(id.String(), i), Seq: c.Seq, Final: i == chunks-1}
	}
	return rows
}

// stored is what PostgreSQL has: of each command its status and the actions of its audit trail, and its rows.
func (s *stage) stored() (states map[uuid.UUID]string, answers map[uuid.UUID][]row) {
	s.tb.Helper()
	states, answers = make(map[uuid.UUID]string), make(map[uuid.UUID][]row)
	var id uuid.UUID
	var state string
	each(s, `SELECT command_id, status || coalesce((SELECT string_agg(' ' || action, '') FROM audit_logs a WHERE a.command_id = c.command_id), '')
		FROM commands c`, []any{&id, &state}, func() { states[id] = state })
	var r row
	each(s, `SELECT command_id, response_id, response_payload::text, sequence_number, is_final FROM responses ORDER BY sequence_number, response_id`,
		[]any{&id, &r.ID, &r.Payload, &r.Seq, &r.Final}, func() { answers[id] = append(answers[id], r) })
	return states, answers
}

func each(s *stage, sql string, into []any, do func()) {
	s.tb.Helper()
	rows, err := s.db.Query(context.Background(), sql)
	if err != nil {
		s.tb.Fatal(err)
	}
	if _, err := pgx.ForEachRow(rows, into, func() error { do(); return nil }); err != nil {
		s.tb.Fatal(err)
	}
}

// pause waits for d, unless ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
