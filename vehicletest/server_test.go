package vehicletest_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sovd-go/vehicle/vehicletest"
)

func TestAServerAnswersOutOfTheBox(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		client := stub(t, vehicletest.NewServer(t, opts...))
		chunks := mustAsk(t, client, request("ReadDTC"))
		if got := len(chunks); got != 3 {
			t.Fatalf("ReadDTC: got %d chunks, want 3", got)
		}
		for i, c := range chunks {
			if got, want := c.GetIsFinal(), i == 2; got != want || int(c.GetSequenceNumber()) != i {
				t.Errorf("chunk %d: got number %d and final %v, want %d and %v", i, c.GetSequenceNumber(), got, i, want)
			}
			if _, err := time.Parse("2006-01-02T15:04:05.000000", c.GetTimestamp()); err != nil {
				t.Errorf("chunk %d: %v", i, err)
			}
		}
	})
}

func TestTheServerRecordsEveryRequest(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, opts...)
		client := stub(t, s)
		first, second := request("ReadDTC"), request("ClearDTC")

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "x-sovd-attempt", "2", "x-sovd-resume-from", "7", "x-request-id", "abc")
		before := time.Now()
		if _, err := ask(ctx, client, first); err != nil {
			t.Fatal(err)
		}
		mustAsk(t, client, second)
		ctx = metadata.AppendToOutgoingContext(t.Context(), "x-sovd-attempt", "third", "x-sovd-resume-from", "")
		if _, err := ask(ctx, client, first); err != nil {
			t.Fatal(err)
		}

		got := s.Requests()
		if len(got) != 3 {
			t.Fatalf("got %d requests, want 3", len(got))
		}
		r := got[0]
		if r.Attempt != 2 || r.ResumeFrom != 7 || r.Try != 1 || r.Conn != 1 {
			t.Errorf("got Attempt %d, ResumeFrom %d, Try %d, Conn %d, want 2, 7, 1, 1", r.Attempt, r.ResumeFrom, r.Try, r.Conn)
		}
		if diff := cmp.Diff([]string{"abc"}, r.Metadata.Get("x-request-id")); diff != "" {
			t.Errorf("metadata (-want +got):\n%s", diff)
		}
		if r.Deadline.Before(before.Add(50*time.Second)) || r.Deadline.After(time.Now().Add(time.Minute)) {
			t.Errorf("got deadline %v, want a minute after %v", r.Deadline, before)
		}
		if r.Arrived.Before(before) {
			t.Errorf("got arrival %v, want one after %v", r.Arrived, before)
		}
		for i, name := range []string{"ReadDTC", "ClearDTC", "ReadDTC"} {
			if got := got[i].Command.GetCommandName(); got != name {
				t.Errorf("request %d: got %s, want %s", i, got, name)
			}
			wantEnd(t, got[i], vehicletest.Finished)
		}
		if r := got[1]; !r.Deadline.IsZero() || r.Attempt != 0 || r.ResumeFrom != -1 || r.Try != 1 {
			t.Errorf("without metadata and deadline: got Deadline %v, Attempt %d, ResumeFrom %d, Try %d", r.Deadline, r.Attempt, r.ResumeFrom, r.Try)
		}
		if r := got[2]; r.Try != 2 || r.Attempt != 0 || r.ResumeFrom != -1 {
			t.Errorf("the second request for a command id, without numbers: got Try %d, Attempt %d, ResumeFrom %d, want 2, 0, -1", r.Try, r.Attempt, r.ResumeFrom)
		}
	})
}

func TestTheServerSaysHowEachCallEnded(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, append(opts,
			vehicletest.On("Stall", vehicletest.Script{vehicletest.Send("0"), vehicletest.Stall()}),
			vehicletest.On("Fail", vehicletest.Script{vehicletest.Fail(codes.NotFound, "no such vehicle")}))...)
		client := stub(t, s)

		_, err := ask(t.Context(), client, request("Fail"))
		wantCode(t, err, codes.NotFound)

		ctx, cancel := context.WithCancel(t.Context())
		stream, err := client.ExecuteCommand(ctx, request("Stall"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if end, err := s.Requests()[1].Wait(t.Context()); err != nil || end.How != vehicletest.Canceled {
			t.Errorf("after the client cancelled: got %v and error %v, want %s", end, err, vehicletest.Canceled)
		}

		stream, err = client.ExecuteCommand(t.Context(), request("Stall"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantCode(t, err, codes.Unavailable)

		want := []vehicletest.End{
			{How: vehicletest.Finished, Code: codes.NotFound},
			{How: vehicletest.Canceled, Code: codes.Canceled},
			{How: vehicletest.Disconnected, Code: codes.Canceled},
		}
		for i, r := range s.Requests() {
			if got, err := r.Wait(t.Context()); got != want[i] || err != nil {
				t.Errorf("call %d: got %v and error %v, want %v", i, got, err, want[i])
			}
		}
	})
}

// A test's Cleanup looks at what happened, and t.Context has ended by then.
func TestWaitSaysHowACallEndedUnderAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	s := vehicletest.NewServer(t)
	mustAsk(t, stub(t, s), request("ReadDTC"))
	r := s.Requests()[0]
	<-r.Done()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want := vehicletest.End{How: vehicletest.Finished, Code: codes.OK}
	for i := range 100 { // a select that may take either takes one of them in the end
		if got, err := r.Wait(ctx); got != want || err != nil {
			t.Fatalf("time %d: got %v and error %v, want %v and none", i, got, err, want)
		}
	}
}

func TestWaitRequestsWaitsForArrivals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := vehicletest.NewServer(t)
		client := stub(t, s)
		go func() {
			for range 3 {
				time.Sleep(time.Minute)
				mustAsk(t, client, request("ClearDTC"))
			}
		}()
		start := time.Now()
		var wait sync.WaitGroup
		for n := range 3 { // some have arrived when the others do
			wait.Go(func() {
				requests, err := s.WaitRequests(t.Context(), n)
				if want := time.Duration(n) * time.Minute; err != nil || len(requests) != n || time.Since(start) != want {
					t.Errorf("got %d requests and error %v after %v, want %d after %v", len(requests), err, time.Since(start), n, want)
				}
			})
		}
		wait.Wait()
		if requests, err := s.WaitRequests(t.Context(), 1); err != nil || len(requests) != 2 {
			t.Errorf("got %d requests and error %v, want the 2 that have arrived", len(requests), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := s.WaitRequests(ctx, 99)
		if err == nil || !strings.Contains(err.Error(), "3 of 99") {
			t.Errorf("got error %v, want one that says 3 of 99", err)
		}
	})
}

func TestWithHistoryForgetsTheOldest(t *testing.T) {
	t.Parallel()
	s := vehicletest.NewServer(t, vehicletest.WithHistory(2))
	client := stub(t, s)
	first := request("ReadDTC")
	for _, req := range slices.Concat(slices.Repeat([]string{first.CommandId}, 2), []string{request("").CommandId, request("").CommandId}) {
		r := request("ReadDTC")
		r.CommandId = req
		mustAsk(t, client, r)
	}
	if got := len(s.Requests()); got != 2 {
		t.Errorf("got %d requests, want 2", got)
	}
	mustAsk(t, client, first)
	requests, err := s.WaitRequests(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	if got := requests[1].Try; got != 1 {
		t.Errorf("a command of which all requests were forgotten: got Try %d, want 1", got)
	}
}

// failingTB is a test that is over when its cleanup is called, and notes its errors.
type failingTB struct {
	testing.TB
	cleanup func()
	errors  []any
}

func (f *failingTB) Cleanup(cleanup func()) { f.cleanup = cleanup }
func (f *failingTB) Error(args ...any)      { f.errors = append(f.errors, args...) }

func TestCloseNamesTheScriptsThatHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		test := &failingTB{TB: t}
		s := vehicletest.NewServer(test, vehicletest.WithHistory(1), vehicletest.On("ReadDTC", vehicletest.Script{
			func(context.Context, *vehicletest.Call) error { <-release; return nil }, // deaf to its ctx
		}))
		client := stub(t, s)
		req := request("ReadDTC")
		go func() { _, _ = ask(t.Context(), client, req) }()
		if _, err := s.WaitRequests(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		mustAsk(t, client, request("ClearDTC")) // the history forgets the one that hangs
		var wait sync.WaitGroup
		for range 2 {
			wait.Go(func() {
				err := s.Close()
				if err == nil || !strings.HasSuffix(err.Error(), "these scripts still run: ReadDTC "+req.GetCommandId()+" (try 1)") {
					t.Errorf("Close: got error %v, want one that names the script, and it alone", err)
				}
			})
		}
		wait.Wait()
		test.cleanup()
		if len(test.errors) != 1 {
			t.Errorf("the test of such a server: got errors %v, want the one of Close", test.errors)
		}
		close(release)
	})
}

// A panic in a goroutine of the server's would end the process, with all of its tests.
func TestOptionsThatGRPCRefusesPanicWhereTheServerIsMade(t *testing.T) {
	t.Parallel()
	pass := grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		return handle(srv, stream)
	})
	defer func() {
		if v := recover(); v == nil {
			t.Error("got no panic, want gRPC's")
		}
	}()
	s, err := vehicletest.Start(vehicletest.WithServerOptions(pass, pass))
	if err == nil {
		_ = s.Close()
	}
}

func TestAServerInABubbleLivesOnItsClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := vehicletest.NewServer(t, vehicletest.On("Monitor", vehicletest.Script{
			vehicletest.Send("0"), vehicletest.Delay(3 * time.Hour), vehicletest.Answer("1"),
		}))
		start := time.Now()
		if got := len(mustAsk(t, stub(t, s), request("Monitor"))); got != 2 {
			t.Errorf("got %d chunks, want 2", got)
		}
		if got, want := time.Since(start), 3*time.Hour; got != want {
			t.Errorf("the answer took %v, want %v", got, want)
		}
	})
}

func TestTheLogHasCallsAndNoPayloads(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := vehicletest.NewServer(t,
		vehicletest.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Answer(`"secret payload"`)}),
		vehicletest.On("Panic", vehicletest.Script{func(context.Context, *vehicletest.Call) error { panic("a bug in a step") }}))
	client := stub(t, s)
	req := request("ReadDTC")
	req.CommandParams = map[string]string{"pin": "secret parameter"}
	mustAsk(t, client, req)
	_, err := ask(t.Context(), client, request("Panic"))
	wantCode(t, err, codes.Internal)
	end, err := s.Requests()[1].Wait(t.Context())
	if err != nil || end != (vehicletest.End{How: vehicletest.Finished, Code: codes.Internal}) {
		t.Errorf("a step that panics: got %v and error %v, want %s with Internal", end, err, vehicletest.Finished)
	}
	mustAsk(t, client, req) // the server goes on

	if err := s.Close(); err != nil { // nobody writes to the log any more
		t.Fatal(err)
	}
	stack := "TestTheLogHasCallsAndNoPayloads.func" // the step
	for _, want := range []string{"started call", "finished call", "a bug in a step", stack} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the log has a payload or a parameter:\n%s", log.String())
	}
}
