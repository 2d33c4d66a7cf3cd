package pgsink

import (
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// buffers are the two in which pgx encodes a transaction: a statement's arguments, and the messages that go to the server. pgx
// drops both where they have held more than a little, and has them grow by a quarter at a time in the next transaction. That
// is a quarter of all that a backend with short commands allocates, in the pieces that cost the most.
//
// They belong to the connection and never leave it. So it does not matter when pgx lets go of one.
type buffers struct {
	arguments, messages []byte
	own                 bool // a batch's messages are encoded in memory of its own
}

// maxBuffer is how many bytes of each a connection keeps. Two thousand rows of 400 bytes fit.
const maxBuffer = 1 << 20

// minBuffer is what pgx keeps itself.
const minBuffer = 1 << 10

// lendBuffers has the connection encode the batch in its buffers.
func lendBuffers(conn *pgx.Conn, batch *pgx.Batch) {
	const perStatement = 256 // of names, formats, and messages without arguments
	messages := 0
	for _, q := range batch.QueuedQueries {
		size := encodedSize(q.Arguments)
		messages += perStatement + size
		if size < minBuffer {
			continue
		}
		if ids, ok := q.Arguments[0].(array[pgtype.UUID]); ok {
			q.Arguments[0] = firstArgument{ids, size}
		}
	}
	if messages < minBuffer {
		return
	}
	if b := buffersOf(conn); !b.own {
		conn.PgConn().Frontend().Send(room{b, messages})
	}
}

// buffersOf are kept with the connection, which ends with them.
func buffersOf(conn *pgx.Conn) *buffers {
	const key = "github.com/sovd-go/vehicle/sink/pgsink"
	kept := conn.PgConn().CustomData()
	if b, ok := kept[key].(*buffers); ok {
		return b
	}
	// This mode sends no batch from the frontend, which would keep what it is lent, however large.
	b := &buffers{own: conn.Config().DefaultQueryExecMode == pgx.QueryExecModeExec}
	kept[key] = b
	types := conn.TypeMap()
	types.TryWrapEncodePlanFuncs = slices.Insert(slices.Clone(types.TryWrapEncodePlanFuncs), 0, b.tryWrap)
	return b
}

// lend copies what has been encoded to a buffer that has room for size bytes more, and keeps it for the next time.
func lend(kept *[]byte, encoded []byte, size int) []byte {
	size += len(encoded)
	switch {
	case cap(encoded) >= size:
		return encoded
	case size > maxBuffer:
		return append(make([]byte, 0, size), encoded...)
	case cap(*kept) < size: // what grows once does so again
		*kept = make([]byte, 0, min(max(size, 2*cap(*kept)), maxBuffer))
	}
	return append((*kept)[:0], encoded...)
}

// room is a message of no bytes. It comes before the others of a transaction.
type room struct {
	buffers *buffers
	size    int
}

func (r room) Encode(messages []byte) ([]byte, error) {
	return lend(&r.buffers.messages, messages, r.size), nil
}
func (room) Decode([]byte) error { return nil }
func (room) Frontend()           {}

// firstArgument is the first of a statement's arguments, with how many bytes all of them take.
type firstArgument struct {
	ids  array[pgtype.UUID]
	size int
}

// MarshalJSON is for an application's tracer that logs the arguments.
func (a firstArgument) MarshalJSON() ([]byte, error) { return json.Marshal(a.ids) }

// tryWrap is asked by pgx for what it cannot encode itself.
func (b *buffers) tryWrap(value any) (pgtype.WrappedEncodePlanNextSetter, any, bool) {
	first, ok := value.(firstArgument)
	return &firstPlan{buffers: b}, first.ids, ok
}

// firstPlan encodes a firstArgument.
type firstPlan struct {
	buffers *buffers
	next    pgtype.EncodePlan
}

func (p *firstPlan) SetNext(next pgtype.EncodePlan) { p.next = next }

func (p *firstPlan) Encode(value any, encoded []byte) ([]byte, error) {
	first, _ := value.(firstArgument) // tryWrap lets nothing else through
	return p.next.Encode(first.ids, lend(&p.buffers.arguments, encoded, first.size))
}

// encodedSize is how many bytes the arguments take in PostgreSQL's binary format.
func encodedSize(arguments []any) (n int) {
	const header, length = 20, 4 // of an array, of an element
	for _, argument := range arguments {
		n += header
		switch a := argument.(type) {
		case array[pgtype.UUID]:
			n += (length + 16) * len(a)
		case array[pgtype.Text]:
			for _, text := range a {
				n += length + len(text.String)
			}
		case array[pgtype.Timestamptz]:
			n += (length + 8) * len(a)
		case []int32:
			n += (length + 4) * len(a)
		case []bool:
			n += (length + 1) * len(a)
		}
	}
	return n
}
