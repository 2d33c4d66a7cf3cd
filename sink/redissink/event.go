package redissink

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/jsonquote"
)

// The kinds of events.
const (
	kindResponse = "response"
	kindStatus   = "status"
	kindError    = "error"
)

// Event is one event of a command: a chunk of its answer ("response"), or its end ("status" where it
// completed, "error" where it failed), after which nothing comes. Its JSON is what is published, with
// the fields of its kind and no others:
//
//	{"event":"response","command_id":…,"response_id":…,"response_payload":…,"sequence_number":…,"is_final":…}
//	{"event":"status","command_id":…,"status":"completed","completed_at":…}
//	{"event":"error","command_id":…,"status":"failed","completed_at":…,"error_message":…}
type Event struct {
	Event     string // "response", "status" or "error"
	CommandID uuid.UUID

	// Of a response.
	ResponseID uuid.UUID       // vehicle.Chunk.ID: the same for every publication of a chunk
	Payload    json.RawMessage // as the vehicle sent it
	Seq        int32
	Final      bool

	// Of a status and an error.
	Status       vehicle.Status
	CompletedAt  time.Time // UTC, in microseconds
	ErrorMessage string    // of an error
}

func responseEvent(c vehicle.Chunk) Event {
	return Event{
		Event: kindResponse, CommandID: c.CommandID,
		ResponseID: c.ID(), Payload: c.Payload, Seq: c.Seq, Final: c.Final,
	}
}

func endEvent(res vehicle.Result) Event {
	e := Event{Event: kindStatus, CommandID: res.Command.ID, Status: res.Status, CompletedAt: res.FinishedAt}
	if res.Status != vehicle.StatusCompleted {
		e.Event, e.Status, e.ErrorMessage = kindError, vehicle.StatusFailed, message(res.Err)
	}
	return e
}

// message is an error's text for everybody's eyes. That of an *Error of the SDK is made for it; any
// other may hold what a driver put there, and only what kind of error it is gets out.
func message(err error) string {
	var e *vehicle.Error
	switch {
	case errors.As(err, &e):
		return e.Error()
	case errors.Is(err, vehicle.ErrSink):
		return vehicle.ErrSink.Error()
	default:
		return "vehicle: command failed"
	}
}

// terminal says whether the event is the last one of its command.
func (e Event) terminal() bool { return e.Event != kindResponse }

// MarshalJSON fails for an Event of no known kind, and for a Payload that is not JSON. The payload
// stays as it is; [json.Marshal] then compacts it and escapes <, > and & in it, as it does with
// every MarshalJSON.
func (e Event) MarshalJSON() ([]byte, error) {
	switch e.Event {
	case kindResponse:
		if len(e.Payload) > 0 && !json.Valid(e.Payload) {
			return nil, errors.New("redissink: the Payload is not JSON")
		}
	case kindStatus, kindError:
	default:
		return nil, fmt.Errorf("redissink: no event is called %q", e.Event)
	}
	return e.appendJSON(nil), nil
}

// appendJSON is MarshalJSON without the checks, for events of our own: a payload was found to be JSON
// when it came in.
func (e Event) appendJSON(b []byte) []byte {
	b = append(b, `{"event":"`...)
	b = append(b, e.Event...)
	b = append(b, `","command_id":"`...)
	b = appendUUID(b, e.CommandID)
	if e.Event == kindResponse {
		b = append(b, `","response_id":"`...)
		b = appendUUID(b, e.ResponseID)
		b = append(b, `","response_payload":`...)
		if len(e.Payload) == 0 {
			b = append(b, "null"...)
		}
		b = append(b, e.Payload...)
		b = append(b, `,"sequence_number":`...)
		b = strconv.AppendInt(b, int64(e.Seq), 10)
		b = append(b, `,"is_final":`...)
		b = strconv.AppendBool(b, e.Final)
		return append(b, '}')
	}
	b = append(b, `","status":`...)
	b = jsonquote.Append(b, string(e.Status))
	b = append(b, `,"completed_at":"`...)
	b = e.CompletedAt.UTC().AppendFormat(b, timeFormat)
	b = append(b, '"')
	if e.Event == kindError {
		b = append(b, `,"error_message":`...)
		b = jsonquote.Append(b, e.ErrorMessage)
	}
	return append(b, '}')
}

// timeFormat is RFC 3339 with microseconds, which is what Python and PostgreSQL keep.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

func appendUUID(b []byte, id uuid.UUID) []byte {
	b = hex.AppendEncode(b, id[:4])
	for _, part := range [][]byte{id[4:6], id[6:8], id[8:10], id[10:]} {
		b = append(b, '-')
		b = hex.AppendEncode(b, part)
	}
	return b
}

// errUnknownKind is a message that is well formed and of a kind that others publish.
var errUnknownKind = errors.New("redissink: unknown kind of event")

// UnmarshalJSON reads what MarshalJSON writes and what the existing web application publishes, whose
// times may lack a zone (then they are UTC). Fields of other kinds are ignored. Its errors hold nothing
// of the data.
func (e *Event) UnmarshalJSON(data []byte) error {
	var wire struct {
		Event        string          `json:"event"`
		CommandID    *uuid.UUID      `json:"command_id"`
		ResponseID   *uuid.UUID      `json:"response_id"`
		Payload      json.RawMessage `json:"response_payload"`
		Seq          *int32          `json:"sequence_number"`
		Final        bool            `json:"is_final"`
		Status       vehicle.Status  `json:"status"`
		CompletedAt  string          `json:"completed_at"`
		ErrorMessage string          `json:"error_message"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return errors.New("redissink: the data is not an event")
	}
	if wire.CommandID == nil {
		return errors.New("redissink: the event has no command_id")
	}
	event := Event{Event: wire.Event, CommandID: *wire.CommandID}
	switch wire.Event {
	case kindResponse:
		if wire.ResponseID == nil || wire.Seq == nil || wire.Payload == nil {
			return errors.New("redissink: the response lacks response_id, response_payload or sequence_number")
		}
		event.ResponseID, event.Payload, event.Seq, event.Final = *wire.ResponseID, wire.Payload, *wire.Seq, wire.Final
	case kindStatus, kindError:
		event.Status = wire.Status
		if wire.CompletedAt != "" {
			at, err := parseTime(wire.CompletedAt)
			if err != nil {
				return errors.New("redissink: completed_at is not a time")
			}
			event.CompletedAt = at
		}
		if wire.Event == kindError {
			event.ErrorMessage = wire.ErrorMessage
		}
	default:
		return errUnknownKind
	}
	*e = event
	return nil
}

// parseTime reads RFC 3339 and Python's datetime.isoformat, which leaves the zone out where none was
// given.
func parseTime(text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		at, err = time.Parse("2006-01-02T15:04:05.999999999", text)
	}
	if at = at.UTC(); at.Year() < 0 || at.Year() > 9999 { // a zone has moved it out of what RFC 3339 can say
		return time.Time{}, errors.New("out of range")
	}
	return at, err
}
