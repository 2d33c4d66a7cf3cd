package pgsink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/jsonquote"
	"github.com/sovd-go/vehicle/internal/uuid5"
)

// op is what one call asks of the database. Of the caller's it refers to the payloads, which a Sink may keep, and to no slice
// that is used again: the caller may be gone before it is done.
type op struct {
	command uuid.UUID
	// One of these says what is asked, or rows and end together.
	begin  *beginning
	rows   *rows
	end    *ending
	settle string // the token to be removed of a claim that succeeded; nobody waits for it

	ctx  context.Context // of the caller, or the Sink's where it has none
	done chan struct{}   // closed when err is set
	err  error

	after  *op           // the first half of the batch of which this is the second
	failed chan struct{} // of a first half: closed when it has failed once

	// The following belong to Sink.mu.
	ahead     bool // it is to be stored while its first half is
	abandoned bool
	last      error     // the last failure of those that may pass
	until     time.Time // no retry after it
	tries     int       // that got stuck: it is not tried with others any more
	notBefore time.Time
	company   int // how many may be in a transaction with it, since one ran out of its time; 0: as many as may be
}

// mark tells the rows of one run from those of another, in tables that have no column for it: the run's
// first chunk is stored with the time when this run received it.
type mark struct {
	id     uuid.UUID // of the first chunk; before it, of the chunk that should come first
	at     time.Time // zero before the first chunk
	stored bool      // the first chunk is known to be stored
}

func unmarked(command uuid.UUID) mark {
	return mark{id: vehicle.Chunk{CommandID: command}.ID()}
}

type beginning struct {
	cmd    vehicle.Command
	params string
	token  string // of the claim; "" without one
	there  bool   // the row may be there, and other runs' chunks
	again  bool   // it may have begun, and is done again so as to be sure
}

// maxName is how many characters commands.command_name holds.
const maxName = 100

func newBegin(cmd vehicle.Command, claim bool) (*op, error) {
	switch {
	case !utf8.ValidString(cmd.Name) || strings.ContainsRune(cmd.Name, 0):
		return nil, errors.New("pgsink: the command's name holds what PostgreSQL's text cannot")
	case utf8.RuneCountInString(cmd.Name) > maxName:
		return nil, fmt.Errorf("pgsink: the command's name has more than %d characters", maxName)
	}
	b := &beginning{cmd: cmd, params: "{}"}
	if len(cmd.Params) > 0 {
		text, err := encodeParams(cmd.Params)
		if err != nil {
			return nil, &dbError{text: "the command's parameters cannot be encoded as JSON", cause: err}
		}
		b.params, _ = toJSONB(text) // it is valid UTF-8
	}
	b.cmd.Params = nil // the caller's
	if claim {
		b.token = "claimed: " + uuid.NewString()
	}
	return &op{command: cmd.ID, begin: b, done: make(chan struct{})}, nil
}

// encodeParams is json.Marshal without reflection on what nearly all parameters are.
func encodeParams(params map[string]any) ([]byte, error) {
	var room [8]string
	names, size := room[:0], len("{}")
	for name, value := range params {
		text, _ := value.(string)
		names, size = append(names, name), size+len(name)+len(text)+len(`"":"",`)
	}
	slices.Sort(names)
	encoded := append(make([]byte, 0, size), '{')
	for i, name := range names {
		if i > 0 {
			encoded = append(encoded, ',')
		}
		encoded = append(jsonquote.Append(encoded, name), ':')
		if text, ok := params[name].(string); ok {
			encoded = jsonquote.Append(encoded, text)
			continue
		}
		value, err := json.Marshal(params[name])
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, value...)
	}
	return append(encoded, '}'), nil
}

// row is a chunk.
type row struct {
	id      pgtype.UUID
	seq     int32
	final   bool
	payload pgtype.Text
	at      pgtype.Timestamptz
}

// rows are a batch of chunks.
type rows struct {
	mark     mark
	all      []row
	bytes    int
	repeated bool // they may have been committed before
	wrapped  bool // all payloads are, because the server refused one of them as it was
}

// A transaction's size: large enough for what it costs by itself not to count (see BenchmarkRows), and small enough for those that
// wait behind it.
const (
	maxRows  = 4096
	maxBytes = 4 << 20
)

// newWrite takes as many of the chunks as fit into one transaction, at least one, and says how many. It sets the run's
// mark where it has none yet.
func newWrite(command uuid.UUID, chunks []vehicle.Chunk, m *mark) (*op, int, error) {
	n, size := 0, 0
	for n < len(chunks) && n < maxRows && (n == 0 || size+len(chunks[n].Payload) <= maxBytes) {
		size += len(chunks[n].Payload)
		n++
	}
	r := &rows{all: make([]row, n)}
	for i, c := range chunks[:n] {
		payload, ok := toJSONB(c.Payload)
		if !ok {
			return nil, 0, fmt.Errorf("pgsink: the payload of chunk %d is not valid UTF-8", c.Seq)
		}
		r.bytes += len(payload)
		c.CommandID = command
		r.all[i] = row{
			id: toUUID(c.ID()), seq: c.Seq, final: c.Final,
			payload: pgtype.Text{String: payload, Valid: true},
			at:      pgtype.Timestamptz{Time: toTime(c.ReceivedAt), Valid: true},
		}
	}
	if m.at.IsZero() {
		m.id, m.at = r.all[0].id.Bytes, r.all[0].at.Time
	}
	r.mark = *m
	return &op{command: command, rows: r, done: make(chan struct{})}, n, nil
}

// wrapAll wraps the payloads. One that is wrapped stays as it is.
func (r *rows) wrapAll() {
	for i := range r.all {
		payload := &r.all[i].payload.String
		*payload = wrap(unwrap([]byte(*payload)))
	}
	r.wrapped = true
}

type ending struct {
	mark    mark
	status  vehicle.Status
	message string // of a failure
	at      time.Time
	auditID pgtype.UUID
	action  string
	details string
	fresh   bool    // there can be nothing yet of the command but its row, unless this is done again
	revoked *ending // what was stored with the final chunk and did not come true
}

func newEnd(res vehicle.Result, m mark) *op {
	return &op{command: res.Command.ID, end: newEnding(res, m), done: make(chan struct{})}
}

func newEnding(res vehicle.Result, m mark) *ending {
	e := &ending{mark: m, status: res.Status, at: toTime(res.FinishedAt)}
	details := jsonquote.Append([]byte(`{"command_name":`), toText(res.Command.Name))
	if res.Status == vehicle.StatusCompleted {
		e.action = "command_completed"
		details = strconv.AppendInt(append(details, `,"chunk_count":`...), int64(res.Chunks), 10)
	} else {
		e.action, e.status = "command_failed", vehicle.StatusFailed
		e.message = "failed for an unknown reason"
		if res.Err != nil {
			e.message = toText(res.Err.Error())
		}
		details = jsonquote.Append(append(details, `,"error":`...), e.message)
	}
	e.details = alias(append(details, '}'))
	e.auditID = toUUID(auditID(res.Command.ID, e.action))
	return e
}

// auditID is a UUIDv5, like [vehicle.Chunk.ID]: one row for each command and action, however often it is written.
func auditID(command uuid.UUID, action string) uuid.UUID {
	return uuid5.New(command, []byte("audit:"+action))
}

func toUUID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// toNullUUID makes NULL of the zero UUID.
func toNullUUID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: id != uuid.Nil} }

// toTime is t as PostgreSQL keeps it, in microseconds; now where t is zero.
func toTime(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Now()
	}
	return t.UTC().Truncate(time.Microsecond)
}

// toText is s as PostgreSQL's text can hold it.
func toText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
