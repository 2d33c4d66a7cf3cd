package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// sentinels are all there are. An error must match one of them alone.
var sentinels = map[string]error{
	"ErrInvalidCommand":    vehicle.ErrInvalidCommand,
	"ErrVehicleNotFound":   vehicle.ErrVehicleNotFound,
	"ErrTimeout":           vehicle.ErrTimeout,
	"ErrUnavailable":       vehicle.ErrUnavailable,
	"ErrCanceled":          vehicle.ErrCanceled,
	"ErrUnauthorized":      vehicle.ErrUnauthorized,
	"ErrOverloaded":        vehicle.ErrOverloaded,
	"ErrInternal":          vehicle.ErrInternal,
	"ErrMalformedResponse": vehicle.ErrMalformedResponse,
	"ErrIncomplete":        vehicle.ErrIncomplete,
	"ErrSequence":          vehicle.ErrSequence,
	"ErrReplayDiverged":    vehicle.ErrReplayDiverged,
	"ErrSink":              vehicle.ErrSink,
	"ErrClosed":            vehicle.ErrClosed,
}

// sentinelsOf names the sentinels that err matches.
func sentinelsOf(err error) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(sentinels)) {
		if errors.Is(err, sentinels[name]) {
			names = append(names, name)
		}
	}
	return names
}

func wantSentinel(t *testing.T, err error, want string) {
	t.Helper()
	if diff := cmp.Diff([]string{want}, sentinelsOf(err)); diff != "" {
		t.Errorf("sentinels that %q matches (-want +got):\n%s", err, diff)
	}
}

// wantError is err as the *Error that it must be.
func wantError(t *testing.T, err error) *vehicle.Error {
	t.Helper()
	var e *vehicle.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want a *vehicle.Error", err, err)
	}
	return e
}

// The first two columns of the retry table, as a server over the wire sees to them, and what else hangs on the code.
func TestErrorOfEachCode(t *testing.T) {
	t.Parallel()
	tests := map[codes.Code]struct {
		want    string
		refused bool // the vehicle has certainly not run it
	}{
		codes.Canceled:           {want: "ErrCanceled"},
		codes.Unknown:            {want: "ErrInternal"},
		codes.InvalidArgument:    {want: "ErrInvalidCommand", refused: true},
		codes.DeadlineExceeded:   {want: "ErrTimeout"},
		codes.NotFound:           {want: "ErrVehicleNotFound", refused: true},
		codes.AlreadyExists:      {want: "ErrInternal"},
		codes.PermissionDenied:   {want: "ErrUnauthorized", refused: true},
		codes.ResourceExhausted:  {want: "ErrOverloaded"},
		codes.FailedPrecondition: {want: "ErrInvalidCommand", refused: true},
		codes.Aborted:            {want: "ErrInternal"},
		codes.OutOfRange:         {want: "ErrInvalidCommand", refused: true},
		codes.Unimplemented:      {want: "ErrInternal", refused: true},
		codes.Internal:           {want: "ErrInternal"},
		codes.Unavailable:        {want: "ErrUnavailable"},
		codes.DataLoss:           {want: "ErrInternal"}, // the code that ErrSequence carries: from a server it is the server's
		codes.Unauthenticated:    {want: "ErrUnauthorized", refused: true},
		codes.Code(99):           {want: "ErrInternal"}, // of a later gRPC
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if _, ok := tests[code]; !ok {
			t.Errorf("%v: got no test of it", code)
		}
	}
	for code, tt := range tests {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			detail := &errdetails.ErrorInfo{Reason: "error-response", Domain: "sovd", Metadata: map[string]string{"nrc": "0x22"}}
			server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Fail(code, "as the test wishes", detail)}))
			cmd := command("ReadDTC")
			_, err := server.Client(t, vehicle.WithoutRetry()).Execute(t.Context(), cmd)
			e := wantError(t, err)
			wantSentinel(t, e, tt.want)
			want := &vehicle.Error{Code: code, Message: "as the test wishes", CommandID: cmd.ID, VehicleID: cmd.VehicleID, Name: "ReadDTC", Attempts: 1}
			if diff := cmp.Diff(want, e, cmp.FilterPath(func(p cmp.Path) bool {
				return strings.ToLower(p.Last().String()) == p.Last().String() // unexported fields
			}, cmp.Ignore())); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if got, want := e.MayHaveRun(), !tt.refused; got != want {
				t.Errorf("MayHaveRun: got %v, want %v", got, want)
			}
			timeout := code == codes.DeadlineExceeded
			if got := e.Timeout(); got != timeout {
				t.Errorf("Timeout: got %v, want %v", got, timeout)
			}
			if got := errors.Is(err, context.DeadlineExceeded); got != timeout {
				t.Errorf("errors.Is(err, context.DeadlineExceeded): got %v, want %v", got, timeout)
			}
			if errors.Is(err, context.Canceled) { // the server did, nobody's context has ended
				t.Error("errors.Is(err, context.Canceled): got true, want false")
			}
			for how, err := range map[string]error{"as it is": err, "wrapped": fmt.Errorf("diagnose: %w", err)} {
				st, ok := status.FromError(err)
				if !ok || st.Code() != code || !strings.HasSuffix(st.Message(), e.Error()) {
					t.Errorf("status.FromError, %s: got %v, %v; want code %v and the error's text", how, st, ok, code)
				}
				if diff := cmp.Diff([]any{detail}, st.Details(), protocmp.Transform()); diff != "" {
					t.Errorf("details, %s (-want +got):\n%s", how, diff)
				}
			}
		})
	}
}

// What errors.Is finds besides the sentinel.
func TestErrorBridgesToContext(t *testing.T) {
	t.Parallel()
	stall := []vt.Script{{vt.Stall()}}
	own := errors.New("the workshop's door was opened")
	elsewhere := &vehicle.Error{Name: "ClearDTC", Code: codes.Canceled}
	interrupted := func(ctx context.Context) error {
		<-ctx.Done()
		return errors.Join(own, ctx.Err())
	}
	tests := map[string]struct {
		mishap             mishap
		deadline, canceled bool
		timeout            bool
		cause              error // to be found; nil: none
	}{
		"an attempt that ran out of time is a deadline":       {mishap: mishaps()["the attempts run out of time"], deadline: true, timeout: true},
		"an attempt that was silent for too long is one":      {mishap: mishaps()["the attempts are silent for too long"], deadline: true, timeout: true},
		"the service's own deadline is one":                   {mishap: mishaps()["the service runs out of time"], deadline: true, timeout: true},
		"the caller's deadline is one":                        {mishap: mishaps()["the caller's deadline passes"], deadline: true, timeout: true},
		"the caller's deadline during a wait is one":          {mishap: mishaps()["the caller's deadline passes before a retry"], deadline: true, timeout: true},
		"the caller's deadline in WaitReady is one":           {mishap: mishaps()["no connection is ready before the caller's deadline"], deadline: true, timeout: true},
		"the caller's cancellation is a cancellation":         {mishap: mishaps()["the caller cancels"], canceled: true},
		"the caller's cancellation before the start is one":   {mishap: mishaps()["the caller has cancelled before"], canceled: true},
		"leaving the loop is one":                             {mishap: mishaps()["the caller leaves the loop"], canceled: true},
		"the service's cancellation is none of the caller's":  {mishap: mishaps()["the service cancels"]},
		"the client's Close is none of the caller's":          {mishap: mishaps()["the client is closed while the command runs"]},
		"a service that is unavailable has nothing with ctx":  {mishap: mishaps()["the service stays unavailable"]},
		"a sink that fails has nothing to do with ctx either": {mishap: mishaps()["a sink cannot write"]},
		"a sink's own error is found": {
			mishap: mishap{want: "ErrSink", scripts: []vt.Script{{vt.Answer(`1`)}}, opts: []vehicle.Option{vehicle.WithSink(troubled{write: fails(own)})}},
			cause:  own},
		"a sink's own panic is found": {
			mishap: mishap{want: "ErrSink", scripts: []vt.Script{{vt.Answer(`1`)}}, opts: []vehicle.Option{vehicle.WithSink(troubled{write: func(context.Context) error { panic(own) }})}},
			cause:  own},
		"a sink's own timeout is not the command's": {
			mishap:   mishap{want: "ErrSink", scripts: []vt.Script{{vt.Answer(`1`)}}, opts: []vehicle.Option{vehicle.WithSink(troubled{write: fails(context.DeadlineExceeded)})}},
			deadline: true},
		"a sink's own error is found where the caller's cancellation was its cause": {
			mishap: mishap{want: "ErrCanceled", scripts: []vt.Script{{vt.Answer(`1`)}}, opts: []vehicle.Option{vehicle.WithSink(troubled{write: interrupted})},
				run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
					ctx, cancel := context.WithCancel(ctx)
					defer time.AfterFunc(time.Second, cancel).Stop()
					return execute(ctx, client, cmd)
				}}, canceled: true, cause: own},
		"and where the client's Close was": {
			mishap: mishap{want: "ErrClosed", scripts: []vt.Script{{vt.Answer(`1`)}}, opts: []vehicle.Option{vehicle.WithSink(troubled{write: interrupted})},
				run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
					defer time.AfterFunc(time.Second, func() { _ = client.Close() }).Stop()
					return execute(ctx, client, cmd)
				}}, cause: own},
		"the caller's cause is found": {
			mishap: mishap{want: "ErrCanceled", scripts: stall, run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				ctx, cancel := context.WithCancelCause(ctx)
				defer time.AfterFunc(time.Second, func() { cancel(own) }).Stop()
				return execute(ctx, client, cmd)
			}}, canceled: true, cause: own},
		"a sibling that failed is found as the cause": {
			mishap: mishap{want: "ErrCanceled", scripts: stall, run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				ctx, cancel := context.WithCancelCause(ctx)
				defer time.AfterFunc(time.Second, func() { cancel(elsewhere) }).Stop()
				return execute(ctx, client, cmd)
			}}, canceled: true, cause: elsewhere},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.mishap.happen(t, func(t *testing.T, err error) {
				e := wantError(t, err)
				wantSentinel(t, e, tt.mishap.want)
				if got := errors.Is(e, context.DeadlineExceeded); got != tt.deadline {
					t.Errorf("errors.Is(err, context.DeadlineExceeded): got %v, want %v", got, tt.deadline)
				}
				if got := errors.Is(e, context.Canceled); got != tt.canceled {
					t.Errorf("errors.Is(err, context.Canceled): got %v, want %v", got, tt.canceled)
				}
				if got := e.Timeout(); got != tt.timeout {
					t.Errorf("Timeout: got %v, want %v", got, tt.timeout)
				}
				if tt.cause != nil && !errors.Is(e, tt.cause) {
					t.Errorf("errors.Is(err, cause): got false for %v, want true", tt.cause)
				}
			})
		})
	}
}

// A group that cancels its commands with its first failure must not make their client look closed.
func TestErrorOfAnotherClientsCloseIsNotOurs(t *testing.T) {
	t.Parallel()
	mishaps()["the client is closed"].happen(t, func(t *testing.T, closed error) {
		client := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Stall()})).Client(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(closed)
		_, err := client.Execute(ctx, command("ReadDTC"))
		if e := wantError(t, err); e.Code != codes.Canceled || !strings.Contains(e.Error(), "was canceled: by the caller") || !errors.Is(e, vehicle.ErrCanceled) {
			t.Errorf("got %v, want ErrCanceled", e)
		}
	})
}

func TestMayHaveRun(t *testing.T) {
	t.Parallel()
	unavailable := vt.Fail(codes.Unavailable, "gateway restarting")
	refused := vt.Fail(codes.InvalidArgument, "no such group")
	known := mishaps()
	tests := map[string]struct {
		mishap mishap
		want   bool
	}{
		"a command that fails its checks has not":              {mishap: known["the command has no name"]},
		"a command with bad options has not":                   {mishap: known["an option of the call makes no sense"]},
		"a stream used again may have, when it was used first": {mishap: known["the stream is used a second time"], want: true},
		"a command that a sink refuses has not":                {mishap: known["a sink refuses the command"]},
		"a command of a closed client has not":                 {mishap: known["the client is closed"]},
		"a command cancelled before its start has not":         {mishap: known["the caller has cancelled before"]},
		"a command without a connection has not":               {mishap: known["the service cannot be reached"]},
		"a command whose connection never came up has not":     {mishap: known["no connection comes up in time"]},
		"a refused command has not":                            {mishap: mishap{scripts: []vt.Script{{refused}}}},
		"a command refused after a chunk may have":             {mishap: mishap{scripts: []vt.Script{{vt.Send(`1`), refused}}}, want: true},
		"a command refused in its second attempt may have":     {mishap: mishap{scripts: []vt.Script{{unavailable}, {refused}}}, want: true},
		"a command whose link broke may have":                  {mishap: mishap{scripts: []vt.Script{{vt.Cut()}}, opts: []vehicle.Option{vehicle.WithoutRetry()}}, want: true},
		"a command whose service is unavailable may have":      {mishap: known["the service stays unavailable"], want: true},
		"a command that ran out of time may have":              {mishap: known["the attempts run out of time"], want: true},
		"a cancelled command may have":                         {mishap: known["the caller cancels"], want: true},
		"a command that was running when Close came may have":  {mishap: known["the client is closed while the command runs"], want: true},
		"a command of which a sink could write nothing may":    {mishap: known["a sink cannot write"], want: true},
		"a command that the service failed to run may have":    {mishap: known["the service fails"], want: true},
		"a command whose answer has no end may have":           {mishap: known["the answer has no end"], want: true},
		"a service without room may have, as it does not say":  {mishap: known["the service is overloaded"], want: true},
		"a service that says when to come back has not run it": {mishap: mishap{scripts: []vt.Script{{vt.Refuse(0x19, vt.NRCBusyRepeatRequest)}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.mishap.happen(t, func(t *testing.T, err error) {
				if got := wantError(t, err).MayHaveRun(); got != tt.want {
					t.Errorf("MayHaveRun after %v: got %v, want %v", err, got, tt.want)
				}
			})
		})
	}
}

// An Error that somebody made up, in a test of theirs perhaps, behaves too.
func TestErrorMadeByOthers(t *testing.T) {
	t.Parallel()
	zero := &vehicle.Error{}
	if !zero.MayHaveRun() {
		t.Error("MayHaveRun of the zero Error: got false, want the careful answer, true")
	}
	wantSentinel(t, zero, "ErrInternal")
	if got, want := zero.Error(), "vehicle: command failed: vehicle service error (OK)"; got != want {
		t.Errorf("text of the zero Error: got %q, want %q", got, want)
	}
	if zero.Unwrap() != nil || zero.Timeout() {
		t.Errorf("the zero Error: got cause %v and timeout %v, want none", zero.Unwrap(), zero.Timeout())
	}
	for name, e := range map[string]*vehicle.Error{"zero": zero, "nil": nil, "OK": {Code: codes.OK}} {
		if st := e.GRPCStatus(); st == nil || st.Code() != codes.Unknown {
			t.Errorf("GRPCStatus of the %s Error: got %v, want code Unknown", name, st)
		}
	}
	for code, want := range map[codes.Code]string{codes.NotFound: "ErrVehicleNotFound", codes.DeadlineExceeded: "ErrTimeout"} {
		wantSentinel(t, &vehicle.Error{Code: code}, want)
	}
	if !errors.Is(&vehicle.Error{Code: codes.DeadlineExceeded}, context.DeadlineExceeded) {
		t.Error("errors.Is(Error{Code: DeadlineExceeded}, context.DeadlineExceeded): got false, want true")
	}
}

// A server's text is foreign, and so are a command's name and a parameter's.
func TestForeignTextInErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"a short text is kept":              {"DoIP routing activation denied (0x06)", "DoIP routing activation denied (0x06)"},
		"lines become one":                  {"first\nsecond\r\nthird\tfourth", "first second  third fourth"},
		"a terminal's commands are removed": {"\x1b[31mred\x1b[0m\x07", "[31mred [0m"},
		"line separators are removed":       {"a\u2028b\u2029c\u0085d", "a b c d"},
		"a VIN is masked":                   {"vehicle " + vin + " is offline", "vehicle [VIN] is offline"},
		"a long text is cut to 512 bytes":   {strings.Repeat("x ", 400), strings.Repeat("x ", 254) + "x…"},
		"it is cut between runes":           {strings.Repeat("ü", 400), strings.Repeat("ü", 254) + "…"},
		"a VIN where the cut comes is masked before": {
			strings.Repeat("x ", 250) + vin + strings.Repeat(" y", 20), strings.Repeat("x ", 250) + "[VIN] y y…"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Fail(codes.Internal, tt.text)}))
			_, err := server.Client(t).Execute(t.Context(), command("ReadDTC"))
			e := wantError(t, err)
			if diff := cmp.Diff(tt.want, e.Message); diff != "" {
				t.Errorf("Message (-want +got):\n%s", diff)
			}
			if len(e.Message) > 512 {
				t.Errorf("Message: got %d bytes, want at most 512", len(e.Message))
			}
			if got := e.Error(); !strings.Contains(got, tt.want) {
				t.Errorf("text: got %q, want %q in it", got, tt.want)
			}
		})
	}
	t.Run("a command's name is treated likewise", func(t *testing.T) {
		t.Parallel()
		e := &vehicle.Error{Name: "Read\nDTC " + vin, Code: codes.NotFound, Message: "gone", Attempts: 1}
		if got, want := e.Error(), "vehicle: Read DTC [VIN] failed: vehicle not found: gone (1 attempt, 0 chunks delivered)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("a parameter's name is treated likewise", func(t *testing.T) {
		t.Parallel()
		cmd := command("ReadDTC")
		cmd.Params = map[string]any{"mask\n" + vin: func() {}}
		_, err := vt.NewServer(t).Client(t).Execute(t.Context(), cmd)
		if got, want := wantError(t, err).Message, `parameter "mask [VIN]" of type func() cannot be encoded as JSON`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
