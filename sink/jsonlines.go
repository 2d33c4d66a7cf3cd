package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// JSONLines writes commands to w as lines of JSON: one when a command begins, one for each chunk, one
// when it ends. The field names are those of the events that redissink publishes:
//
//	{"event":"begin","command_id":…,"vehicle_id":…,"user_id":…,"command_name":…,"started_at":…}
//	{"event":"response","command_id":…,"response_id":…,"response_payload":…,"sequence_number":…,"is_final":…,"timestamp":…,"received_at":…}
//	{"event":"status","command_id":…,"status":"completed","completed_at":…,"chunks":…,"replayed":…,"attempts":…}
//	{"event":"error","command_id":…,"status":"failed","completed_at":…,"error_message":…,"chunks":…,"replayed":…,"attempts":…}
//
// user_id, timestamp and other times are left out where they are zero; times are RFC 3339 in UTC. A
// payload loses the white space between its tokens and is otherwise written as it came. The lines of
// concurrent commands mix. A command that is run again has a second "begin": what comes after it is the
// new run.
//
// Payloads may hold personal data (a VIN, a position): keep what is written as you keep the database.
// Parameters are not written.
//
// Each call is one call of w.Write, with whole lines, and never two at once. When w fails, or takes
// less than it was given, so does the call; if that left part of a line, the next call closes it with a
// newline first, so that no other line is lost. A call whose ctx ends while it waits for its turn
// fails, but what w does, ctx cannot end. Nothing is flushed or synced: that is for w's owner.
func JSONLines(w io.Writer) vehicle.Sink {
	return &jsonLines{w: w, turn: make(chan struct{}, 1)}
}

type jsonLines struct {
	turn chan struct{} // a mutex that ctx can interrupt; guards what follows
	w    io.Writer
	torn bool // the last line is not whole
}

type beginLine struct {
	Event       string    `json:"event"`
	CommandID   uuid.UUID `json:"command_id"`
	VehicleID   uuid.UUID `json:"vehicle_id"`
	UserID      uuid.UUID `json:"user_id,omitzero"`
	CommandName string    `json:"command_name"`
	StartedAt   time.Time `json:"started_at"`
}

type responseLine struct {
	Event           string          `json:"event"`
	CommandID       uuid.UUID       `json:"command_id"`
	ResponseID      uuid.UUID       `json:"response_id"`
	ResponsePayload json.RawMessage `json:"response_payload"`
	SequenceNumber  int32           `json:"sequence_number"`
	IsFinal         bool            `json:"is_final"`
	Timestamp       time.Time       `json:"timestamp,omitzero"`
	ReceivedAt      time.Time       `json:"received_at,omitzero"`
}

type endLine struct {
	Event        string         `json:"event"`
	CommandID    uuid.UUID      `json:"command_id"`
	Status       vehicle.Status `json:"status"`
	CompletedAt  time.Time      `json:"completed_at,omitzero"`
	ErrorMessage string         `json:"error_message,omitempty"`
	Chunks       int            `json:"chunks"`
	Replayed     int            `json:"replayed"`
	Attempts     int            `json:"attempts"`
}

func (j *jsonLines) Begin(ctx context.Context, cmd vehicle.Command) error {
	if j.w == nil {
		return errors.New("sink: JSONLines: the writer is nil")
	}
	var lines bytes.Buffer
	err := encoder(&lines).Encode(beginLine{
		Event:       "begin",
		CommandID:   cmd.ID,
		VehicleID:   cmd.VehicleID,
		UserID:      cmd.UserID,
		CommandName: cmd.Name,
		StartedAt:   time.Now().UTC(),
	})
	if err != nil {
		return fmt.Errorf("sink: JSONLines: %w", err)
	}
	return j.write(ctx, lines.Bytes())
}

func (j *jsonLines) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	var lines bytes.Buffer
	enc := encoder(&lines)
	for _, chunk := range chunks {
		err := enc.Encode(responseLine{
			Event:           "response",
			CommandID:       chunk.CommandID,
			ResponseID:      chunk.ID(),
			ResponsePayload: chunk.Payload,
			SequenceNumber:  chunk.Seq,
			IsFinal:         chunk.Final,
			Timestamp:       chunk.Timestamp.UTC(),
			ReceivedAt:      chunk.ReceivedAt.UTC(),
		})
		if err != nil { // its text may quote the payload
			return fmt.Errorf("sink: JSONLines: chunk %d of command %s cannot be encoded", chunk.Seq, chunk.CommandID)
		}
	}
	return j.write(ctx, lines.Bytes())
}

func (j *jsonLines) End(ctx context.Context, res vehicle.Result) error {
	line := endLine{
		Event:       "status",
		CommandID:   res.Command.ID,
		Status:      res.Status,
		CompletedAt: res.FinishedAt.UTC(),
		Chunks:      res.Chunks,
		Replayed:    res.Replayed,
		Attempts:    res.Attempts,
	}
	if res.Status == vehicle.StatusFailed {
		line.Event = "error"
	}
	if res.Err != nil {
		line.ErrorMessage = res.Err.Error()
	}
	var lines bytes.Buffer
	if err := encoder(&lines).Encode(line); err != nil {
		return fmt.Errorf("sink: JSONLines: %w", err)
	}
	return j.write(ctx, lines.Bytes())
}

func encoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // payloads stay as they came
	return enc
}

func (j *jsonLines) write(ctx context.Context, lines []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sink: JSONLines: %w", err)
	}
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return fmt.Errorf("sink: JSONLines: %w", ctx.Err())
	}
	if len(lines) == 0 {
		return nil
	}
	torn := j.torn
	if torn {
		lines = append([]byte{'\n'}, lines...)
	}
	j.torn = true // where it panics, perhaps
	n, err := j.w.Write(lines)
	j.torn = torn
	if err == nil && n < len(lines) {
		err = io.ErrShortWrite
	}
	if 0 < n && n <= len(lines) {
		j.torn = lines[n-1] != '\n'
	}
	if err != nil {
		return fmt.Errorf("sink: JSONLines: %w", err)
	}
	return nil
}
