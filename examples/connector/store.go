package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// store reads what is stored of commands.
type store struct {
	pool    *pgxpool.Pool
	page    int           // bytes of payloads that are in memory for one reader
	timeout time.Duration // of a read: of a PostgreSQL that hangs, a lock on a table, or a connection that nobody gives back
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
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
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
	for _, at := range []*time.Time{r.SubmittedAt, r.CompletedAt} {
		if at != nil {
			*at = at.UTC()
		}
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

// pageChunks bounds how many rows PostgreSQL measures for a page.
const pageChunks = 256

// A page is the rows from a sequence number on whose payloads are so many bytes together, and at least one. Only they
// travel. (pgsink's History reads an answer from its start.) One row more is looked for, to know whether there is more.
const pageQuery = `
WITH next AS (
  SELECT response_id::text, response_payload::text AS payload, sequence_number, is_final, received_at
  FROM responses WHERE command_id = $1::uuid AND sequence_number >= $2::int8
  ORDER BY sequence_number LIMIT $4::int8 + 1),
measured AS (
  SELECT *, row_number() OVER w AS n, sum(octet_length(payload)) OVER w AS bytes, count(*) OVER () AS found
  FROM next WINDOW w AS (ORDER BY sequence_number ROWS UNBOUNDED PRECEDING))
SELECT response_id, payload, sequence_number, is_final, received_at, found FROM measured
WHERE n = 1 OR n <= $4::int8 AND bytes <= $3::int8
ORDER BY sequence_number`

// chunks reads a page of an answer, from a sequence number on, and says whether there is more. It reads the page before
// any of it is sent, so that a slow client holds no connection of the pool.
func (s store) chunks(ctx context.Context, id uuid.UUID, from int64) (page []storedChunk, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, _ := s.pool.Query(ctx, pageQuery, id.String(), from, s.page, pageChunks) // CollectRows has its error
	found := 0
	page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedChunk, error) {
		var c storedChunk
		var responseID string
		var payload []byte
		if err := row.Scan(&responseID, &payload, &c.Seq, &c.Final, &c.ReceivedAt, &found); err != nil {
			return c, err
		}
		var err error
		c.ID, err = uuid.Parse(responseID)
		c.Payload, c.ReceivedAt = unwrap(payload), c.ReceivedAt.UTC()
		return c, err
	})
	return page, found > len(page), err
}

// unwrap gives the text of a payload that is JSON and that jsonb cannot hold: pgsink stores it as {"$json": "its text"}.
func unwrap(stored []byte) json.RawMessage {
	if !bytes.HasPrefix(stored, []byte(`{"$json":`)) {
		return stored
	}
	var object map[string]json.RawMessage
	var text string
	if json.Unmarshal(stored, &object) != nil || len(object) != 1 || json.Unmarshal(object["$json"], &text) != nil || !json.Valid([]byte(text)) {
		return stored // another program's
	}
	return json.RawMessage(text)
}
