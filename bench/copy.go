package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// batchRows is how many rows each call stores.
const batchRows = 1000

// measureRows has so many writers store batches for a time, each of one long command of its own.
func (j *job) measureRows(ctx context.Context) (figures, error) {
	pool, err := openPool(ctx, j.Postgres)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	var newWriter func(context.Context, vehicle.Command) (write func([]vehicle.Chunk) error, end func(chunks int) error, _ error)
	switch j.Side {
	case sideCopy:
		newWriter = copier{pool}.begin
	case sideSDK:
		store := pgsink.New(pool, pgsink.WithWriters(j.AtOnce))        // a connection each, as COPY has
		defer func() { _ = store.Close(context.WithoutCancel(ctx)) }() // nothing is under way
		newWriter = storing{store}.begin
	default:
		return nil, fmt.Errorf("%q does not store rows", j.Side)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all, counted atomic.Int64
	var phase atomic.Int32 // 0 warming up, 1 measuring, 2 over
	var wg sync.WaitGroup
	for range j.AtOnce {
		wg.Go(func() {
			cmd := vehicle.Command{ID: uuid.New(), VehicleID: theVehicle, Name: "ReadDTC"}
			write, end, err := newWriter(ctx, cmd)
			for batch := newBatch(cmd, j.Size); err == nil && phase.Load() < 2; batch.next() {
				if err = write(batch.chunks); err == nil {
					all.Add(batchRows)
					if phase.Load() == 1 {
						counted.Add(batchRows)
					}
					continue
				}
			}
			if err == nil {
				err = end(int(all.Load()))
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	err = wait(ctx, j.Warmup)
	var m meter
	if err == nil {
		err = m.start(j)
	}
	phase.Store(1)
	if err == nil {
		err = waitFor(ctx, j.Window, &counted)
	}
	var f figures
	if err == nil {
		f, err = m.stop(int(counted.Load()))
	}
	phase.Store(2)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil {
		err = verifyBatches(ctx, pool, int(all.Load()), payloadsOf(j.Size))
	}
	return f, err
}

// batch is the next thousand chunks of one command, as they would have come from a vehicle.
type batch struct {
	payloads [][]byte
	chunks   []vehicle.Chunk
}

func newBatch(cmd vehicle.Command, size int) *batch {
	b := &batch{chunks: make([]vehicle.Chunk, batchRows)}
	for _, payload := range payloadsOf(size) {
		b.payloads = append(b.payloads, []byte(payload))
	}
	for i := range b.chunks {
		b.chunks[i] = vehicle.Chunk{CommandID: cmd.ID, VehicleID: cmd.VehicleID, Seq: int32(i), Payload: b.payloads[i%variety]}
	}
	return b
}

func (b *batch) next() {
	for i := range b.chunks {
		c := &b.chunks[i]
		c.Seq += batchRows
		c.Payload = b.payloads[c.Seq%variety]
		c.ReceivedAt = time.Now()
	}
}

// copier stores with COPY, the fastest way into a table: it knows no conflicts, and so cannot be repeated.
type copier struct{ pool *pgxpool.Pool }

func (c copier) begin(ctx context.Context, cmd vehicle.Command) (func([]vehicle.Chunk) error, func(int) error, error) {
	_, err := c.pool.Exec(ctx, insertCommand, cmd.ID, cmd.VehicleID, cmd.Name, map[string]string{})
	columns := []string{"response_id", "command_id", "response_payload", "sequence_number", "is_final", "received_at"}
	write := func(chunks []vehicle.Chunk) error {
		n, err := c.pool.CopyFrom(ctx, pgx.Identifier{"responses"}, columns, pgx.CopyFromSlice(len(chunks), func(i int) ([]any, error) {
			c := &chunks[i]
			return []any{uuid.New(), c.CommandID, c.Payload, c.Seq, c.Final, c.ReceivedAt}, nil
		}))
		if err == nil && n != int64(len(chunks)) {
			err = fmt.Errorf("COPY stored %d rows, want %d", n, len(chunks))
		}
		return err
	}
	return write, func(int) error { return nil }, err
}

// storing stores with the SDK's sink, which can be repeated.
type storing struct{ sink vehicle.Sink }

func (s storing) begin(ctx context.Context, cmd vehicle.Command) (func([]vehicle.Chunk) error, func(int) error, error) {
	return func(chunks []vehicle.Chunk) error { return s.sink.Write(ctx, chunks) },
		func(chunks int) error {
			return s.sink.End(ctx, vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, Chunks: chunks, FinishedAt: time.Now()})
		},
		s.sink.Begin(ctx, cmd)
}

func verifyBatches(ctx context.Context, pool *pgxpool.Pool, rows int, payloads []string) error {
	var got, wrong int
	err := pool.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE response_payload <> ($1::text[])[sequence_number % $2 + 1]::jsonb)
		FROM responses`, payloads, len(payloads)).Scan(&got, &wrong)
	if err != nil {
		return err
	}
	if got != rows || wrong > 0 {
		return fmt.Errorf("got %d rows in responses, of which %d are not what was written, want %d", got, wrong, rows)
	}
	return nil
}
