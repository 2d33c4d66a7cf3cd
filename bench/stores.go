package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// poolSize is how many connections to PostgreSQL either side may have.
const poolSize = 16

func openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolSize
	return pgxpool.NewWithConfig(ctx, config)
}

func openRedis(url string) (*redis.Client, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	return redis.NewClient(options), nil
}

// openSinks returns the sinks that the SDK's side of a job has, and what closes them.
func (j *job) openSinks(ctx context.Context) (sinks []vehicle.Sink, closing func() error, _ error) {
	var closers []func() error
	if j.Postgres != "" {
		pool, err := openPool(ctx, j.Postgres)
		if err != nil {
			return nil, nil, err
		}
		store := pgsink.New(pool)
		sinks = append(sinks, store)
		closers = append(closers, func() error {
			defer pool.Close()
			return store.Close(context.WithoutCancel(ctx))
		})
	}
	if j.Redis != "" {
		rdb, err := openRedis(j.Redis)
		if err != nil {
			return nil, nil, err
		}
		var opts []redissink.Option
		if j.Side == sideSDKStream {
			opts = append(opts, redissink.WithStream(10_000, time.Minute))
		}
		announce := redissink.New(rdb, opts...)
		sinks = append(sinks, announce)
		closers = append(closers, func() error { return errors.Join(announce.Close(context.WithoutCancel(ctx)), rdb.Close()) })
	}
	return sinks, func() error {
		var errs []error
		for _, closer := range closers {
			errs = append(errs, closer())
		}
		return errors.Join(errs...)
	}, nil
}

// stores are the servers that both sides store in: private ones, that sync what they store.
type stores struct {
	postgres *servers.Postgres
	redis    *servers.Redis
	pool     *pgxpool.Pool
	rdb      *redis.Client
}

func startStores(ctx context.Context) (*stores, error) {
	s := &stores{}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stores) start(ctx context.Context) (err error) {
	if s.postgres, err = servers.StartPostgres(ctx, "max_connections=100"); err != nil {
		return err
	}
	if s.redis, err = servers.StartRedis(ctx); err != nil {
		return err
	}
	if s.pool, err = openPool(ctx, s.postgres.URL()); err != nil {
		return err
	}
	if s.rdb, err = openRedis(s.redis.URL()); err != nil {
		return err
	}
	return pgsink.Migrate(ctx, s.pool)
}

func (s *stores) close() error {
	var errs []error
	if s.pool != nil {
		s.pool.Close()
	}
	if s.rdb != nil {
		errs = append(errs, s.rdb.Close())
	}
	if s.redis != nil {
		errs = append(errs, s.redis.Close())
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close())
	}
	return errors.Join(errs...)
}

// clear empties the stores, so that each measurement begins with the same.
func (s *stores) clear(ctx context.Context) error {
	for _, sql := range []string{"TRUNCATE commands, responses, audit_logs", "CHECKPOINT"} {
		if _, err := s.pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return errors.Join(s.rdb.FlushAll(ctx).Err(), s.rdb.ConfigResetStat(ctx).Err())
}

// verify looks whether the commands that a job says it has run are stored, each completed, audited, and with all of its chunks
// as the vehicle sent them, and whether each chunk and each end has been published.
func (s *stores) verify(ctx context.Context, j job, said figures) error {
	if j.Kind == kindRows {
		return nil // it looks itself
	}
	commands := int(said[commandsInAll])
	all, wrong, err := s.inspect(ctx, j.Size, "true")
	if err != nil {
		return err
	}
	if all != commands || wrong > 0 {
		return fmt.Errorf("got %d commands in PostgreSQL, of which %d are not stored as they should be, want %d", all, wrong, commands)
	}
	if j.Redis == "" {
		return nil
	}
	// A stream has an entry for the beginning as well, and a signal for each step is published too.
	command, want := "publish", int(said[chunksInAll])+commands
	if j.Side == sideSDKStream {
		command, want = "xadd", want+commands
	}
	published, err := s.calls(ctx, command)
	if err == nil && published != want {
		err = fmt.Errorf("got %d calls of %s, want %d", published, command, want)
	}
	return err
}

// inspect counts commands, and those that are not stored as they should be.
func (s *stores) inspect(ctx context.Context, size int, where string, args ...any) (all, wrong int, err error) {
	payloads := payloadsOf(size)
	err = s.pool.QueryRow(ctx, `
		WITH c AS (SELECT *, (command_params->>'chunks')::bigint AS want FROM commands WHERE `+where+`),
		r AS (
			SELECT command_id, count(*) AS n, count(DISTINCT sequence_number) AS numbers, max(sequence_number) AS last,
				count(*) FILTER (WHERE is_final) AS finals, bool_or(is_final AND sequence_number = want - 1) AS final,
				bool_and(response_payload = ($1::text[])[sequence_number % $2 + 1]::jsonb) AS same
			FROM responses JOIN c USING (command_id) GROUP BY command_id)
		SELECT count(*), count(*) FILTER (WHERE c.status <> 'completed' OR c.completed_at IS NULL OR r.n IS NULL OR
			ARRAY[r.n, r.numbers, r.last + 1, r.finals] <> ARRAY[want, want, want, 1] OR NOT r.final OR NOT r.same OR
			(SELECT array_agg((details->>'chunk_count')::bigint) FROM audit_logs a WHERE a.command_id = c.command_id) IS DISTINCT FROM ARRAY[want])
		FROM c LEFT JOIN r USING (command_id)`, append([]any{payloads, len(payloads)}, args...)...).Scan(&all, &wrong)
	return all, wrong, err
}

// trim looks at commands that completed longer than keep ago, and deletes them. It says how many there were.
func (s *stores) trim(ctx context.Context, keep time.Duration) (int, error) {
	rows, err := s.pool.Query(ctx, `SELECT command_id FROM commands WHERE completed_at <= now() - $1::interval ORDER BY completed_at LIMIT 20000`, keep)
	if err != nil {
		return 0, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	all, wrong, err := s.inspect(ctx, smallChunk, "command_id = ANY($3)", ids)
	if err != nil {
		return 0, err
	}
	if all != len(ids) || wrong > 0 {
		return 0, fmt.Errorf("%d of %d commands are not stored as they should be", wrong, all)
	}
	for _, table := range []string{"audit_logs", "responses", "commands"} {
		if _, err := s.pool.Exec(ctx, "DELETE FROM "+table+" WHERE command_id = ANY($1)", ids); err != nil {
			return 0, err
		}
	}
	return all, nil
}

// calls is how often Redis has been given a command since it was last cleared.
func (s *stores) calls(ctx context.Context, command string) (int, error) {
	info, err := s.rdb.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(info, "cmdstat_"+command+":calls=")
	n := 0
	_, _ = fmt.Sscanf(after, "%d", &n) // none: it has not been called
	return n, nil
}

// versions says which servers these are.
func (s *stores) versions(ctx context.Context) (postgres, redis string, _ error) {
	if err := s.pool.QueryRow(ctx, "SHOW server_version").Scan(&postgres); err != nil {
		return "", "", err
	}
	info, err := s.rdb.Info(ctx, "server").Result()
	_, after, _ := strings.Cut(info, "redis_version:")
	redis, _, _ = strings.Cut(after, "\r\n")
	postgres, _, _ = strings.Cut(postgres, " ")
	return postgres, redis, err
}
