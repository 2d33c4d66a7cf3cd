package pgsink_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// The benchmarks compare this package with the ways that are written first, in the same run, on the web
// application's tables without its users and vehicles (Migrate).

// benchPayload is a chunk of some 200 bytes.
var benchPayload = `{"dtc":"P0420","status":{"testFailed":"1","confirmedDTC":"1"},"snapshot":"` + strings.Repeat("a0b1", 28) + `"}`

// naive is the connector of an afternoon: one statement, and so one transaction, for each thing that happens.
type naive struct {
	db   *database
	pool *pgxpool.Pool
}

func (n naive) Begin(ctx context.Context, cmd vehicle.Command) error {
	_, err := n.pool.Exec(ctx, n.db.sql(`INSERT INTO {commands} (command_id, user_id, vehicle_id, command_name, status)
		VALUES ($1::uuid, $2::uuid, $3::uuid, $4, 'in_progress')`), cmd.ID.String(), cmd.UserID.String(), cmd.VehicleID.String(), cmd.Name)
	return err
}

func (n naive) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	for _, c := range chunks {
		_, err := n.pool.Exec(ctx, n.db.sql(`INSERT INTO {responses} VALUES ($1::uuid, $2::uuid, $3::jsonb, $4, $5, $6)`),
			uuid.NewString(), c.CommandID.String(), string(c.Payload), c.Seq, c.Final, c.ReceivedAt)
		if err != nil {
			return err
		}
	}
	return nil
}

func (n naive) End(ctx context.Context, res vehicle.Result) error {
	_, err := n.pool.Exec(ctx, n.db.sql(`UPDATE {commands} SET status = $2, completed_at = $3 WHERE command_id = $1::uuid`),
		res.Command.ID.String(), string(res.Status), res.FinishedAt)
	if err != nil {
		return err
	}
	_, err = n.pool.Exec(ctx, n.db.sql(`INSERT INTO {audit_logs} (log_id, command_id, action, entity_type, details)
		VALUES ($1::uuid, $2::uuid, 'command_completed', 'command', $3::jsonb)`), uuid.NewString(), res.Command.ID.String(), `{"chunk_count":3}`)
	return err
}

// perCommand is the fair way to write a command by itself: one transaction, pipelined, when everything is known. Its
// status is never in_progress.
func (n naive) perCommand(ctx context.Context, cmd vehicle.Command, chunks []vehicle.Chunk) error {
	b := &pgx.Batch{}
	b.Queue("begin")
	b.Queue(n.db.sql(`INSERT INTO {commands} (command_id, user_id, vehicle_id, command_name, status)
		VALUES ($1::uuid, $2::uuid, $3::uuid, $4, 'in_progress')`), cmd.ID.String(), cmd.UserID.String(), cmd.VehicleID.String(), cmd.Name)
	for _, c := range chunks {
		b.Queue(n.db.sql(`INSERT INTO {responses} VALUES ($1::uuid, $2::uuid, $3::jsonb, $4, $5, $6) ON CONFLICT DO NOTHING`),
			c.ID().String(), c.CommandID.String(), string(c.Payload), c.Seq, c.Final, c.ReceivedAt)
	}
	b.Queue(n.db.sql(`UPDATE {commands} SET status = 'completed', completed_at = now() WHERE command_id = $1::uuid`), cmd.ID.String())
	b.Queue(n.db.sql(`INSERT INTO {audit_logs} (log_id, command_id, action, entity_type, details)
		VALUES ($1::uuid, $2::uuid, 'command_completed', 'command', $3::jsonb)`), uuid.NewString(), cmd.ID.String(), `{"chunk_count":3}`)
	b.Queue("commit")
	return n.pool.SendBatch(ctx, b).Close()
}

// BenchmarkCommands runs commands of three chunks, so many at once.
func BenchmarkCommands(b *testing.B) {
	db := newDatabase(b, databaseURL(b))
	pool := db.newPool(nil)
	n, s := naive{db, pool}, db.newSinkOn(pool)
	oneWrite := func(s vehicle.Sink) func(context.Context, vehicle.Command, []vehicle.Chunk) error {
		return func(ctx context.Context, cmd vehicle.Command, chunks []vehicle.Chunk) error {
			return execute(ctx, s, cmd, chunks)
		}
	}
	for _, atOnce := range []int{1, 256} {
		for _, way := range []struct {
			name string
			run  func(context.Context, vehicle.Command, []vehicle.Chunk) error
		}{
			{"naive", oneWrite(n)},
			{"transaction per command", n.perCommand},
			{"pgsink", oneWrite(s)},
			{"pgsink, a Write per chunk", func(ctx context.Context, cmd vehicle.Command, chunks []vehicle.Chunk) error {
				return execute(ctx, s, cmd, chunks[:1], chunks[1:2], chunks[2:])
			}},
		} {
			b.Run(fmt.Sprintf("%d at once/%s", atOnce, way.name), func(b *testing.B) {
				runAtOnce(b, atOnce, way.run)
			})
		}
	}
}

func runAtOnce(b *testing.B, atOnce int, run func(context.Context, vehicle.Command, []vehicle.Chunk) error) {
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for range atOnce {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				cmd := newCommand()
				if err := run(b.Context(), cmd, chunksOf(cmd, 0, benchPayload, benchPayload, benchPayload)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "commands/s")
}

// BenchmarkWriters runs 256 commands of three chunks at once with several numbers of writers.
func BenchmarkWriters(b *testing.B) {
	db := newDatabase(b, databaseURL(b))
	pool := db.newPool(nil)
	for _, writers := range []int{1, 2, 3, 4, 8} {
		s := db.newSinkOn(pool, pgsink.WithWriters(writers))
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			runAtOnce(b, 256, func(ctx context.Context, cmd vehicle.Command, chunks []vehicle.Chunk) error {
				return execute(ctx, s, cmd, chunks)
			})
		})
	}
}
