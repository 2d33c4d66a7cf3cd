package vehicle

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle/internal/foreign"
)

// failure is an attempt's end: the command's error if it is the last one, and what bears on trying again.
type failure struct {
	*Error
	permanent bool // ours to know: asking again cannot help
	refused   bool // the server said so before it ran anything
	pings     bool // the server closed the connection because of keepalive
	never     bool // the server asked not to come back
	retryInfo bool // the server sent RetryInfo
	told      bool // the server said when to come back: after this long
	after     time.Duration
}

// diagnose says what ended an attempt. The order matters: the command's own end explains
// everything, what this side found wrong with a message comes before the time that ran out meanwhile and the status that gRPC made of it.
func (a *attempts) diagnose(at *attempt, err error) failure {
	var handshake *handshakeError
	if !errors.As(err, &handshake) {
		a.asked = 0
	}
	if ended(a.ctx) {
		return failure{Error: contextError(a.ctx, "", nil), permanent: true}
	}
	st := statusOf(err)
	switch cause := at.why(); {
	case a.wire.isMalformed(err, st):
		return failure{Error: newError(ErrMalformedResponse, foreign.Text(a.wire.malformed.Error()), a.wire.malformed), permanent: true}
	case a.wire.tooLarge(st):
		text := fmt.Sprintf("a message is over the limit of %d bytes (see WithMaxMessageSize)", a.wire.config.maxMessageSize)
		return failure{Error: newError(ErrMalformedResponse, text, err), permanent: true}
	case errors.Is(cause, errIdle):
		return failure{Error: newError(ErrTimeout, fmt.Sprintf("no chunk within %v", a.call.idleTimeout), errIdle)}
	case errors.Is(cause, context.DeadlineExceeded) || st.Code() == codes.DeadlineExceeded && ended(at.ctx):
		text := fmt.Sprintf("no final chunk within %v", a.call.attemptTimeout)
		if !at.sent {
			text = fmt.Sprintf("no connection with a free stream within %v: %s", a.call.attemptTimeout, foreign.Text(st.Message()))
		}
		return a.timedOut(newError(ErrTimeout, text, err))
	}
	f := failure{Error: newError(sentinelOf(st.Code()), foreign.Text(st.Message()), err)}
	f.Code, f.details = st.Code(), st.Proto()
	f.permanent = handshake != nil && handshake.isFinal(a.client.pool.epoch.Add(a.asked))
	f.pings = st.Code() == codes.Unavailable && strings.Contains(st.Message(), `ENHANCE_YOUR_CALM, debug data: "too_many_pings"`)
	f.readAdvice(st, at)
	f.refused = at.sent && !at.answered && (isRefusal(st.Code()) || st.Code() == codes.ResourceExhausted && f.retryInfo)
	return f
}

// timedOut blames the sink where one was being written to while the time ran out.
func (a *attempts) timedOut(e *Error) failure {
	if s := a.sinks.slow(); s != nil {
		return failure{Error: slowSink(s, nil), permanent: true}
	}
	return failure{Error: e}
}

// statusOf is err's status. An interceptor may have returned something that has none.
func statusOf(err error) *status.Status {
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		return st
	}
	if st := status.FromContextError(err); st.Code() != codes.Unknown {
		return st
	}
	return status.New(codes.Unknown, err.Error())
}

// isRefusal says whether a server that answers with code, and nothing else, has not run the command.
func isRefusal(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.NotFound,
		codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return true
	default:
		return false
	}
}

// readAdvice reads when the server wants to be asked again: google.rpc.RetryInfo among the status
// details, and gRPC's grpc-retry-pushback-ms (gRFC A6), where anything but a number of milliseconds
// means never. Where both are there, the later time holds.
func (f *failure) readAdvice(st *status.Status, at *attempt) {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok && info.GetRetryDelay().IsValid() {
			f.retryInfo, f.told = true, true
			f.after = max(f.after, info.GetRetryDelay().AsDuration())
		}
	}
	if at.ClientStream == nil || !at.place.over() { // an interceptor's error may come while gRPC still receives
		return
	}
	for _, text := range at.Trailer().Get("grpc-retry-pushback-ms") {
		ms, err := strconv.ParseInt(text, 10, 32)
		if err != nil || ms < 0 {
			f.never = true
		}
		f.told = true
		f.after = max(f.after, time.Duration(ms)*time.Millisecond)
	}
}
