package pgsink

import (
	"time"

	"github.com/jackc/pgx/v5"
)

// NastyPayloads are those of the tests in this package, for those that have a server.
func NastyPayloads(yield func(name, text string, plain bool)) {
	for _, p := range nastyPayloads {
		yield(p.name, p.text, p.plain)
	}
}

// Wrap is how a text is stored that jsonb cannot hold.
func Wrap(text string) string { return wrap([]byte(text)) }

// Kept is the memory that the connection keeps for what pgx encodes.
func Kept(conn *pgx.Conn) (arguments, messages []byte) {
	b := buffersOf(conn)
	return b.arguments, b.messages
}

// MaxBuffer bounds each of the two.
const MaxBuffer = maxBuffer

// WaitAhead has a second half wait for the first as long as it takes, however busy the machine is.
func WaitAhead(s *Sink) *Sink {
	s.waitAhead = time.Hour
	return s
}
