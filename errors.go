package vehicle

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/internal/foreign"
)

// Error is what everything that runs a command returns. It says what happened, to which command on
// which vehicle, and how far the command got:
//
//	vehicle: ReadDTC on 123e4567-e89b-42d3-a456-426614174000 timed out: no final chunk within 30s (2 attempts, 3 chunks delivered)
//
// Compare with [errors.Is] against the sentinels of this package, against [context.Canceled] and
// [context.DeadlineExceeded]; reach a sink's own error with [errors.As]. An Error is not changed once
// it has been returned, and may be read by several goroutines.
type Error struct {
	// Code is the gRPC code: the server's where the server said so, and otherwise the one that fits
	// best. It is never codes.OK.
	Code codes.Code
	// Message is what went wrong, without payloads or parameters. A server's text is cut to 512
	// bytes, and what looks like a vehicle identification number in it is masked.
	Message string
	// CommandID, VehicleID and Name are the command's.
	CommandID uuid.UUID
	VehicleID uuid.UUID
	Name      string
	// Attempts counts the attempts, also those that found no connection; Chunks the chunks that the sinks took.
	Attempts int
	Chunks   int

	sentinel error       // one of the variables below; nil: the one that belongs to Code
	cause    error       // what Unwrap gives
	details  *spb.Status // the server's status, for its details
	neverRan bool        // see MayHaveRun; the zero value is the careful answer
}

// The sentinels: every [Error] matches exactly one of them under [errors.Is], unless its cause is an Error too: of a
// command that a sink ran, or of one whose failure cancelled the context.
var (
	// What the vehicle service said, or what came of asking it.

	// ErrInvalidCommand: the command failed its checks before it was sent, or the service answered
	// INVALID_ARGUMENT, FAILED_PRECONDITION or OUT_OF_RANGE.
	ErrInvalidCommand = errors.New("vehicle: invalid command")
	// ErrVehicleNotFound: the service does not know the vehicle (NOT_FOUND).
	ErrVehicleNotFound = errors.New("vehicle: vehicle not found")
	// ErrTimeout: the attempts ran out of time, or the caller's context did. It also matches
	// context.DeadlineExceeded. The vehicle may still run the command.
	ErrTimeout = errors.New("vehicle: timed out")
	// ErrUnavailable: the service could not be reached, or the link broke, more often than the
	// RetryPolicy bears. A TLS handshake that cannot succeed is also ErrUnavailable.
	ErrUnavailable = errors.New("vehicle: service unavailable")
	// ErrCanceled: the caller cancelled its context or left the loop before the final chunk (then it
	// also matches context.Canceled), or the service answered CANCELLED.
	ErrCanceled = errors.New("vehicle: canceled")
	// ErrUnauthorized: the service answered UNAUTHENTICATED or PERMISSION_DENIED.
	ErrUnauthorized = errors.New("vehicle: not authorized")
	// ErrOverloaded: the service answered RESOURCE_EXHAUSTED.
	ErrOverloaded = errors.New("vehicle: service overloaded")
	// ErrInternal: the service answered INTERNAL or any code not named above.
	ErrInternal = errors.New("vehicle: service error")

	// What the service sent was wrong. None of these is retried.

	// ErrMalformedResponse: a message could not be decoded, was over the size limit, answered another
	// command, or carried a payload that is not JSON.
	ErrMalformedResponse = errors.New("vehicle: malformed response")
	// ErrIncomplete: the service ended the answer normally and without a final chunk.
	ErrIncomplete = errors.New("vehicle: incomplete answer")
	// ErrSequence: the sequence numbers have a gap, or are out of order beyond the reorder window.
	ErrSequence = errors.New("vehicle: broken sequence")
	// ErrReplayDiverged: after a retry the service began another answer than the one that had been
	// delivered in part: the vehicle ran the command a second time. See [ResumeVerified].
	ErrReplayDiverged = errors.New("vehicle: replay diverged")

	// Ours.

	// ErrSink: a sink refused, failed, panicked, or was still writing when the attempt's time ran
	// out. errors.As reaches the sink's own error.
	ErrSink = errors.New("vehicle: sink failed")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("vehicle: client closed")
)

// kinds has, for each sentinel, the code that an Error of ours carries and how its text begins.
var kinds = map[error]struct {
	code codes.Code
	text string
}{
	ErrInvalidCommand:    {codes.InvalidArgument, "is invalid"},
	ErrVehicleNotFound:   {codes.NotFound, "failed: vehicle not found"},
	ErrTimeout:           {codes.DeadlineExceeded, "timed out"},
	ErrUnavailable:       {codes.Unavailable, "failed: vehicle service unavailable"},
	ErrCanceled:          {codes.Canceled, "was canceled"},
	ErrUnauthorized:      {codes.PermissionDenied, "was refused: not authorized"},
	ErrOverloaded:        {codes.ResourceExhausted, "was refused: vehicle service overloaded"},
	ErrInternal:          {codes.Internal, "failed: vehicle service error"},
	ErrMalformedResponse: {codes.Internal, "failed: malformed response"},
	ErrIncomplete:        {codes.DataLoss, "failed: incomplete answer"},
	ErrSequence:          {codes.DataLoss, "failed: broken sequence"},
	ErrReplayDiverged:    {codes.DataLoss, "failed: replay diverged"},
	ErrSink:              {codes.Internal, "failed: sink"},
	ErrClosed:            {codes.Canceled, "failed: client closed"},
}

// sentinelOf is the retry table's first two columns.
func sentinelOf(code codes.Code) error {
	switch code {
	case codes.Unavailable:
		return ErrUnavailable
	case codes.DeadlineExceeded:
		return ErrTimeout
	case codes.ResourceExhausted:
		return ErrOverloaded
	case codes.Canceled:
		return ErrCanceled
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return ErrInvalidCommand
	case codes.NotFound:
		return ErrVehicleNotFound
	case codes.Unauthenticated, codes.PermissionDenied:
		return ErrUnauthorized
	default:
		return ErrInternal
	}
}

// Error is one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("vehicle: ")
	if e.Name == "" {
		b.WriteString("command")
	} else {
		b.WriteString(foreign.Text(e.Name))
	}
	if e.VehicleID != uuid.Nil {
		fmt.Fprintf(&b, " on %s", e.VehicleID)
	}
	b.WriteByte(' ')
	sentinel := e.is()
	b.WriteString(kinds[sentinel].text)
	if sentinel == ErrInternal || e.Code != kinds[sentinel].code { //nolint:errorlint // a sentinel itself
		fmt.Fprintf(&b, " (%s)", e.Code) // several codes share the sentinel: say which
	}
	if e.Message != "" {
		b.WriteString(": ")
		b.WriteString(e.Message)
	}
	switch {
	case e.Attempts == 0 && e.neverRan:
		b.WriteString(" (not sent)")
	case e.Attempts > 0:
		fmt.Fprintf(&b, " (%s, %s delivered)", count(e.Attempts, "attempt"), count(e.Chunks, "chunk"))
	}
	return b.String()
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// newError makes an Error of ours; who runs the command fills in which command it was.
func newError(sentinel error, message string, cause error) *Error {
	return &Error{Code: kinds[sentinel].code, Message: message, sentinel: sentinel, cause: cause}
}

// contextError is the error of a command whose own context has ended: cancelled by the caller, out
// of time, or closed with its client. last is what the command was suffering from at the time, if anything.
func contextError(ctx context.Context, when string, last error) *Error {
	switch cause := causeOf(ctx); {
	case cause == ErrClosed: //nolint:errorlint // only Close's own: a caller's cause may be the Error of another client's command
		if last != nil {
			last = notTheCallers{last}
		}
		return newError(ErrClosed, when, last)
	case cause == nil, errors.Is(ctx.Err(), context.DeadlineExceeded): // nil: the deadline has passed, its timer is late
		return newError(ErrTimeout, clause("the caller's deadline passed", when), errors.Join(context.DeadlineExceeded, last))
	default:
		return newError(ErrCanceled, clause("by the caller", when), errors.Join(ctx.Err(), cause, last))
	}
}

// notTheCallers is what a command was suffering from when its client was closed, often a sink that saw its ctx end: the caller has cancelled nothing.
type notTheCallers struct{ error }

func (e notTheCallers) Is(target error) bool {
	return target != context.Canceled && target != context.DeadlineExceeded && errors.Is(e.error, target)
}

func (e notTheCallers) As(target any) bool { return errors.As(e.error, target) }

func clause(text, when string) string {
	if when == "" {
		return text
	}
	return text + " " + when
}

func (e *Error) is() error {
	if e.sentinel != nil {
		return e.sentinel
	}
	return sentinelOf(e.Code)
}

// Unwrap gives the cause: the sink's own error, the context's, or the status that gRPC returned,
// whose text is the server's and has not been masked. It may be nil.
func (e *Error) Unwrap() error { return e.cause }

// Is matches the one sentinel that says what happened. A timeout also matches
// [context.DeadlineExceeded], which a gRPC status alone does not.
func (e *Error) Is(target error) bool {
	return target == e.is() || target == context.DeadlineExceeded && e.Timeout()
}

// Timeout says whether the command ran out of time: an attempt's, or the caller's.
func (e *Error) Timeout() bool { return e.is() == ErrTimeout } //nolint:errorlint // is gives the sentinel itself

// MayHaveRun is false only where it is certain that the vehicle did not run the command: it never
// left this process, or the service refused it. Where it is true, ask the vehicle before you send a
// command again that must not run twice.
func (e *Error) MayHaveRun() bool { return !e.neverRan }

// GRPCStatus gives the code, the text and the server's status details, so that
// [status.FromError] works on the error. It is never nil or OK. A gRPC handler that returns an Error
// thereby hands this code on to its own caller; translate it first where that is not meant.
func (e *Error) GRPCStatus() *status.Status {
	if e == nil {
		return status.New(codes.Unknown, "vehicle: nil error")
	}
	code := e.Code
	if code == codes.OK {
		code = codes.Unknown
	}
	st := &spb.Status{Code: int32(code), Message: e.Error()}
	if e.details != nil {
		st.Details = proto.CloneOf(e.details).Details
	}
	return status.FromProto(st)
}
