package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// store reads what is stored of commands.
type store struct {
	pool *pgxpool.Pool
	sink *pgsink.Sink
	page int // bytes of payloads that are in memory for one reader
}

// record is a command's row.
type record struct {
	ID           uuid.UUID      `json:"command_id"`
	VehicleID    uuid.UUID      `json:"vehicle_id"`
	UserID       *uuid.UUID     `json:"user_id,omitempty"`
	Name         string         `json:"command_name"`
	Status       vehicle.Status `json:"status"`
	ErrorMessage *string        `json:"error_message,omitempty"`
	SubmittedAt  *time.Time     `json:"submitted_at,omitempty"`
	CompletedAt  *time.Time     `json:"completed_at,omitempty"`
}

func (r *record) ended() bool {
	return r.Status == vehicle.StatusCompleted || r.Status == vehicle.StatusFailed
}

// lastEvent is the event of the command's end, as Redis had it.
func (r *record) lastEvent() redissink.Event {
	e := redissink.Event{Event: "status", CommandID: r.ID, Status: r.Status}
	if r.CompletedAt != nil {
		e.CompletedAt = *r.CompletedAt
	}
	if r.Status == vehicle.StatusFailed {
		e.Event = "error"
		if r.ErrorMessage != nil {
			e.ErrorMessage = *r.ErrorMessage
		}
	}
	return e
}

var errNoCommand = errors.New("there is no such command")

// command reads a row. Read it before the chunks: those of a command that had ended then are complete.
func (s store) command(ctx context.Context, id uuid.UUID) (*record, error) {
	r := &record{ID: id}
	err := s.pool.QueryRow(ctx, `SELECT vehicle_id, user_id, command_name, status, error_message, submitted_at, completed_at
		FROM commands WHERE command_id = $1::uuid`, id.String()).
		Scan(&r.VehicleID, &r.UserID, &r.Name, &r.Status, &r.ErrorMessage, &r.SubmittedAt, &r.CompletedAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errNoCommand
	case err != nil:
		return nil, err
	}
	return r, nil
}

// storedChunk is a row of an answer.
type storedChunk struct {
	ID         uuid.UUID       `json:"response_id"`
	Seq        int32           `json:"sequence_number"`
	Payload    json.RawMessage `json:"response_payload"`
	Final      bool            `json:"is_final"`
	ReceivedAt time.Time       `json:"received_at"`
}

func (c storedChunk) event(command uuid.UUID) redissink.Event {
	return redissink.Event{Event: "response", CommandID: command, ResponseID: c.ID, Payload: c.Payload, Seq: c.Seq, Final: c.Final}
}

// chunks reads an answer from a sequence number on, and says whether there is more. It reads a page before any of it is
// sent, so that a slow client holds no connection of the pool.
func (s store) chunks(ctx context.Context, id uuid.UUID, from int64) (page []storedChunk, more bool, err error) {
	page = []storedChunk{}
	size := 0
	for chunk, err := range s.sink.History(ctx, id) {
		if err != nil {
			return nil, false, err
		}
		if int64(chunk.Seq) < from {
			continue
		}
		if size += len(chunk.Payload); size > s.page && len(page) > 0 {
			return page, true, nil
		}
		page = append(page, storedChunk{
			ID: chunk.ID(), Seq: chunk.Seq, Payload: chunk.Payload, Final: chunk.Final, ReceivedAt: chunk.ReceivedAt,
		})
	}
	return page, false, nil
}
