package pgsink_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// harness lets the conformance suite look into a sink.
func (db *database) harness(s *pgsink.Sink, begin func(context.Context, vehicle.Command) error) vehicletest.Harness {
	return vehicletest.Harness{
		Sink: sink.Func{OnBegin: begin, OnWrite: s.Write, OnEnd: s.End},
		Read: func(ctx context.Context, id uuid.UUID) (chunks []vehicle.Chunk, status vehicle.Status, err error) {
			for c, err := range s.History(ctx, id) {
				if err != nil {
					return nil, "", err
				}
				chunks = append(chunks, c)
			}
			err = db.pool.QueryRow(ctx, db.sql(`SELECT status FROM {commands} WHERE command_id = $1::uuid`), id.String()).Scan(&status)
			if errors.Is(err, pgx.ErrNoRows) {
				err = nil
			}
			return chunks, status, err
		},
	}
}

func TestSinkOnTablesThatMigrateCreates(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	vehicletest.TestSink(t, func(t *testing.T) vehicletest.Harness {
		t.Helper()
		s := db.newSink()
		return db.harness(s, s.Begin)
	})
}

func TestSinkOnTheApplicationsTables(t *testing.T) {
	t.Parallel()
	db := newAppDatabase(t, databaseURL(t))
	vehicletest.TestSink(t, func(t *testing.T) vehicletest.Harness {
		t.Helper()
		s := db.newSink()
		return db.harness(s, func(ctx context.Context, cmd vehicle.Command) error {
			if cmd.UserID == uuid.Nil {
				cmd.UserID = uuid.New() // NOT NULL there
			}
			if err := db.admit(context.WithoutCancel(ctx), cmd); err != nil {
				return err
			}
			return s.Begin(ctx, cmd)
		})
	})
}
