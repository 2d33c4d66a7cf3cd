package pgsink_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// The ways to write many rows into responses. Only the first is not idempotent: COPY knows no ON CONFLICT.

func copyFrom(ctx context.Context, db *database, pool *pgxpool.Pool, chunks []vehicle.Chunk) error {
	_, err := pool.CopyFrom(ctx, pgx.Identifier{db.schema, "responses"},
		[]string{"response_id", "command_id", "response_payload", "sequence_number", "is_final", "received_at"},
		pgx.CopyFromSlice(len(chunks), func(i int) ([]any, error) {
			c := chunks[i]
			return []any{[16]byte(c.ID()), [16]byte(c.CommandID), c.Payload, c.Seq, c.Final, c.ReceivedAt}, nil
		}))
	return err
}

func copyToStaging(ctx context.Context, db *database, pool *pgxpool.Pool, chunks []vehicle.Chunk) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, db.sql(`CREATE TEMP TABLE IF NOT EXISTS staging (LIKE {responses}) ON COMMIT DELETE ROWS`)); err != nil {
			return err
		}
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"staging"},
			[]string{"response_id", "command_id", "response_payload", "sequence_number", "is_final", "received_at"},
			pgx.CopyFromSlice(len(chunks), func(i int) ([]any, error) {
				c := chunks[i]
				return []any{[16]byte(c.ID()), [16]byte(c.CommandID), c.Payload, c.Seq, c.Final, c.ReceivedAt}, nil
			}))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, db.sql(`INSERT INTO {responses} SELECT * FROM staging ON CONFLICT DO NOTHING`))
		return err
	})
}

func batchOfInserts(ctx context.Context, db *database, pool *pgxpool.Pool, chunks []vehicle.Chunk) error {
	b := &pgx.Batch{}
	b.Queue("begin")
	sql := db.sql(`INSERT INTO {responses} VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`)
	for _, c := range chunks {
		b.Queue(sql, [16]byte(c.ID()), [16]byte(c.CommandID), c.Payload, c.Seq, c.Final, c.ReceivedAt)
	}
	b.Queue("commit")
	return pool.SendBatch(ctx, b).Close()
}

// BenchmarkRows writes long answers, 1,000 rows a batch.
func BenchmarkRows(b *testing.B) {
	const batch = 1000
	db := newDatabase(b, databaseURL(b))
	pool := db.newPool(nil)
	direct := func(write func(context.Context, *database, *pgxpool.Pool, []vehicle.Chunk) error) func(context.Context, []vehicle.Chunk) error {
		return func(ctx context.Context, chunks []vehicle.Chunk) error { return write(ctx, db, pool, chunks) }
	}
	for _, answers := range []int{1, 2} { // side by side
		s := db.newSinkOn(pool, pgsink.WithWriters(answers))
		for _, way := range []struct {
			name  string
			write func(context.Context, []vehicle.Chunk) error
		}{
			{"COPY, not idempotent", direct(copyFrom)},
			{"COPY to a staging table", direct(copyToStaging)},
			{"batch of INSERTs", direct(batchOfInserts)},
			{"Exec per row", naive{db, pool}.Write},
			{"pgsink", s.Write},
		} {
			b.Run(fmt.Sprintf("%d at once/%s", answers, way.name), func(b *testing.B) {
				db.exec(`TRUNCATE {commands} CASCADE`) // the same to start from
				var wg sync.WaitGroup
				var rows atomic.Int64
				start := time.Now()
				for i := range answers {
					cmd := newCommand()
					cmd.ID[15] = byte(i) // each has a writer of its own
					if err := s.Begin(b.Context(), cmd); err != nil {
						b.Fatal(err)
					}
					payloads := make([]string, batch)
					for i := range payloads {
						payloads[i] = benchPayload
					}
					chunks := chunksOf(cmd, 0, payloads...)
					wg.Go(func() {
						for range b.N {
							if err := way.write(b.Context(), chunks); err != nil {
								b.Error(err)
								return
							}
							rows.Add(batch)
							for i := range chunks {
								chunks[i].Seq += batch
							}
						}
						if err := s.End(b.Context(), completed(cmd, 0)); err != nil && way.name == "pgsink" {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(rows.Load())/time.Since(start).Seconds(), "rows/s")
			})
		}
	}
}
