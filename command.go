package vehicle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/uuid5"
	"github.com/sovd-go/vehicle/vehiclepb"
)

// Command is one diagnostic command for one vehicle. It is a plain value: copies are independent but
// for Params, which the SDK copies (one level deep) when the command starts.
type Command struct {
	// ID is the command's identity and the vehicle's idempotency key: it is the same on every
	// attempt. The zero UUID asks the SDK to assign a random one. A command may be run again under its
	// ID, but with sinks not twice at once: the second is [ErrInvalidCommand].
	ID uuid.UUID
	// VehicleID names the vehicle. Required.
	VehicleID uuid.UUID
	// Name is the command, for example "ReadDTC". Required.
	Name string
	// Params are the command's parameters. A string is sent as it is, any other value, of a named
	// string type too, as its JSON text. The SDK never writes the values to logs or errors.
	Params map[string]any
	// UserID says who asked, for the audit trail. Optional; it is not sent to the vehicle.
	UserID uuid.UUID
	// Once marks a command that must not run twice (an actuator, an ECU reset): it is never sent
	// again once the vehicle may have seen it.
	Once bool
}

// Chunk is one part of a vehicle's answer.
type Chunk struct {
	CommandID uuid.UUID
	VehicleID uuid.UUID
	// Seq is the chunk's sequence number. Numbers count up by one, from 0 (older vehicles: from 1).
	Seq int32
	// Payload is valid JSON: "null" where the vehicle sent no data. It belongs to the receiver of
	// the chunk, which may keep it and must not change it while others read it. One that is kept may hold more in memory: of a message
	// of 4 KiB or more, what that arrived in, up to 16 KiB; else up to 1 KiB.
	Payload json.RawMessage
	// Final is set on the answer's last chunk.
	Final bool
	// Timestamp is the vehicle's clock, in UTC; zero where it was absent or unreadable.
	Timestamp time.Time
	// ReceivedAt is this process's clock when the chunk came in.
	ReceivedAt time.Time
}

// ID identifies the chunk wherever it is stored or announced. It is a UUIDv5 (RFC 9562, section 5.5)
// with the command's ID as namespace and Seq in decimal as name: the same on every replay, in every
// process.
func (c Chunk) ID() uuid.UUID {
	var room [11]byte // for the longest int32
	return uuid5.New(c.CommandID, strconv.AppendInt(room[:0], int64(c.Seq), 10))
}

// Status is where a command stands. The values are those that the commands table stores.
type Status string

// A command is pending until its first sink has begun, in progress until its answer has ended, and
// then completed or failed. There is no fifth state: a command that was cancelled or that timed out
// has failed, and [Result].Err says how.
const (
	StatusPending    Status = "pending"
	StatusInProgress Status = "in_progress"
	StatusCompleted  Status = "completed"
	StatusFailed     Status = "failed"
)

// Result says how a command ended and how far it got.
type Result struct {
	// Command is the command that ran, with the ID that it ran under.
	Command Command
	// Status is StatusCompleted or StatusFailed.
	Status Status
	// Err is nil for a completed command, and otherwise the *[Error] that Execute returns. A sink that another one serves, as
	// sink.Chain does, may get one of another type, which matches [ErrSink].
	Err error
	// Chunks counts the chunks that the sinks took; without sinks, those that came in order.
	Chunks int
	// Replayed counts the chunks that came again and were dropped.
	Replayed int
	// Attempts counts the attempts, also those that found no connection.
	Attempts int
	// StartedAt and FinishedAt are this process's clock, before Begin and before End.
	StartedAt  time.Time
	FinishedAt time.Time
}

// prepared is a command that passed its checks: the copy that runs, and the request on the wire.
type prepared struct {
	Command
	request *vehiclepb.CommandRequest
}

// prepare checks cmd, assigns its ID, and encodes it. Its errors name what is wrong, and never a
// parameter's value.
func prepare(cmd Command) (prepared, error) {
	if cmd.ID == uuid.Nil {
		cmd.ID = uuid.New()
	}
	cmd.Params = maps.Clone(cmd.Params)
	p := prepared{Command: cmd}
	switch {
	case strings.TrimSpace(cmd.Name) == "":
		return p, errors.New("the command has no Name")
	case !utf8.ValidString(cmd.Name):
		return p, errors.New("the command's Name is not valid UTF-8")
	case cmd.VehicleID == uuid.Nil:
		return p, errors.New("the command has no VehicleID")
	}
	params, err := encodeParams(cmd.Params)
	if err != nil {
		return p, err
	}
	p.request = &vehiclepb.CommandRequest{
		CommandId:     cmd.ID.String(),
		VehicleId:     cmd.VehicleID.String(),
		CommandName:   cmd.Name,
		CommandParams: params,
	}
	return p, nil
}

func encodeParams(params map[string]any) (map[string]string, error) {
	if len(params) == 0 {
		return nil, nil
	}
	encoded := make(map[string]string, len(params))
	var firstKey string
	var first error
	for key, value := range params {
		text, err := encodeParam(value)
		switch {
		case err != nil:
			err = fmt.Errorf("parameter %q %w", foreign.Text(key), err)
		case !utf8.ValidString(key) || !utf8.ValidString(text):
			err = fmt.Errorf("parameter %q is not valid UTF-8", foreign.Text(key))
		}
		if err != nil && (first == nil || key < firstKey) { // the same fault, the same error
			firstKey, first = key, err
		}
		encoded[key] = text
	}
	return encoded, first
}

func encodeParam(value any) (text string, err error) {
	if s, ok := value.(string); ok {
		return s, nil
	}
	defer func() { // a MarshalJSON of the caller's may panic
		if recover() != nil {
			err = unencodable(value, nil)
		}
	}()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return "", unencodable(value, err)
	}
	return strings.TrimSuffix(buf.String(), "\n"), nil
}

// unencodable names the value's type only: the texts of JSON errors can hold the value.
func unencodable(value any, cause error) error {
	return &redacted{text: fmt.Sprintf("of type %T cannot be encoded as JSON", value), cause: cause}
}

// redacted is an error whose cause can be found by errors.As and is not in its text.
type redacted struct {
	text  string
	cause error
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.cause }
