package pgsink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/sovd-go/vehicle/internal/sinkcall"
	"github.com/sovd-go/vehicle/internal/within"
)

// Errors that are about the command, not about the database.
var (
	// ErrClaimed is returned by Begin of a Sink made with [WithClaim]: another caller has the command.
	ErrClaimed = errors.New("pgsink: the command has been claimed by another caller")
	// ErrRunning is returned by Begin: the command is running in this Sink, and the chunks of two runs
	// could not be told apart.
	ErrRunning = errors.New("pgsink: the command is already running in this process")
	// ErrReplaced is returned by Write and End of a run whose rows another run of the same command has
	// replaced, in another process. What the other run stored is left alone.
	ErrReplaced = errors.New("pgsink: another run of the command has replaced this one")
	// ErrClosed is returned by Begin, Write and End after [Sink.Close]. [Sink.History] and [Sink.Recover] go on as long
	// as the pool is open.
	ErrClosed = errors.New("pgsink: the sink is closed")
)

// dbError is a failure of the database, told without the values that PostgreSQL's details can quote.
// [errors.As] reaches the *[pgconn.PgError] behind it.
type dbError struct {
	text  string
	cause error
}

func (e *dbError) Error() string { return "pgsink: " + e.text }
func (e *dbError) Unwrap() error { return e.cause }

func newDBError(err error) error {
	err = sinkcall.Call(func() error { return err }) // a hook of the pool's may have returned a nil pointer, which has no text
	if err == nil {
		return nil
	}
	var known *dbError
	if errors.As(err, &known) || errors.Is(err, ErrClosed) {
		return err
	}
	return &dbError{text: describe(err), cause: err}
}

// describe is an error's text for logs.
func describe(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return describePg(pg)
	}
	if panicked, ok := errors.AsType[*within.PanicError](err); ok {
		return panicked.Error()
	}
	if isConnectionError(err) || ofPgx.MatchString(err.Error()) {
		return err.Error()
	}
	return fmt.Sprintf("unexpected error of type %T", err) // its text may quote an argument
}

// ofPgx is what pgx says where the session or the pool does not fit its mode. It has no errors to compare with.
var ofPgx = regexp.MustCompile(`^(simple protocol queries must be run with \w+=\w+|cannot use QueryExecMode\w+ with disabled \w+ cache)$`)

func describePg(pg *pgconn.PgError) string {
	text := "PostgreSQL error " + pg.Code
	if inFunction(pg) { // which may quote what it likes
		return text + " in a function of the database"
	}
	if quotesNoValues(pg.Code) {
		text += ": " + pg.Message
	}
	if pg.Code == codeForeignKey && missingKey.MatchString(pg.Detail) {
		text += " (" + pg.Detail + ")" // which vehicle or user is unknown
	}
	switch pg.Code {
	case codeUndefinedTable:
		text += " (are the tables in another schema? see Migrate and WithSchema)"
	case "26000", "42P05":
		text += " (behind PgBouncer? see the package's documentation)"
	}
	return text
}

// inFunction says whether a function of the database raised the error, such as a trigger's. It may choose any code. One in SQL
// is known by the query that the error is in, which is then not ours, and once it runs, where the server's messages are in English,
// by its name. A foreign key's check has neither.
func inFunction(pg *pgconn.PgError) bool {
	return pg.InternalQuery != "" || ofFunction.MatchString(pg.Where)
}

// ofFunction is a line of an error's context that names a function, in most languages. Other lines may quote what we sent, behind a colon:
// a server with log_parameter_max_length_on_error does.
var ofFunction = regexp.MustCompile(`(?m)^([^:"]*PL/|SQL function ")`)

// missingKey is the detail of a foreign key's violation where the key is one of our ids.
var missingKey = regexp.MustCompile(`^[^()]*\([a-z_]+\)=\([0-9a-f-]{36}\)[^()]*$`)

// quotesNoValues says whether the message of an error, as opposed to its detail, is free of row data.
// Those of the classes left out can quote their input, above all 22 (data exception).
func quotesNoValues(code string) bool {
	switch code {
	case "22001", "22021", "22P05":
		return true
	}
	switch class(code) {
	case "08", "23", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58":
		return true
	default:
		return false
	}
}

func class(code string) string {
	if len(code) < 2 {
		return ""
	}
	return code[:2]
}

// SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	codeForeignKey       = "23503"
	codeUnique           = "23505"
	codeReadOnly         = "25006"
	codeUndefinedTable   = "42P01"
	codeDiskFull         = "53100"
	codeLockNotAvailable = "55P03"
	codeCanceled         = "57014" // by statement_timeout, or by an administrator
	codeSerialization    = "40001"
	codeDeadlock         = "40P01"
)

// verdict says what is to become of a transaction that failed.
type verdict int

const (
	// blame: one of the operations is at fault. Which, is found by dividing them.
	blame verdict = iota
	// stuck: another transaction has locked a row or keeps one out, or a statement took too long. Which of the operations is
	// concerned is found by dividing, and it is tried again alone.
	stuck
	// contended: the same again may succeed at once.
	contended
	// down: the server could not be reached, or cannot serve now.
	down
	// hopeless: no transaction would succeed.
	hopeless
)

// judge gives the verdict on err. alive says whether the connection survived it.
func judge(err error, alive bool) verdict {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, ErrClosed), errors.Is(err, puddle.ErrClosedPool):
		return hopeless
	case errors.As(err, new(*within.PanicError)), errors.Is(err, errEncoding):
		return hopeless
	case errors.Is(err, errRaced):
		return stuck
	case !errors.As(err, &pg):
		if alive {
			return blame
		}
		return down
	}
	v := judgeCode(pg.Code)
	if !alive || !inFunction(pg) {
		return v
	}
	switch v { // what a function says of the server may be so for one command alone: it lacks its tenant's table, say
	case contended, down:
		return stuck
	case hopeless:
		return blame
	default:
		return v
	}
}

func judgeCode(code string) verdict {
	switch code {
	case codeLockNotAvailable, codeCanceled:
		return stuck
	case codeSerialization, codeDeadlock:
		return contended
	case codeReadOnly, codeUndefinedTable, codeDiskFull:
		return hopeless
	case "57P01", "57P02", "57P03", "57P05", // the server stops, crashed, starts; the session was idle
		"53000", "53200", "53300", // resources: memory, connections
		"40003", "55006":
		return down
	}
	switch class(code) {
	case "08":
		return down
	case "28", "3D", "3F": // not authorized, no such database, no such schema
		return hopeless
	}
	return blame
}

// isJSONError says whether the server may have refused a text as jsonb: not valid, not representable, too large, too
// deep.
func isJSONError(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || inFunction(pg) { // a trigger has seen the value, and refused it
		return false
	}
	switch pg.Code {
	case "22P02", "22P05", "22003", "22032", "54000", "54001",
		"0A000": // an escape, where the server's encoding is SQL_ASCII
		return true
	default:
		return false
	}
}

// isConnectionError says whether err is about reaching the server. Such errors quote addresses only.
func isConnectionError(err error) bool {
	var connect *pgconn.ConnectError
	var timeout interface{ Timeout() bool } // net.Error without the deprecated half
	return errors.As(err, &connect) || errors.As(err, &timeout) || pgconn.SafeToRetry(err) ||
		errors.Is(err, errNoConnection) || errors.Is(err, errAttemptTime) || errors.Is(err, puddle.ErrClosedPool) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled)
}

// errNoConnection and errAttemptTime are the causes of our own time limits.
var (
	errNoConnection = fmt.Errorf("no connection of the pool became free within %v", acquireTime)
	errAttemptTime  = fmt.Errorf("the transaction was not done within %v", attemptTime)
)

// errNoReturn is of a transaction amid which code of the application's ended the goroutine that was to do it.
var errNoReturn = &dbError{text: "a hook or a tracer of the pool ended its goroutine", cause: errors.New("runtime.Goexit was called")}

// errEncoding is of a connection through which texts would arrive as other texts.
var errEncoding = errors.New("client_encoding is not UTF8")

// checkEncoding refuses a connection whose server would take our UTF-8 for something else, and answer in it. Through SQL_ASCII bytes go as
// they are, and the server takes them to be in its own encoding.
func checkEncoding(conn *pgx.Conn) error {
	told := conn.PgConn().ParameterStatus("client_encoding")
	if told == "UTF8" { // nearly always
		return nil
	}
	encoding := encodingName(told)
	if encoding == "SQLASCII" {
		encoding = encodingName(conn.PgConn().ParameterStatus("server_encoding"))
	}
	switch encoding {
	case "UTF8", "UNICODE", "SQLASCII", "": // not every server says so
		return nil
	default:
		return &dbError{text: "the connection's client_encoding is " + told + ", not UTF8 (add client_encoding=UTF8 to the connection string)", cause: errEncoding}
	}
}

// encodingName is the name of an encoding as PostgreSQL compares it. PgBouncer says it as it was asked for.
func encodingName(s string) string { return strings.ToUpper(notInNames.ReplaceAllString(s, "")) }

// notInNames is what PostgreSQL passes over in the name of an encoding.
var notInNames = regexp.MustCompile(`[^A-Za-z0-9]`)

func isUniqueViolation(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == codeUnique
}

func isAttemptTime(err error) bool { return errors.Is(err, errAttemptTime) }

// left is the error of a call whose ctx ended before its operation was done.
func left(ctx context.Context, last error) error {
	if last == nil {
		return fmt.Errorf("pgsink: %w while waiting for the database", ctx.Err())
	}
	return fmt.Errorf("pgsink: %w while retrying: %w", ctx.Err(), last)
}

// retriedFor is the error of an operation that failed for too long.
func retriedFor(d time.Duration, last error) error {
	return fmt.Errorf("pgsink: gave up after %v of retries: %w", d, last)
}
