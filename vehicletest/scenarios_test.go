package vehicletest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sovd-go/vehicle/vehiclepb"
	. "github.com/sovd-go/vehicle/vehicletest" //nolint:revive // scripts read as they do in users' tests
)

// TestScenarios shows that what happens to vehicles in the field can be said as scripts. The numbers are
// those of the list that the package was made for.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for name, scenario := range map[string]func(*testing.T){
		"01 a healthy vehicle reads its faults":                   scenarioReadDTC,
		"02 data by identifier, known and unknown":                scenarioReadDataByID,
		"03 faults cleared, then read":                            scenarioClearThenRead,
		"04 clearing refused":                                     scenarioClearRefused,
		"05 a routine started, polled, and pending":               scenarioRoutine,
		"06 a busy ECU that frees itself":                         scenarioBusy,
		"07 a vehicle asleep, and slow to wake":                   scenarioAsleep,
		"08 the link lost in four ways, then a replay from 0":     scenarioLinkLost,
		"09 a replay with different content":                      scenarioDivergingReplay,
		"10 a replay refused":                                     scenarioReplayRefused,
		"11 sequences that no vehicle should send":                scenarioSequences,
		"12 payloads and timestamps that no vehicle should send":  scenarioPayloads,
		"13 a stall in mid-stream, and a slow drip":               scenarioStall,
		"14 refusals by the service, with retry advice":           scenarioRefusals,
		"15 a lock held, and a lock broken":                       scenarioLocks,
		"16 stream limits, connection age, keepalive enforcement": scenarioLimits,
		"17 mutual TLS, and how it fails":                         scenarioMutualTLS,
		"18 a fleet on bad links, each vehicle serialised":        scenarioFleet,
		"19 the same clock and seed give the same bytes":          scenarioSameBytes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t)
		})
	}
}

func scenarioReadDTC(t *testing.T) {
	transports(t, func(t *testing.T, opts ...Option) {
		chunks := mustAsk(t, stub(t, NewServer(t, opts...)), request("ReadDTC"))
		var letters strings.Builder
		var bits byte
		for _, f := range faultsOf(t, chunks) {
			letters.WriteByte(f.code()[0])
			bits |= f.status()
		}
		if got := letters.String(); len(chunks) != 3 || got != "PPCBU" || bits != 0xFF {
			t.Errorf("got %d chunks, code letters %s, status bits 0x%02X, want 3, PPCBU, 0xFF", len(chunks), got, bits)
		}
	})
}

func scenarioReadDataByID(t *testing.T) {
	client := stub(t, NewServer(t))
	chunks := mustAsk(t, client, requestWith("ReadDataByID", vehicleID, map[string]string{"dataId": "0xF190"}))
	if len(chunks) != 2 || !strings.Contains(chunks[1].GetResponsePayload(), "ZZZTEST0") {
		t.Errorf("F190: got %v, want two chunks, the second with a VIN", payloads(chunks))
	}
	_, err := ask(t.Context(), client, requestWith("ReadDataByID", vehicleID, map[string]string{"dataId": "0xF1FF"}))
	wantNRC(t, err, codes.InvalidArgument, "0x31")
}

func scenarioClearThenRead(t *testing.T) {
	client := stub(t, NewServer(t))
	mustAsk(t, client, request("ClearDTC"))
	for _, f := range faultsOf(t, mustAsk(t, client, request("ReadDTC"))) {
		if got := f.status(); got != 0x50 {
			t.Errorf("%s: got status 0x%02X, want 0x50", f.code(), got)
		}
	}
}

func scenarioClearRefused(t *testing.T) {
	client := stub(t, NewServer(t, On("ClearDTC",
		Script{Refuse(0x14, NRCConditionsNotCorrect)}, // the engine runs
		Script{Refuse(0x14, NRCSecurityAccessDenied)},
		Script{Refuse(0x14, 0xF0)}, // the manufacturer's own
		nil)))
	req := request("ClearDTC")
	_, err := ask(t.Context(), client, req)
	wantNRC(t, err, codes.FailedPrecondition, "0x22")
	_, err = ask(t.Context(), client, req)
	wantNRC(t, err, codes.PermissionDenied, "0x33")
	_, err = ask(t.Context(), client, req)
	wantNRC(t, err, codes.Internal, "0xF0")
	mustAsk(t, client, req)
}

// A routine is state in a responder: started by one command, and polled by another.
func scenarioRoutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var doneAt atomic.Int64
		respond := func(r *Request) Script {
			switch {
			case r.Command.GetCommandName() == "StartRoutine":
				doneAt.Store(r.Arrived.Add(20 * time.Second).UnixNano())
				pending := Send(`{"status":"pending","nrc":"0x78"}`)
				return Script{
					pending, Delay(5 * time.Second), pending, Delay(5 * time.Second), // P2* of 5 s
					Answer(`{"status":"running","routine":"0x0203"}`),
				}
			case r.Command.GetCommandName() != "RequestRoutineResults":
				return nil
			case r.Arrived.UnixNano() < doneAt.Load():
				return Script{Answer(`{"status":"running"}`)}
			default:
				return Script{Answer(`{"status":"completed","result":"0x00"}`)}
			}
		}
		client := stub(t, NewServer(t, WithResponder(respond)))
		start := time.Now()
		if got := len(mustAsk(t, client, request("StartRoutine"))); got != 3 {
			t.Errorf("start: got %d chunks, want two of progress and an answer", got)
		}
		for strings.Contains(payloads(mustAsk(t, client, request("RequestRoutineResults")))[0], "running") {
			time.Sleep(time.Second)
		}
		if got, want := time.Since(start), 20*time.Second; got != want {
			t.Errorf("the routine took %v, want %v", got, want)
		}
	})
}

func scenarioBusy(t *testing.T) {
	busy := Script{Refuse(0x19, NRCBusyRepeatRequest)}
	client := stub(t, NewServer(t, On("ReadDTC", busy, busy, Script{Refuse(0x19, NRCResourceTemporarilyNotAvailable)}, nil)))
	req := request("ReadDTC")
	for _, nrc := range []string{"0x21", "0x21", "0x94"} {
		_, err := ask(t.Context(), client, req)
		wantNRC(t, err, codes.ResourceExhausted, nrc)
		if got := retryDelay(err); got != 200*time.Millisecond {
			t.Errorf("got RetryInfo %v, want 200ms", got)
		}
	}
	mustAsk(t, client, req)
}

func scenarioAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wakes := time.Now().Add(40 * time.Second) // an SMS, a boot, a registration
		first := true                             // the bubble's calls come one after the other
		client := stub(t, NewServer(t, WithResponder(func(r *Request) Script {
			switch {
			case r.Arrived.Before(wakes):
				return Script{Fail(codes.Unavailable, "vehicle is not connected")}
			case first:
				first = false
				return Script{Delay(10 * time.Second), Answer(`{"awake":true}`)}
			default:
				return nil
			}
		})))
		start := time.Now()
		req := request("ReadDTC")
		for {
			_, err := ask(t.Context(), client, req)
			if err == nil {
				break
			}
			wantCode(t, err, codes.Unavailable)
			time.Sleep(8 * time.Second)
		}
		if got, want := time.Since(start), 50*time.Second; got != want {
			t.Errorf("the first answer came after %v, want %v", got, want)
		}
		mustAsk(t, client, request("ReadDTC"))
	})
}

func scenarioLinkLost(t *testing.T) {
	all := []string{"0", "1", "2", "3"}
	for name, lost := range map[string]Script{
		"reset":              {Cut()},
		"closed":             {HangUp()},
		"GOAWAY, then a cut": {GoAway(), Cut()},
		"a black hole":       {BlackHole()},
	} {
		for k := range len(all) {
			t.Run(fmt.Sprintf("%s after chunk %d", name, k), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := NewServer(t, On("ReadDTC",
						append(Script{Send(all[:k]...)}, lost...), Script{Answer(all...)}))
					client := stub(t, s)
					req := request("ReadDTC")
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					chunks, err := ask(ctx, client, req)
					if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
						t.Errorf("got error %v, want a lost link", err)
					}
					if diff := cmp.Diff(all[:k], append([]string{}, payloads(chunks)...)); diff != "" {
						t.Errorf("before the loss (-want +got):\n%s", diff)
					}
					if name == "a black hole" { // its connection still looks healthy: take another
						client = stub(t, s)
					}
					if diff := cmp.Diff(all, payloads(mustAsk(t, client, req))); diff != "" {
						t.Errorf("replay (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

func scenarioDivergingReplay(t *testing.T) {
	client := stub(t, NewServer(t, On("ReadDataByID",
		Script{Send(`{"rpm":0}`), Cut()},
		Script{Answer(`{"rpm":780}`, `{"oil":91}`)}))) // the engine runs now
	req := request("ReadDataByID")
	first, err := ask(t.Context(), client, req)
	wantCode(t, err, codes.Unavailable)
	second := mustAsk(t, client, req)
	if first[0].GetSequenceNumber() != second[0].GetSequenceNumber() || first[0].GetResponsePayload() == second[0].GetResponsePayload() {
		t.Errorf("chunk 0: got %v, then %v, want the same number and another payload", first[0], second[0])
	}
}

func scenarioReplayRefused(t *testing.T) {
	client := stub(t, NewServer(t, On("ClearDTC",
		Script{Cut()}, Script{Fail(codes.AlreadyExists, "command was executed already")})))
	req := request("ClearDTC")
	_, err := ask(t.Context(), client, req)
	wantCode(t, err, codes.Unavailable)
	_, err = ask(t.Context(), client, req)
	wantCode(t, err, codes.AlreadyExists)
}

func scenarioSequences(t *testing.T) {
	n := func(seq int32) *vehiclepb.CommandResponse { return &vehiclepb.CommandResponse{SequenceNumber: seq} }
	final := func(seq int32) *vehiclepb.CommandResponse {
		return &vehiclepb.CommandResponse{SequenceNumber: seq, IsFinal: true}
	}
	for name, tt := range map[string]struct {
		script Script
		want   []int32
		code   codes.Code
	}{
		"a duplicate":                {Script{SendRaw(n(0), n(1), n(1), final(2))}, []int32{0, 1, 1, 2}, codes.OK},
		"a gap":                      {Script{SendRaw(n(0), final(2))}, []int32{0, 2}, codes.OK},
		"out of order":               {Script{SendRaw(n(2), n(0), n(1), final(3))}, []int32{2, 0, 1, 3}, codes.OK},
		"a negative number":          {Script{SendRaw(n(-1), final(0))}, []int32{-1, 0}, codes.OK},
		"a chunk after the final":    {Script{Answer(""), Send("")}, []int32{0, 1}, codes.OK},
		"an end without a final":     {Script{Send("", "")}, []int32{0, 1}, codes.OK},
		"an error after the final":   {Script{Answer("", ""), Fail(codes.Internal, "late")}, []int32{0, 1}, codes.Internal},
		"never closed after a final": {Script{Answer(""), Stall()}, []int32{0}, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				chunks, err := ask(ctx, stub(t, NewServer(t, On("ReadDTC", tt.script))), request("ReadDTC"))
				wantCode(t, err, tt.code)
				var got []int32
				for _, c := range chunks {
					got = append(got, c.GetSequenceNumber())
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("numbers (-want +got):\n%s", diff)
				}
			})
		})
	}
	t.Run("a foreign command id", func(t *testing.T) {
		t.Parallel()
		other := request("").GetCommandId()
		client := stub(t, NewServer(t, On("ReadDTC", Script{SendRaw(&vehiclepb.CommandResponse{CommandId: other})})))
		if got := mustAsk(t, client, request("ReadDTC"))[0].GetCommandId(); got != other {
			t.Errorf("got command id %s, want %s", got, other)
		}
	})
}

func scenarioPayloads(t *testing.T) {
	for name, payload := range map[string]string{
		"empty":              "",
		"invalid JSON":       `{"dtc":`,
		"a broken escape":    `"\xZZ"`,
		"a lone surrogate":   `"\ud800"`,
		"NUL":                `"\u0000"`,
		"an immense number":  "1e400000",
		"3.99 MB":            strings.Repeat("x", 3_990_000),
		"deeply nested JSON": strings.Repeat("[", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := stub(t, NewServer(t, On("ReadDTC", Script{Answer(payload)})))
			if got := payloads(mustAsk(t, client, request("ReadDTC")))[0]; got != payload {
				t.Errorf("got a payload of %d bytes, want the %d that were scripted", len(got), len(payload))
			}
		})
	}
	for name, step := range map[string]Step{
		"invalid UTF-8":   Answer("\"\xff\""),
		"broken protobuf": SendBytes([]byte("\x0a\xff")),
		"4.2 MB":          Answer(strings.Repeat("x", 4_200_000)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ask(t.Context(), stub(t, NewServer(t, On("ReadDTC", Script{step}))), request("ReadDTC"))
			if err == nil {
				t.Error("got no error, want one from the client's decoder")
			}
		})
	}
	for _, timestamp := range []string{"", "2025-10-31T14:30:00+02:00", "31.10.2025 14:30"} {
		t.Run("timestamp "+timestamp, func(t *testing.T) {
			t.Parallel()
			step := SendEdited("{}", func(m *vehiclepb.CommandResponse) { m.Timestamp, m.IsFinal = timestamp, true })
			client := stub(t, NewServer(t, On("ReadDTC", Script{step})))
			if got := mustAsk(t, client, request("ReadDTC"))[0].GetTimestamp(); got != timestamp {
				t.Errorf("got timestamp %q, want %q", got, timestamp)
			}
		})
	}
	t.Run("10 000 chunks", func(t *testing.T) {
		t.Parallel()
		transports(t, func(t *testing.T, opts ...Option) {
			many := make([]string, 10_000)
			client := stub(t, NewServer(t, append(opts, On("ReadDTC", Script{Answer(many...)}))...))
			chunks := mustAsk(t, client, request("ReadDTC"))
			if last := chunks[len(chunks)-1]; len(chunks) != 10_000 || last.GetSequenceNumber() != 9_999 || !last.GetIsFinal() {
				t.Errorf("got %d chunks, the last numbered %d", len(chunks), last.GetSequenceNumber())
			}
		})
	})
}

func scenarioStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drip := Script{}
		for range 60 {
			drip = append(drip, Send("{}"), Delay(time.Minute))
		}
		s := NewServer(t, On("Stall", Script{Send("{}"), Stall()}), On("Drip", append(drip, Answer("{}"))))
		client := stub(t, s)
		start := time.Now()
		if got := len(mustAsk(t, client, request("Drip"))); got != 61 || time.Since(start) != time.Hour {
			t.Errorf("got %d chunks in %v, want 61 in an hour", got, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		chunks, err := ask(ctx, client, request("Stall"))
		wantCode(t, err, codes.DeadlineExceeded)
		if got := len(chunks); got != 1 {
			t.Errorf("got %d chunks before the stall, want 1", got)
		}
	})
}

func scenarioRefusals(t *testing.T) {
	for _, code := range []codes.Code{codes.NotFound, codes.PermissionDenied, codes.Unauthenticated} {
		_, err := ask(t.Context(), stub(t, NewServer(t, On("ReadDTC", Script{Fail(code, "no")}))), request("ReadDTC"))
		wantCode(t, err, code)
	}
	client := stub(t, NewServer(t, On("ReadDTC", Script{
		Trailer(metadata.Pairs("grpc-retry-pushback-ms", "-1")),
		Fail(codes.ResourceExhausted, "quota", &errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)}),
	})))
	var trailer metadata.MD
	_, err := ask(t.Context(), client, request("ReadDTC"), grpc.Trailer(&trailer))
	wantCode(t, err, codes.ResourceExhausted)
	if got := retryDelay(err); got != 3*time.Second {
		t.Errorf("got RetryInfo %v, want 3s", got)
	}
	if got := trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 || got[0] != "-1" {
		t.Errorf("got pushback %q, want -1", got)
	}
}

func scenarioLocks(t *testing.T) {
	lock := func(reason string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Reason: reason, Domain: "sovd"}
	}
	client := stub(t, NewServer(t, On("ClearDTC",
		Script{Fail(codes.FailedPrecondition, "locked by another client", lock("precondition-not-fulfilled"))},
		Script{Send(`{"status":"clearing"}`), Fail(codes.Aborted, "the lock was broken", lock("lock-broken"))},
		nil)))
	req := request("ClearDTC")
	for _, want := range []struct {
		code   codes.Code
		chunks int
		reason string
	}{{codes.FailedPrecondition, 0, "precondition-not-fulfilled"}, {codes.Aborted, 1, "lock-broken"}} {
		chunks, err := ask(t.Context(), client, req)
		wantCode(t, err, want.code)
		if got := errorInfo(err).GetReason(); got != want.reason || len(chunks) != want.chunks {
			t.Errorf("got reason %q after %d chunks, want %q after %d", got, len(chunks), want.reason, want.chunks)
		}
	}
	mustAsk(t, client, req)
}

func wantNRC(t *testing.T, err error, code codes.Code, nrc string) {
	t.Helper()
	wantCode(t, err, code)
	if got := errorInfo(err).GetMetadata()["nrc"]; got != nrc {
		t.Errorf("got NRC %q, want %q", got, nrc)
	}
}

func errorInfo(err error) *errdetails.ErrorInfo { return detail[*errdetails.ErrorInfo](err) }

func retryDelay(err error) time.Duration {
	return detail[*errdetails.RetryInfo](err).GetRetryDelay().AsDuration()
}

func detail[T any](err error) (none T) {
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) {
		for _, d := range st.GRPCStatus().Details() {
			if d, ok := d.(T); ok {
				return d
			}
		}
	}
	return none
}
