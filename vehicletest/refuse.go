package vehicletest

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// NRC is a negative response code of UDS: why an ECU refuses (ISO 14229-1, annex A).
type NRC byte

// The negative response codes that vehicles give most.
const (
	NRCServiceNotSupported             NRC = 0x11
	NRCSubFunctionNotSupported         NRC = 0x12
	NRCIncorrectLength                 NRC = 0x13
	NRCBusyRepeatRequest               NRC = 0x21
	NRCConditionsNotCorrect            NRC = 0x22
	NRCRequestOutOfRange               NRC = 0x31
	NRCSecurityAccessDenied            NRC = 0x33
	NRCInvalidKey                      NRC = 0x35
	NRCExceededNumberOfAttempts        NRC = 0x36
	NRCRequiredTimeDelayNotExpired     NRC = 0x37
	NRCGeneralProgrammingFailure       NRC = 0x72
	NRCServiceNotSupportedInSession    NRC = 0x7F
	NRCResourceTemporarilyNotAvailable NRC = 0x94
)

// The services that the built-in vehicles serve, and the first byte of a negative response.
const (
	serviceClearDTC     = 0x14
	serviceReadDTC      = 0x19
	serviceReadDataByID = 0x22
	negativeResponse    = 0x7F
)

// busyRetryDelay is a diagnostic adapter's repeat interval after 0x21 and 0x94.
const busyRetryDelay = 200 * time.Millisecond

// refusals has, for each code, its name in the standard and the gRPC code that a gateway makes of it.
var refusals = map[NRC]struct {
	name string
	code codes.Code
}{
	NRCServiceNotSupported:             {"serviceNotSupported", codes.InvalidArgument},
	NRCSubFunctionNotSupported:         {"subFunctionNotSupported", codes.InvalidArgument},
	NRCIncorrectLength:                 {"incorrectMessageLengthOrInvalidFormat", codes.InvalidArgument},
	NRCBusyRepeatRequest:               {"busyRepeatRequest", codes.ResourceExhausted},
	NRCConditionsNotCorrect:            {"conditionsNotCorrect", codes.FailedPrecondition},
	NRCRequestOutOfRange:               {"requestOutOfRange", codes.InvalidArgument},
	NRCSecurityAccessDenied:            {"securityAccessDenied", codes.PermissionDenied},
	NRCInvalidKey:                      {"invalidKey", codes.PermissionDenied},
	NRCExceededNumberOfAttempts:        {"exceededNumberOfAttempts", codes.PermissionDenied},
	NRCRequiredTimeDelayNotExpired:     {"requiredTimeDelayNotExpired", codes.FailedPrecondition},
	NRCGeneralProgrammingFailure:       {"generalProgrammingFailure", codes.Internal},
	NRCServiceNotSupportedInSession:    {"serviceNotSupportedInActiveSession", codes.FailedPrecondition},
	NRCResourceTemporarilyNotAvailable: {"resourceTemporarilyNotAvailable", codes.ResourceExhausted},
}

// Refuse ends the call as a gateway does whose ECU gave a negative response to a UDS service: with the
// gRPC code that fits (INTERNAL for codes not listed here), the response's bytes in the text, and SOVD's
// error in an ErrorInfo (reason error-response, metadata service and nrc). A busy ECU's also says when to
// come back (RetryInfo).
func Refuse(service byte, nrc NRC) Step {
	refusal, known := refusals[nrc]
	if !known {
		refusal.name, refusal.code = "negative response", codes.Internal
	}
	details := []proto.Message{&errdetails.ErrorInfo{
		Reason: "error-response",
		Domain: "sovd",
		Metadata: map[string]string{
			"service": fmt.Sprintf("0x%02X", service),
			"nrc":     fmt.Sprintf("0x%02X", byte(nrc)),
		},
	}}
	if refusal.code == codes.ResourceExhausted {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(busyRetryDelay)})
	}
	return Fail(refusal.code, fmt.Sprintf("%s (%02X %02X %02X)", refusal.name, negativeResponse, service, byte(nrc)), details...)
}
