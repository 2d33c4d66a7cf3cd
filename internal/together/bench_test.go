package together_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// BenchmarkChain runs commands through a client, from a mock vehicle in memory to PostgreSQL and Redis, so many at once,
// and beside it the same with the connector of an afternoon. Both have 16 connections to PostgreSQL at most, and servers
// that sync what they store.
func BenchmarkChain(b *testing.B) {
	s := newStage(b)
	chunk := `{"dtc":"P0420","status":{"testFailed":"1","confirmedDTC":"1"},"snapshot":"` + strings.Repeat("a0b1", 28) + `"}`
	for _, chunks := range []int{3, 30} {
		payloads := make([]string, chunks)
		for i := range payloads {
			payloads[i] = chunk
		}
		gateway := vehicletest.NewServer(b, vehicletest.WithHistory(1), vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Answer(payloads...)}))
		all, closeAll := chain(s.db, s.rdb)
		for _, atOnce := range []int{1, 256} {
			for _, way := range []struct {
				name string
				sink vehicle.Sink
			}{{"naive", naive{s.db, s.rdb}}, {"chain", all}} {
				b.Run(fmt.Sprintf("%d chunks/%d at once/%s", chunks, atOnce, way.name), func(b *testing.B) {
					runAtOnce(b, gateway.Client(b, vehicle.WithSink(way.sink)), atOnce, chunks)
				})
			}
		}
		check(b, closeAll())
	}
	s.checkRows(b)
}

func runAtOnce(b *testing.B, client *vehicle.Client, atOnce, chunks int) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	space := uuid.New()
	b.ResetTimer()
	start := time.Now()
	for range atOnce {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if res, err := client.Execute(b.Context(), command(space, int(i))); err != nil || res.Chunks != chunks {
					b.Errorf("got %d chunks, %v, want %d", res.Chunks, err, chunks)
					return
				}
			}
		})
	}
	wg.Wait()
	rate := float64(b.N) / time.Since(start).Seconds()
	b.ReportMetric(rate, "commands/s")
	b.ReportMetric(rate*float64(chunks), "rows/s")
}

// checkRows looks whether what was measured has been done: every command is completed, with as many rows as its audit
// trail says.
func (s *stage) checkRows(b *testing.B) {
	b.Helper()
	var commands, wrong int
	err := s.db.QueryRow(b.Context(), `SELECT count(*), count(*) FILTER (WHERE status <> 'completed' OR
		(SELECT count(*) FROM responses r WHERE r.command_id = c.command_id) IS DISTINCT FROM
		(SELECT (details->>'chunk_count')::int FROM audit_logs a WHERE a.command_id = c.command_id)) FROM commands c`).Scan(&commands, &wrong)
	if err != nil || commands == 0 || wrong > 0 {
		b.Errorf("got %d commands, of which %d are not stored as they should be, %v", commands, wrong, err)
	}
}

// naive is what is written first: an Exec for each chunk, status and audit row, and a PUBLISH for each chunk.
type naive struct {
	pool *pgxpool.Pool
	rdb  *redis.Client
}

func (n naive) Begin(ctx context.Context, cmd vehicle.Command) error {
	_, err := n.pool.Exec(ctx, `INSERT INTO commands (command_id, vehicle_id, command_name, status) VALUES ($1::uuid, $2::uuid, $3, 'in_progress')`,
		cmd.ID.String(), cmd.VehicleID.String(), cmd.Name)
	return err
}

func (n naive) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	for _, c := range chunks {
		_, err := n.pool.Exec(ctx, `INSERT INTO responses VALUES ($1::uuid, $2::uuid, $3::jsonb, $4, $5, $6)`,
			c.ID().String(), c.CommandID.String(), string(c.Payload), c.Seq, c.Final, c.ReceivedAt)
		if err != nil {
			return err
		}
		err = n.publish(ctx, redissink.Event{Event: "response", CommandID: c.CommandID, ResponseID: c.ID(), Payload: c.Payload, Seq: c.Seq, Final: c.Final})
		if err != nil {
			return err
		}
	}
	return nil
}

func (n naive) End(ctx context.Context, res vehicle.Result) error {
	id := res.Command.ID.String()
	if _, err := n.pool.Exec(ctx, `UPDATE commands SET status = $2, completed_at = $3 WHERE command_id = $1::uuid`, id, string(res.Status), res.FinishedAt); err != nil {
		return err
	}
	_, err := n.pool.Exec(ctx, `INSERT INTO audit_logs (log_id, command_id, action, entity_type, details)
		VALUES ($1::uuid, $2::uuid, 'command_completed', 'command', jsonb_build_object('chunk_count', $3::int))`, uuid.NewString(), id, res.Chunks)
	if err != nil {
		return err
	}
	return n.publish(ctx, redissink.Event{Event: "status", CommandID: res.Command.ID, Status: res.Status, CompletedAt: res.FinishedAt})
}

func (n naive) publish(ctx context.Context, e redissink.Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return n.rdb.Publish(ctx, "response:"+e.CommandID.String(), text).Err()
}
