package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/sink/promsink"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// backends are the connections of the program, and the sinks between them.
type backends struct {
	vehicles *vehicle.Client // stores and announces what it runs
	pool     *pgxpool.Pool
	stored   *pgsink.Sink
	rdb      *redis.Client
	events   *redissink.Sink
	stats    *stats
	traces   *traces
	registry *prometheus.Registry
	cut      func() // cuts the link to the vehicles; nil where they are real
}

// A command's stream of events in Redis. What is longer or older than this, followers get from PostgreSQL.
const (
	streamLength = 10_000
	streamTime   = time.Hour
)

// open makes the connections and does no network I/O: a server that is down now may be up later.
func open(t targets, set settings, log *slog.Logger) (_ *backends, err error) {
	b := &backends{stats: new(stats), traces: new(traces), registry: newRegistry(), cut: t.cut}
	if b.pool, err = pgxpool.New(context.Background(), t.database); err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err) // without the password
	}
	if b.rdb, err = openRedis(t.redis); err != nil {
		b.pool.Close()
		return nil, err
	}
	b.stored = pgsink.New(b.pool)
	b.events = redissink.New(b.rdb, redissink.WithStream(streamLength, streamTime), redissink.WithRetryFor(set.redisPatience()))

	// In this order: an event on Redis means that the row is committed, and what is counted is what came of it.
	sinks := vehicle.WithSink(sink.Chain(b.stored, b.announcer(set, log)), promsink.NewNamed(b.registry, knownCommands...))
	if b.vehicles, err = t.vehicle(sinks, vehicle.WithLogger(log), vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(traceAttempts))); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func openRedis(url string) (*redis.Client, error) {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("REDIS_URL: want redis://user:password@host:port/database, or rediss: for TLS") // err may quote the password
	}
	// A Redis that hangs must not hold commands for long.
	for _, timeout := range []*time.Duration{&opt.DialTimeout, &opt.ReadTimeout, &opt.WriteTimeout} {
		if *timeout == 0 {
			*timeout = time.Second
		}
	}
	opt.DialerRetries = 1 // the sink retries
	return redis.NewClient(opt), nil
}

// redisPatience is how long a command waits for a Redis that is down.
func (s settings) redisPatience() time.Duration {
	if s.redisRequired {
		return 10 * time.Second
	}
	return 500 * time.Millisecond
}

// announcer is the way to Redis. Unless the owner wants it so, a Redis that is down stops no diagnostics: the
// command's followers get what is missing from PostgreSQL, and the errors are counted.
func (b *backends) announcer(set settings, log *slog.Logger) vehicle.Sink {
	if set.redisRequired {
		return b.events
	}
	return sink.BestEffort(b.events, func(ctx context.Context, commandID uuid.UUID, op string, err error) {
		b.stats.redisErrors.Add(1)
		log.LogAttrs(ctx, slog.LevelWarn, "events are not published", slog.String("command_id", commandID.String()),
			slog.String("call", op), slog.String("error", err.Error()))
	})
}

func (b *backends) migrate(ctx context.Context) error {
	if err := pgsink.Migrate(ctx, b.pool); err != nil {
		return fmt.Errorf("-migrate: %w", err)
	}
	return nil
}

// flushTime bounds the sinks' closing. What commands asked for has been waited for by then.
const flushTime = 5 * time.Second

// close closes in the order of use: the client ends its commands, the sinks write what is left, the connections go.
func (b *backends) close() error {
	var errs []error
	if b.vehicles != nil {
		errs = append(errs, b.vehicles.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	errs = append(errs, b.stored.Close(ctx), b.events.Close(ctx), b.rdb.Close())
	b.pool.Close()
	return errors.Join(errs...)
}
