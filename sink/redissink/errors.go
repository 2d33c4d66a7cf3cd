package redissink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

var (
	// ErrGap ends a [Follow] that cannot give every event: some were trimmed from the stream, expired,
	// or were lost by Redis; or there is no stream and the subscription was cut. The text says which.
	// What the database has of the command is not affected.
	ErrGap = errors.New("redissink: events are missing")
	// ErrRestarted ends a [Follow] in whose midst the command was run again: what it gave belongs to a
	// run that was replaced. Follow again to get the other run's events.
	ErrRestarted = errors.New("redissink: the command was run again")
	// ErrSuperseded is returned by Write and End of a run that another one has replaced, in this
	// process or, with streams, elsewhere. Its events are not published.
	ErrSuperseded = errors.New("redissink: another run of the command has replaced this one")
	// ErrClosed is returned by Begin, Write and End after [Sink.Close]. [Follow] needs no Sink.
	ErrClosed = errors.New("redissink: sink closed")
)

// opError says which operation failed, for which command.
type opError struct {
	op        string
	commandID uuid.UUID
	err       error
}

func (e *opError) Error() string {
	return fmt.Sprintf("redissink: %s of command %s: %s", e.op, e.commandID, text(e.err))
}

// Unwrap gives the error as it was; its text may hold what [opError.Error] leaves out.
func (e *opError) Unwrap() error { return e.err }

// text is an error's text without what Redis may quote of a command that it does not know: its
// arguments, which are payloads.
func text(err error) string {
	s := err.Error()
	if i := strings.Index(s, "with args beginning with"); i >= 0 {
		s = strings.TrimRight(s[:i], ", ")
	}
	return strings.TrimPrefix(s, "redissink: ")
}

// Errors of ours that the retries look at.
var (
	errAgain  = errors.New("to be done again at once")
	errSilent = errors.New("the connection is silent")
	// errNoReturn is of a pipeline amid which a hook ended the goroutine that was to send it.
	errNoReturn = errors.New("a hook of the Redis client ended its goroutine")
	// errForeign is what reading again does not change.
	errForeign = errors.New("the stream has an entry that is not of a Sink")
)

// transient says whether trying again may help: the connection was lost, or Redis is restarting, failing
// over or short of connections. What Redis refuses for good (no permission, no memory, a wrong type)
// is not.
func transient(err error) bool {
	var refused redis.Error
	var unverified *tls.CertificateVerificationError
	var unknownCA x509.UnknownAuthorityError
	var dns *net.DNSError
	switch {
	case errors.Is(err, redis.ErrClosed), errors.Is(err, ErrClosed), errors.Is(err, ErrSuperseded), errors.Is(err, errForeign),
		errors.As(err, &unverified), errors.As(err, &unknownCA):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &refused):
		return transientReply(refused.Error())
	default:
		return true
	}
}

// transientReply goes by the code that begins an error reply. Redis 6.2 puts its own text before that of an error in a script:
// where the error came up, and "ERR Error running script" if the script did not catch it.
func transientReply(reply string) bool {
	if strings.HasPrefix(reply, "ERR Error running script") || strings.HasPrefix(reply, "@user_script:") {
		if i := strings.LastIndex(reply, ": -"); i >= 0 {
			reply = reply[i+len(": -"):]
		}
	}
	// A cluster says "clients + cluster connections".
	if strings.HasPrefix(reply, "ERR max number of clients") {
		return true
	}
	// A script has deleted a stream whose slot is being moved: from now on the cluster sends to the other node.
	if strings.Contains(reply, "cript attempted to access a non local key") {
		return true
	}
	code, _, _ := strings.Cut(reply, " ")
	switch code {
	case "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY", "MOVED", "ASK":
		return true
	default:
		return false
	}
}
