package vehicletest_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sovd-go/vehicle/vehiclepb"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestStepsSendWhatTheySay(t *testing.T) {
	t.Parallel()
	req := request("ReadDTC")
	id := req.GetCommandId()
	tests := map[string]struct {
		script vehicletest.Script
		want   []*vehiclepb.CommandResponse
	}{
		"Send numbers chunks from 0, none of them final": {
			vehicletest.Script{vehicletest.Send("a", "b"), vehicletest.Send("c")},
			[]*vehiclepb.CommandResponse{
				{CommandId: id, ResponsePayload: "a"},
				{CommandId: id, ResponsePayload: "b", SequenceNumber: 1},
				{CommandId: id, ResponsePayload: "c", SequenceNumber: 2},
			},
		},
		"Answer makes its last chunk final": {
			vehicletest.Script{vehicletest.Send("a"), vehicletest.Answer("b", "c")},
			[]*vehiclepb.CommandResponse{
				{CommandId: id, ResponsePayload: "a"},
				{CommandId: id, ResponsePayload: "b", SequenceNumber: 1},
				{CommandId: id, ResponsePayload: "c", SequenceNumber: 2, IsFinal: true},
			},
		},
		"Answer without payloads sends nothing": {vehicletest.Script{vehicletest.Answer()}, nil},
		"NumberFrom numbers from elsewhere": {
			vehicletest.Script{vehicletest.NumberFrom(1), vehicletest.Send("a"), vehicletest.NumberFrom(-5), vehicletest.Answer("b")},
			[]*vehiclepb.CommandResponse{
				{CommandId: id, ResponsePayload: "a", SequenceNumber: 1},
				{CommandId: id, ResponsePayload: "b", SequenceNumber: -5, IsFinal: true},
			},
		},
		"SendRaw echoes the command id where there is none, and leaves the count": {
			vehicletest.Script{
				vehicletest.SendRaw(&vehiclepb.CommandResponse{SequenceNumber: 7}, &vehiclepb.CommandResponse{CommandId: "other"}),
				vehicletest.Answer("a"),
			},
			[]*vehiclepb.CommandResponse{
				{CommandId: id, SequenceNumber: 7},
				{CommandId: "other"},
				{CommandId: id, ResponsePayload: "a", IsFinal: true},
			},
		},
		"SendEdited sends what edit made, and counts": {
			vehicletest.Script{
				vehicletest.SendEdited("a", func(m *vehiclepb.CommandResponse) { m.CommandId = "" }),
				vehicletest.Answer("b"),
			},
			[]*vehiclepb.CommandResponse{
				{ResponsePayload: "a"},
				{CommandId: id, ResponsePayload: "b", SequenceNumber: 1, IsFinal: true},
			},
		},
		"a step of one's own sees the request and runs other scripts": {
			vehicletest.Script{func(ctx context.Context, c *vehicletest.Call) error {
				return vehicletest.Script{vehicletest.Answer(c.Request.Command.GetVehicleId())}.Run(ctx, c)
			}},
			[]*vehiclepb.CommandResponse{{CommandId: id, ResponsePayload: vehicleID, IsFinal: true}},
		},
		"a script without steps ends with OK": {vehicletest.Script{}, nil},
		"Fail with OK does nothing":           {vehicletest.Script{vehicletest.Fail(codes.OK, "")}, nil},
		"Fail with OK and details does nothing either": {
			vehicletest.Script{vehicletest.Fail(codes.OK, "", &errdetails.RetryInfo{}), vehicletest.Answer("a")},
			[]*vehiclepb.CommandResponse{{CommandId: id, ResponsePayload: "a", IsFinal: true}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", tt.script))
			got := mustAsk(t, stub(t, s), req)
			if diff := cmp.Diff(tt.want, got, protocmp.Transform(), protocmp.IgnoreFields(&vehiclepb.CommandResponse{}, "timestamp")); diff != "" {
				t.Errorf("chunks (-want +got):\n%s", diff)
			}
		})
	}
}

// A script is run by several calls, at once too.
func TestSendRawDoesNotChangeItsMessages(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.SendRaw(&vehiclepb.CommandResponse{})})))
	for range 2 {
		req := request("ReadDTC")
		if got := mustAsk(t, client, req)[0].GetCommandId(); got != req.GetCommandId() {
			t.Errorf("got command id %s, want the request's, %s", got, req.GetCommandId())
		}
	}
}

func TestBrokenMessagesReachTheClient(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		step vehicletest.Step
		want codes.Code
	}{
		"bytes that are no protobuf":     {vehicletest.SendBytes([]byte{0xff, 0xff, 0xff}), codes.Internal},
		"a payload that is not UTF-8":    {vehicletest.Send("\"\xc3\x28\""), codes.Internal},
		"a message over the limit":       {vehicletest.Send(string(make([]byte, 5<<20))), codes.ResourceExhausted},
		"details that are not UTF-8":     {vehicletest.Fail(codes.NotFound, "", &errdetails.ErrorInfo{Reason: "\xff"}), codes.Internal},
		"no bytes are an empty message":  {vehicletest.SendBytes(nil), codes.OK},
		"a message just below the limit": {vehicletest.Send(string(make([]byte, 4<<20-200))), codes.OK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, opts ...vehicletest.Option) {
				s := vehicletest.NewServer(t, append(opts, vehicletest.On("ReadDTC", vehicletest.Script{tt.step}))...)
				_, err := ask(t.Context(), stub(t, s), request("ReadDTC"))
				wantCode(t, err, tt.want)
			})
		})
	}
}

func TestAMessageOfAnySizeIsOnTheConnectionBeforeItIsCut(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 1023, 1024, 1025, 16 << 10, 32<<10 - 5, 32 << 10, 100 << 10, 3 << 20} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			t.Parallel()
			cut := vehicletest.Cut
			if size > 32<<10 && runtime.GOOS != "linux" {
				cut = vehicletest.HangUp // see link.go
			}
			transports(t, func(t *testing.T, opts ...vehicletest.Option) {
				payload := string(make([]byte, size))
				s := vehicletest.NewServer(t, append(opts,
					vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Send(payload), cut()}))...)
				chunks, err := ask(t.Context(), stub(t, s), request("ReadDTC"))
				wantCode(t, err, codes.Unavailable)
				if got := len(chunks); got != 1 || len(chunks[0].GetResponsePayload()) != size {
					t.Errorf("got %d chunks, want the whole chunk of %d bytes", got, size)
				}
			})
		})
	}
}

func TestFailSendsStatusDetailsHeadersAndTrailers(t *testing.T) {
	t.Parallel()
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(2 * time.Second)}
	s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{
		vehicletest.Header(metadata.Pairs("x-gateway", "gw-7")),
		vehicletest.Trailer(metadata.Pairs("grpc-retry-pushback-ms", "100")),
		vehicletest.Fail(codes.ResourceExhausted, "too many commands", retry),
		vehicletest.Send("never"),
	}))
	var header, trailer metadata.MD
	chunks, err := ask(t.Context(), stub(t, s), request("ReadDTC"), grpc.Header(&header), grpc.Trailer(&trailer))
	wantCode(t, err, codes.ResourceExhausted)
	if len(chunks) > 0 {
		t.Errorf("got %d chunks after Fail, want none", len(chunks))
	}
	if diff := cmp.Diff([]any{retry}, status.Convert(err).Details(), protocmp.Transform()); diff != "" {
		t.Errorf("details (-want +got):\n%s", diff)
	}
	if got := header.Get("x-gateway"); len(got) != 1 || got[0] != "gw-7" {
		t.Errorf("header x-gateway: got %q, want gw-7", got)
	}
	if got := trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 || got[0] != "100" {
		t.Errorf("trailer grpc-retry-pushback-ms: got %q, want 100", got)
	}
}

func TestAStepThatEndsItsGoroutineCutsTheConnection(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, append(opts, vehicletest.On("ReadDTC", vehicletest.Script{
			vehicletest.Send("0"),
			func(context.Context, *vehicletest.Call) error { runtime.Goexit(); return nil }, // as t.FailNow does
		}))...)
		client := stub(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := ask(ctx, client, request("ReadDTC"))
		wantCode(t, err, codes.Unavailable)
		want := vehicletest.End{How: vehicletest.Disconnected, Code: codes.Internal}
		if end, err := s.Requests()[0].Wait(ctx); end != want || err != nil {
			t.Errorf("got %v and error %v, want %v", end, err, want)
		}
		mustAsk(t, client, request("ClearDTC")) // the server goes on
	})
}

func TestTheErrorOfAStepEndsTheCall(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		wait bool // for the client's deadline
		want codes.Code
	}{
		"a status is sent as it is":                    {status.Error(codes.Aborted, ""), false, codes.Aborted},
		"a context's cancellation":                     {fmt.Errorf("a step: %w", context.Canceled), false, codes.Canceled},
		"a context's deadline":                         {fmt.Errorf("a step: %w", context.DeadlineExceeded), false, codes.DeadlineExceeded},
		"any other is unknown":                         {io.ErrUnexpectedEOF, false, codes.Unknown},
		"the deadline that gRPC took for cancellation": {context.Canceled, true, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{func(ctx context.Context, _ *vehicletest.Call) error {
					if tt.wait {
						<-ctx.Done()
					}
					return tt.err
				}}))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := ask(ctx, stub(t, s), request("ReadDTC"))
				wantCode(t, err, tt.want)
				if end, err := s.Requests()[0].Wait(t.Context()); end.Code != tt.want || err != nil {
					t.Errorf("the script's end: got %v and error %v, want %v", end, err, tt.want)
				}
			})
		})
	}
}

func TestEveryCodeCanBeSent(t *testing.T) {
	t.Parallel()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Fail(code, "")}))
			_, err := ask(t.Context(), stub(t, s), request("ReadDTC"))
			wantCode(t, err, code)
		})
	}
}

func TestEachAttemptHasItsScript(t *testing.T) {
	t.Parallel()
	s := vehicletest.NewServer(t, vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Answer("first")},
		nil,
		vehicletest.Script{vehicletest.Answer("last")}))
	client := stub(t, s)
	for range 2 { // attempts are counted for each command id
		req := request("ReadDTC")
		var got []int
		for range 4 {
			got = append(got, len(mustAsk(t, client, req)))
		}
		if diff := cmp.Diff([]int{1, 3, 1, 1}, got); diff != "" {
			t.Errorf("chunks of the attempts, the second left to the built-in vehicle (-want +got):\n%s", diff)
		}
	}
}

func TestRespondersAreAskedInOrder(t *testing.T) {
	t.Parallel()
	s := vehicletest.NewServer(t,
		vehicletest.On("ClearDTC"), // no scripts: nothing is scripted
		vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
			if r.Command.GetCommandParams()["lamp"] == "on" {
				return vehicletest.Script{vehicletest.Answer("1")}
			}
			return nil
		}),
		vehicletest.On("Lamp", vehicletest.Script{vehicletest.Answer("2")}))
	client := stub(t, s)
	req := request("Lamp")
	if got := payloads(mustAsk(t, client, req)); got[0] != "2" {
		t.Errorf("got %q, want what On says", got)
	}
	req.CommandParams = map[string]string{"lamp": "on"}
	if got := payloads(mustAsk(t, client, req)); got[0] != "1" {
		t.Errorf("got %q, want what the first responder says", got)
	}
	mustAsk(t, client, request("ClearDTC"))
}

func TestResumeBeginsWhereTheClientAsks(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		from   string
		script vehicletest.Script
		want   []string
	}{
		"a server that honours it":                 {"2", vehicletest.Script{vehicletest.Resume(), vehicletest.Answer("a", "b", "c", "d")}, []string{"c", "d"}},
		"numbers from 1":                           {"2", vehicletest.Script{vehicletest.NumberFrom(1), vehicletest.Resume(), vehicletest.Answer("a", "b", "c", "d")}, []string{"b", "c", "d"}},
		"nothing asked":                            {"", vehicletest.Script{vehicletest.Resume(), vehicletest.Answer("a", "b")}, []string{"a", "b"}},
		"a server that does not know it":           {"2", vehicletest.Script{vehicletest.Answer("a", "b", "c")}, []string{"a", "b", "c"}},
		"everything was delivered but the status":  {"3", vehicletest.Script{vehicletest.Resume(), vehicletest.Answer("a", "b", "c")}, nil},
		"a value that is no number counts as none": {"x", vehicletest.Script{vehicletest.Resume(), vehicletest.Answer("a", "b")}, []string{"a", "b"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", tt.script))
			ctx := t.Context()
			if tt.from != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-sovd-resume-from", tt.from)
			}
			chunks, err := ask(ctx, stub(t, s), request("ReadDTC"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, payloads(chunks)); diff != "" {
				t.Errorf("payloads (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUntilWaitsForTheTest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		signal := make(chan struct{})
		s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{
			vehicletest.Send("a"), vehicletest.Until(signal), vehicletest.Answer("b"),
		}))
		stream, err := stub(t, s).ExecuteCommand(t.Context(), request("ReadDTC"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-s.Requests()[0].Done():
			t.Fatal("the script went on without its signal")
		default:
		}
		close(signal)
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		wantEnd(t, s.Requests()[0], vehicletest.Finished)
		_, _ = stream.Recv() // EOF: frees the stream
	})
}
