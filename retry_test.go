package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// exactly is the default policy without its randomness.
func exactly() vehicle.CallOption { return vehicle.WithRetry(vehicle.RetryPolicy{Jitter: -1}) }

func retryInfo(d time.Duration) proto.Message {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

func pushback(ms string) vt.Step {
	return vt.Trailer(metadata.Pairs("grpc-retry-pushback-ms", ms))
}

// permitPings is the agreement that WithKeepalive's comment asks servers for.
func permitPings() vt.Option {
	return vt.WithServerOptions(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
}

// arrivals says when the requests came, after the first.
func arrivals(server *vt.Server) (after []time.Duration) {
	for _, r := range server.Requests() {
		after = append(after, r.Arrived.Sub(server.Requests()[0].Arrived).Round(time.Millisecond))
	}
	return after
}

// The retry table of design and README: which codes are retried, when, how often, and what the error is.
func TestRetryTable(t *testing.T) {
	t.Parallel()
	const s, ms = time.Second, time.Millisecond
	type test struct {
		script     vt.Script // of every attempt
		opts       []vehicle.CallOption
		once       bool
		want       error
		arrivals   []time.Duration
		mayHaveRun bool
	}
	no, thrice, onceMore := []time.Duration{0}, []time.Duration{0, s, 3 * s, 7 * s}, []time.Duration{0, s}
	sentinels := map[codes.Code]error{
		codes.Canceled: vehicle.ErrCanceled, codes.InvalidArgument: vehicle.ErrInvalidCommand, codes.FailedPrecondition: vehicle.ErrInvalidCommand,
		codes.OutOfRange: vehicle.ErrInvalidCommand, codes.NotFound: vehicle.ErrVehicleNotFound, codes.Unauthenticated: vehicle.ErrUnauthorized,
		codes.PermissionDenied: vehicle.ErrUnauthorized, codes.Internal: vehicle.ErrInternal, codes.Unknown: vehicle.ErrInternal,
		codes.AlreadyExists: vehicle.ErrInternal, codes.Aborted: vehicle.ErrInternal, codes.Unimplemented: vehicle.ErrInternal,
		codes.DataLoss: vehicle.ErrInternal, codes.ResourceExhausted: vehicle.ErrOverloaded, codes.Code(99): vehicle.ErrInternal,
	}
	refusals := []codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.NotFound, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented}
	tests := map[string]test{}
	for code, want := range sentinels {
		ran := true
		for _, r := range refusals {
			ran = ran && code != r
		}
		tests[fmt.Sprintf("%s is not retried", code)] = test{script: vt.Script{vt.Fail(code, "no")}, want: want, arrivals: no, mayHaveRun: ran}
	}
	maps.Copy(tests, map[string]test{
		"Unavailable is retried after 1, 2 and 4 seconds": {
			script: vt.Script{vt.Fail(codes.Unavailable, "asleep")}, want: vehicle.ErrUnavailable, arrivals: thrice, mayHaveRun: true},
		"DeadlineExceeded from the server is retried once": {
			script: vt.Script{vt.Fail(codes.DeadlineExceeded, "slow")}, want: vehicle.ErrTimeout, arrivals: onceMore, mayHaveRun: true},
		"an attempt's deadline is retried once": {
			script: vt.Script{vt.Stall()}, want: vehicle.ErrTimeout, arrivals: []time.Duration{0, 31 * s}, mayHaveRun: true},
		"an idle timeout counts as the attempt's deadline": {
			script: vt.Script{vt.Stall()}, opts: []vehicle.CallOption{vehicle.WithIdleTimeout(5 * s)}, want: vehicle.ErrTimeout, arrivals: []time.Duration{0, 6 * s}, mayHaveRun: true},
		"ResourceExhausted with RetryInfo is retried when it says": {
			script: vt.Script{vt.Fail(codes.ResourceExhausted, "busy", retryInfo(10*s))}, want: vehicle.ErrOverloaded, arrivals: []time.Duration{0, 10 * s, 20 * s, 30 * s}},
		"Unavailable with RetryInfo is retried when it says": {
			script: vt.Script{vt.Fail(codes.Unavailable, "busy", retryInfo(100*ms))}, want: vehicle.ErrUnavailable, arrivals: []time.Duration{0, 100 * ms, 200 * ms, 300 * ms}, mayHaveRun: true},
		"Unavailable with a pushback is retried when it says": {
			script: vt.Script{pushback("250"), vt.Fail(codes.Unavailable, "busy")}, want: vehicle.ErrUnavailable, arrivals: []time.Duration{0, 250 * ms, 500 * ms, 750 * ms}, mayHaveRun: true},
		"a pushback of 0 means at once": {
			script: vt.Script{pushback("0"), vt.Fail(codes.Unavailable, "busy")}, want: vehicle.ErrUnavailable, arrivals: []time.Duration{0, 0, 0, 0}, mayHaveRun: true},
		"a negative pushback means never": {
			script: vt.Script{pushback("-1"), vt.Fail(codes.Unavailable, "busy")}, want: vehicle.ErrUnavailable, arrivals: no, mayHaveRun: true},
		"a pushback that is no number means never": {
			script: vt.Script{pushback("soon"), vt.Fail(codes.Unavailable, "busy")}, want: vehicle.ErrUnavailable, arrivals: no, mayHaveRun: true},
		"ResourceExhausted with a pushback alone is not retried": {
			script: vt.Script{pushback("250"), vt.Fail(codes.ResourceExhausted, "busy")}, want: vehicle.ErrOverloaded, arrivals: no, mayHaveRun: true},
		"ResourceExhausted with a RetryInfo that says no time is not retried": {
			script: vt.Script{vt.Fail(codes.ResourceExhausted, "busy", &errdetails.RetryInfo{})}, want: vehicle.ErrOverloaded, arrivals: no, mayHaveRun: true},
		"Internal is not retried either where a gateway tells of too many pings of its own": {
			script: vt.Script{vt.Fail(codes.Internal, `closed with GOAWAY: code: ENHANCE_YOUR_CALM, debug data: "too_many_pings"`)}, want: vehicle.ErrInternal, arrivals: no, mayHaveRun: true},
		"ResourceExhausted with RetryInfo and a negative pushback is not retried": {
			script: vt.Script{pushback("-1"), vt.Fail(codes.ResourceExhausted, "busy", retryInfo(s))}, want: vehicle.ErrOverloaded, arrivals: no},
		"of RetryInfo and pushback the later time holds": {
			script: vt.Script{pushback("250"), vt.Fail(codes.Unavailable, "busy", retryInfo(2*s))}, want: vehicle.ErrUnavailable, arrivals: []time.Duration{0, 2 * s, 4 * s, 6 * s}, mayHaveRun: true},
		"WithoutRetry makes the first failure the last": {
			script: vt.Script{vt.Fail(codes.Unavailable, "asleep")}, opts: []vehicle.CallOption{vehicle.WithoutRetry()}, want: vehicle.ErrUnavailable, arrivals: no, mayHaveRun: true},
		"WithoutRetry holds for deadlines too": {
			script: vt.Script{vt.Stall()}, opts: []vehicle.CallOption{vehicle.WithoutRetry()}, want: vehicle.ErrTimeout, arrivals: no, mayHaveRun: true},
		"a policy's numbers are taken": {
			script: vt.Script{vt.Fail(codes.Unavailable, "asleep")}, want: vehicle.ErrUnavailable, mayHaveRun: true,
			opts:     []vehicle.CallOption{vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 4, BaseDelay: 10 * s, MaxDelay: 45 * s, Multiplier: 3, Jitter: -1})},
			arrivals: []time.Duration{0, 10 * s, 40 * s, 85 * s, 130 * s}},
		"a command to run once is not repeated after Unavailable": {
			script: vt.Script{vt.Fail(codes.Unavailable, "asleep")}, once: true, want: vehicle.ErrUnavailable, arrivals: no, mayHaveRun: true},
		"a command to run once is not repeated after its deadline": {
			script: vt.Script{vt.Stall()}, once: true, want: vehicle.ErrTimeout, arrivals: no, mayHaveRun: true},
		"a command to run once is repeated where the server refused it": {
			script: vt.Script{vt.Fail(codes.ResourceExhausted, "busy", retryInfo(s))}, once: true, want: vehicle.ErrOverloaded, arrivals: []time.Duration{0, s, 2 * s, 3 * s}},
		"a refusal after a chunk is none": {
			script: vt.Script{vt.Send(`0`), vt.Fail(codes.NotFound, "gone")}, want: vehicle.ErrVehicleNotFound, arrivals: no, mayHaveRun: true},
	})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("Scripted", tt.script))
				sink := newRecorder(t)
				client := server.Client(t, exactly(), vehicle.WithSink(sink))
				cmd := command("Scripted")
				cmd.Once = tt.once
				res, err := client.Execute(t.Context(), cmd, tt.opts...)
				if !errors.Is(err, tt.want) {
					t.Errorf("error: got %v, want %v", err, tt.want)
				}
				if diff := cmp.Diff(tt.arrivals, arrivals(server)); diff != "" {
					t.Errorf("requests arrived after (-want +got):\n%s", diff)
				}
				var e *vehicle.Error
				if !errors.As(err, &e) {
					t.Fatalf("error: got a %T, want *vehicle.Error", err)
				}
				if e.MayHaveRun() != tt.mayHaveRun {
					t.Errorf("MayHaveRun: got %t, want %t", e.MayHaveRun(), tt.mayHaveRun)
				}
				if got, want := errors.Is(err, context.DeadlineExceeded), tt.want == vehicle.ErrTimeout; got != want { //nolint:errorlint // a table's entry
					t.Errorf("errors.Is(err, context.DeadlineExceeded): got %t, want %t", got, want)
				}
				if errors.Is(err, context.Canceled) {
					t.Error("errors.Is(err, context.Canceled): got true, want false: the caller cancelled nothing")
				}
				if e.Attempts != len(tt.arrivals) || res.Attempts != len(tt.arrivals) {
					t.Errorf("attempts: got %d in the error and %d in the result, want %d", e.Attempts, res.Attempts, len(tt.arrivals))
				}
				sink.check(cmd.ID, &vehicle.Result{Status: vehicle.StatusFailed, Chunks: e.Chunks, Attempts: len(tt.arrivals)}, texts(sink.chunks[cmd.ID]))
				for i, r := range server.Requests() {
					if r.Attempt != i+1 || r.Command.GetCommandId() != cmd.ID.String() {
						t.Errorf("request %d: got attempt %d of command %s, want %d of %s", i, r.Attempt, r.Command.GetCommandId(), i+1, cmd.ID)
					}
				}
			})
		})
	}
}

func TestJitterStaysInItsShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Fail(codes.Unavailable, "asleep")}))
		client := server.Client(t)
		different := map[time.Duration]bool{}
		for range 20 {
			before := len(server.Requests())
			_, _ = client.Execute(t.Context(), command("Scripted"))
			requests := server.Requests()[before:]
			if len(requests) != 4 {
				t.Fatalf("requests: got %d, want 4", len(requests))
			}
			for i, d := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
				got := requests[i+1].Arrived.Sub(requests[i].Arrived)
				if got < d*8/10 || got > d*12/10+time.Millisecond {
					t.Errorf("wait %d: got %v, want %v and at most a fifth more or less", i+1, got, d)
				}
				different[got] = true
			}
		}
		if len(different) < 50 {
			t.Errorf("waits: got %d different ones among 60, want nearly all", len(different))
		}
	})
}

func TestJitterStaysUnderMaxDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Fail(codes.Unavailable, "asleep")}))
		client := server.Client(t, vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 50, BaseDelay: time.Second, MaxDelay: time.Second, Jitter: 1}))
		_, _ = client.Execute(t.Context(), command("Scripted"))
		requests := server.Requests()
		if len(requests) != 51 {
			t.Fatalf("requests: got %d, want 51", len(requests))
		}
		for i, r := range requests[1:] {
			if got := r.Arrived.Sub(requests[i].Arrived); got > time.Second {
				t.Errorf("wait %d: got %v, want at most the MaxDelay of 1s", i+1, got)
			}
		}
	})
}

// A server's status details and text survive into the error.
func TestStatusSurvives(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Refuse(0x14, vt.NRCConditionsNotCorrect)}))
	_, err := server.Client(t).Execute(t.Context(), command("Scripted"))
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.FailedPrecondition {
		t.Fatalf("status: got %v, %t; want FailedPrecondition", st, ok)
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetMetadata()["nrc"] != "" {
			return
		}
	}
	t.Errorf("details: got %v, want the ErrorInfo with the nrc", st.Details())
}

func TestDeadlinesAndWaits(t *testing.T) {
	t.Parallel()
	const s = time.Second
	tests := map[string]struct {
		scripts  []vt.Script
		opts     []vehicle.CallOption
		timeout  time.Duration // of the caller; 0: none
		cancel   time.Duration // when the caller cancels; 0: never
		took     time.Duration
		attempts int
		want     error
		also     error
		text     string
	}{
		"an attempt that runs out says what it waited for": {
			scripts: []vt.Script{{vt.Send(`0`, `1`, `2`), vt.Stall()}}, took: 61 * s, attempts: 2, want: vehicle.ErrTimeout, also: context.DeadlineExceeded,
			text: "timed out: no final chunk within 30s (2 attempts, 3 chunks delivered)"},
		"an idle attempt says so": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Stall()}}, opts: []vehicle.CallOption{vehicle.WithIdleTimeout(4 * s)}, took: 9 * s, attempts: 2,
			want: vehicle.ErrTimeout, also: context.DeadlineExceeded, text: "no chunk within 4s"},
		"a slow drip is not idle": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Delay(3 * s), vt.Send(`1`), vt.Delay(3 * s), vt.Send(`2`), vt.Delay(3 * s), vt.Answer(`3`)}},
			opts:    []vehicle.CallOption{vehicle.WithIdleTimeout(4 * s)}, took: 9 * s, attempts: 1},
		"without an attempt timeout a command may take hours": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Delay(3 * time.Hour), vt.Answer(`1`)}},
			opts:    []vehicle.CallOption{vehicle.WithAttemptTimeout(0)}, took: 3 * time.Hour, attempts: 1},
		"the caller's deadline ends an attempt": {
			scripts: []vt.Script{{vt.Stall()}}, timeout: 5 * s, took: 5 * s, attempts: 1, want: vehicle.ErrTimeout, also: context.DeadlineExceeded, text: "the caller's deadline passed"},
		"the caller's deadline ends a wait at once": {
			scripts: []vt.Script{{vt.Fail(codes.Unavailable, "asleep")}}, timeout: 1500 * time.Millisecond, took: 1500 * time.Millisecond, attempts: 2,
			want: vehicle.ErrTimeout, also: context.DeadlineExceeded, text: "while waiting to retry after Unavailable: asleep"},
		"the caller's cancellation ends an attempt": {
			scripts: []vt.Script{{vt.Stall()}}, cancel: 5 * s, took: 5 * s, attempts: 1, want: vehicle.ErrCanceled, also: context.Canceled},
		"the caller's cancellation ends a wait at once": {
			scripts: []vt.Script{{vt.Fail(codes.Unavailable, "asleep")}}, cancel: 2500 * time.Millisecond, took: 2500 * time.Millisecond, attempts: 2,
			want: vehicle.ErrCanceled, also: context.Canceled},
		"progress is no further retry after a deadline": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Stall()}, {vt.Resume(), vt.Send(`0`, `1`), vt.Stall()}, {vt.Resume(), vt.Answer(`0`, `1`, `2`)}}, took: 61 * s, attempts: 2,
			want: vehicle.ErrTimeout, also: context.DeadlineExceeded, text: "(2 attempts, 2 chunks delivered)"},
		"a sleeping vehicle wakes up": {
			scripts: []vt.Script{{vt.Fail(codes.Unavailable, "asleep")}, {vt.Fail(codes.Unavailable, "asleep")}, {vt.Delay(8 * s), vt.Answer(`0`)}}, took: 11 * s, attempts: 3},
		"a busy ECU is asked again when it says": {
			scripts: []vt.Script{{vt.Fail(codes.ResourceExhausted, "busy", retryInfo(2*s))}, {vt.Answer(`0`)}}, took: 2 * s, attempts: 2},
		"a black hole ends with the attempt, and another connection is tried": {
			scripts: []vt.Script{{vt.Send(`0`), vt.BlackHole()}, {vt.Answer(`0`, `1`)}},
			opts:    []vehicle.CallOption{vehicle.WithAttemptTimeout(5 * time.Minute)}, took: 41 * s, attempts: 2}, // a ping after 30 s, no answer for 10 s, a wait of 1 s
	}
	for name, tt := range tests {
		for how, after := range map[string]int{"": 64, ", in a long answer": 1} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := vt.NewServer(t, vt.On("Scripted", tt.scripts...), permitPings())
					client := server.Client(t, exactly())
					if err := client.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
					ctx := t.Context()
					if tt.timeout > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, tt.timeout)
						defer cancel()
					}
					if tt.cancel > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithCancel(ctx)
						time.AfterFunc(tt.cancel, cancel)
					}
					start := time.Now()
					res, err := client.Execute(ctx, command("Scripted"), append(slices.Clip(tt.opts), vehicle.WithLookaheadAfter(after))...)
					if took := time.Since(start).Round(time.Millisecond); took != tt.took {
						t.Errorf("took: got %v, want %v", took, tt.took)
					}
					if !errors.Is(err, tt.want) || tt.also != nil && !errors.Is(err, tt.also) {
						t.Errorf("error: got %v, want %v and %v", err, tt.want, tt.also)
					}
					if err != nil && !strings.Contains(err.Error(), tt.text) {
						t.Errorf("error: got %q, want %q in it", err, tt.text)
					}
					if res.Attempts != tt.attempts {
						t.Errorf("attempts: got %d, want %d", res.Attempts, tt.attempts)
					}
				})
			})
		}
	}
}

// An attempt whose deadline passes while a sink is writing is the sink's fault.
func TestSlowSink(t *testing.T) {
	t.Parallel()
	const s = time.Second
	stuck := errors.New("the sink's own error")
	tests := map[string]struct {
		script vt.Script
		write  func(context.Context) error
		took   time.Duration
		chunks int
		want   error
		cause  error
	}{
		"a sink that writes until its ctx ends": {
			script: vt.Script{vt.Send(`0`), vt.Stall()}, took: 30 * s, want: vehicle.ErrSink, cause: stuck,
			write: func(ctx context.Context) error { <-ctx.Done(); return errors.Join(stuck, ctx.Err()) }},
		"a sink that writes for longer and does not look at its ctx": {
			script: vt.Script{vt.Send(`0`), vt.Stall()}, took: 40 * s, want: vehicle.ErrSink,
			write: func(context.Context) error { time.Sleep(40 * s); return nil }},
		"a sink that is still writing when the whole answer has long come": {
			script: vt.Script{vt.Send(`0`), vt.Delay(s), vt.Answer(`1`, `2`)}, took: 30 * s, want: vehicle.ErrSink, cause: stuck,
			write: func(ctx context.Context) error { <-ctx.Done(); return errors.Join(stuck, ctx.Err()) }},
		"a sink that writes the final chunk until its ctx ends": {
			script: vt.Script{vt.Answer(`0`)}, took: 30 * s, want: vehicle.ErrSink, cause: stuck,
			write: func(ctx context.Context) error { <-ctx.Done(); return errors.Join(stuck, ctx.Err()) }},
		"a sink that took the final chunk late has it": {
			script: vt.Script{vt.Answer(`0`)}, took: 40 * s, chunks: 1,
			write: func(context.Context) error { time.Sleep(40 * s); return nil }},
		"a sink that is slow, and done in time, leaves the vehicle to blame": {
			script: vt.Script{vt.Send(`0`), vt.Stall()}, took: 61 * s, chunks: 1, want: vehicle.ErrTimeout,
			write: func(context.Context) error { time.Sleep(29 * s); return nil }},
		"what a sink takes does not count as idle": {
			script: vt.Script{vt.Send(`0`), vt.Delay(s), vt.Answer(`1`)}, took: 40 * s, chunks: 2,
			write: func(context.Context) error { time.Sleep(20 * s); return nil }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("Scripted", tt.script))
				sink := newRecorder(t)
				sink.onWrite = func(ctx context.Context, _ []vehicle.Chunk) error { return tt.write(ctx) }
				next := troubled{write: func(ctx context.Context) error { return ctx.Err() }} // what the first has taken too long for is not its doing
				opts := []vehicle.Option{exactly(), vehicle.WithSink(sink, next)}
				if strings.Contains(name, "idle") {
					opts = append(opts, vehicle.WithIdleTimeout(5*s), vehicle.WithAttemptTimeout(time.Minute))
				}
				client := server.Client(t, opts...)
				start := time.Now()
				res, err := client.Execute(t.Context(), command("Scripted"))
				if took := time.Since(start).Round(time.Millisecond); took != tt.took {
					t.Errorf("took: got %v, want %v", took, tt.took)
				}
				if !errors.Is(err, tt.want) || tt.cause != nil && !errors.Is(err, tt.cause) {
					t.Errorf("error: got %v, want %v with cause %v", err, tt.want, tt.cause)
				}
				if tt.want == vehicle.ErrSink && (errors.Is(err, vehicle.ErrTimeout) || !strings.Contains(err.Error(), "*vehicle_test.recorder.Write was not done when the attempt's time ran out")) { //nolint:errorlint // a table's entry
					t.Errorf("error: got %v, want one that blames the sink and names it", err)
				}
				if res.Chunks != tt.chunks {
					t.Errorf("chunks: got %d, want %d", res.Chunks, tt.chunks)
				}
				if sink.ends() != 1 {
					t.Errorf("ends: got %d, want 1", sink.ends())
				}
			})
		})
	}
}

// A server with gRPC's default enforcement closes the connection of a client that pings a silent stream every 30 s, after
// about 2, 6, 14 and 30 minutes. That costs no retry budget.
func TestTooManyPings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := vt.Script{vt.Send(`0`), vt.Delay(time.Hour), vt.Answer(`1`)}
		server := vt.NewServer(t, vt.On("Silent", silent, silent, silent, silent, silent,
			vt.Script{vt.Send(`0`), vt.Delay(time.Hour), vt.Answer(`1`)}))
		client := server.Client(t, vehicle.WithAttemptTimeout(0), vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: -1}))
		res, err := client.Execute(t.Context(), command("Silent"))
		if err != nil {
			t.Fatalf("Execute: %v", err)
		}
		if res.Attempts < 3 || res.Attempts > 6 || res.Chunks != 2 {
			t.Errorf("got %d attempts and %d chunks, want about 5 and 2", res.Attempts, res.Chunks)
		}
		for i, r := range server.Requests()[1:] {
			if end, _ := server.Requests()[i].Wait(t.Context()); end.How != vt.Disconnected {
				t.Errorf("attempt %d: got %v, want disconnected", i+1, end)
			}
			if i > 0 && r.ResumeFrom != 1 {
				t.Errorf("attempt %d: got resume-from %d, want 1", i+2, r.ResumeFrom)
			}
		}
	})
}

func TestTooManyPingsEndACommandThatIsRunWithoutRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Silent", vt.Script{vt.Send(`0`), vt.Delay(time.Hour), vt.Answer(`1`)}))
		client := server.Client(t, vehicle.WithAttemptTimeout(0), vehicle.WithoutRetry())
		res, err := client.Execute(t.Context(), command("Silent"))
		if !errors.Is(err, vehicle.ErrUnavailable) || !strings.Contains(err.Error(), "too_many_pings") || res.Attempts != 1 {
			t.Errorf("got %d attempts, %v; want 1 and too_many_pings", res.Attempts, err)
		}
	})
}

// The cure that WithKeepalive names: a server that permits the pings closes nothing.
func TestPermittedPings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.On("Silent", vt.Script{vt.Send(`0`), vt.Delay(3 * time.Hour), vt.Answer(`1`)}),
			permitPings())
		client := server.Client(t, vehicle.WithAttemptTimeout(0))
		if res, err := client.Execute(t.Context(), command("Silent")); err != nil || res.Attempts != 1 {
			t.Errorf("Execute: got %+v, %v; want one attempt", res, err)
		}
	})
}

// A server that is deployed anew says GOAWAY: calls in flight finish, the next take another connection.
func TestGoAway(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", vt.Script{vt.Send(`0`), vt.GoAway(), vt.Answer(`1`)}))
	client := server.Client(t, vehicle.WithoutRetry())
	for range 5 {
		if res, err := client.Execute(t.Context(), command("Scripted")); err != nil || res.Attempts != 1 {
			t.Errorf("Execute: got %+v, %v; want one attempt", res, err)
		}
	}
	if got := server.Requests()[4].Conn; got != 5 {
		t.Errorf("the fifth command came on connection %d, want 5", got)
	}
}

// Where nobody listens a command never leaves; then also one that must run only once is tried again.
func TestNeverSent(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	client, err := vehicle.New(listener.Addr().String(), vehicle.WithInsecure(), quickly())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cmd := command("ReadDTC")
	cmd.Once = true
	_, err = client.Execute(t.Context(), cmd)
	var e *vehicle.Error
	if !errors.As(err, &e) || !errors.Is(err, vehicle.ErrUnavailable) {
		t.Fatalf("Execute: got %v, want ErrUnavailable", err)
	}
	if e.MayHaveRun() || e.Attempts != 4 {
		t.Errorf("got MayHaveRun %t after %d attempts, want false after 4", e.MayHaveRun(), e.Attempts)
	}
}

// Where an interceptor fails to open a stream nothing was sent, whatever else it returns, and whatever its error would mean of a stream.
func TestAnInterceptorThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	down := status.Error(codes.Unavailable, "down")
	for name, tt := range map[string]struct {
		stream grpc.ClientStream
		err    error
		want   string
	}{
		"a wrapper of no stream beside the error": {counted{}, down, "ErrUnavailable"},
		"io.EOF, as a token service may say":      {nil, io.EOF, "ErrInternal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t)
				fails := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
					return tt.stream, tt.err
				}
				client := server.Client(t, exactly(), vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(fails)))
				err := execute(t.Context(), client, command("ReadDTC"))
				wantSentinel(t, err, tt.want)
				if e := wantError(t, err); !errors.Is(err, tt.err) || e.MayHaveRun() {
					t.Errorf("got %v, may have run: %t, want %v of a command that has not", err, e.MayHaveRun(), tt.err)
				}
				if got := client.Stats().Streams; got != 0 {
					t.Errorf("got %d streams, want none", got)
				}
			})
		})
	}
}
