package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

func seq(n int32, payload string) *vehiclepb.CommandResponse {
	return &vehiclepb.CommandResponse{SequenceNumber: n, ResponsePayload: payload}
}

func last(m *vehiclepb.CommandResponse) *vehiclepb.CommandResponse {
	m.IsFinal = true
	return m
}

// What a vehicle may send, and what becomes of it: over TCP, and the same without a sink, where the
// loop's goroutine receives, with one, where a pump does or takes over, and as a long answer, where a lookahead does.
func TestReceive(t *testing.T) {
	t.Parallel()
	broken := vt.Script{vt.Send(`0`, `1`), vt.SendBytes([]byte{0x0a, 0xff, 0x01})}
	tests := map[string]struct {
		scripts  []vt.Script
		opts     []vehicle.CallOption
		want     []string // payloads
		replayed int
		attempts int // 0: 1
		err      error
		text     string // in the error's
	}{
		"an answer from 0 is delivered": {scripts: []vt.Script{{vt.Answer(`0`, `1`, `2`)}}, want: []string{"0", "1", "2"}},
		"an answer from 1 is delivered": {scripts: []vt.Script{{vt.NumberFrom(1), vt.Answer(`0`, `1`, `2`)}}, want: []string{"0", "1", "2"}},
		"a payload without data is null": {
			scripts: []vt.Script{{vt.Send(``), vt.Answer(``)}}, want: []string{"null", "null"}},
		"a payload that is not JSON is malformed": {
			scripts: []vt.Script{{vt.Send(`0`, `{"code":`), vt.Answer(`2`)}}, want: []string{"0"},
			err: vehicle.ErrMalformedResponse, text: "the payload of chunk 1 (8 bytes) is not JSON"},
		"a payload that is not UTF-8 is malformed": {
			scripts: []vt.Script{{vt.Send(`0`, "\"\xff\""), vt.Answer(`2`)}}, want: []string{"0"},
			err: vehicle.ErrMalformedResponse, text: "invalid UTF-8"},
		"a message that is not protobuf is malformed": {
			scripts: []vt.Script{broken}, want: []string{"0", "1"}, err: vehicle.ErrMalformedResponse},
		"a foreign command id is malformed": {
			scripts: []vt.Script{{vt.Send(`0`), vt.SendEdited(`1`, func(m *vehiclepb.CommandResponse) { m.CommandId = "00000000-0000-4000-8000-000000000000" })}},
			want:    []string{"0"}, err: vehicle.ErrMalformedResponse, text: `chunk 1 answers command "00000000-0000-4000-8000-000000000000"`},
		"an absent command id is malformed": {
			scripts: []vt.Script{{vt.SendEdited(`0`, func(m *vehiclepb.CommandResponse) { m.CommandId = "" })}},
			err:     vehicle.ErrMalformedResponse},
		"a command id in capitals is the command's": {
			scripts: []vt.Script{{vt.SendEdited(`0`, func(m *vehiclepb.CommandResponse) { m.CommandId = strings.ToUpper(m.CommandId) }), vt.Answer(`1`)}},
			want:    []string{"0", "1"}},
		"an unreadable timestamp is no failure": {
			scripts: []vt.Script{{vt.SendEdited(`0`, func(m *vehiclepb.CommandResponse) { m.Timestamp = "yesterday" }), vt.Answer(`1`)}},
			want:    []string{"0", "1"}},
		"a message over the limit is malformed and the limit is named": {
			scripts: []vt.Script{{vt.Send(`0`, `"`+strings.Repeat("x", 64<<10)+`"`), vt.Answer(`2`)}}, want: []string{"0"},
			err: vehicle.ErrMalformedResponse, text: "over the limit of 65536 bytes"},
		"a server that finds the request too large is overloaded": {
			scripts: []vt.Script{{vt.Fail(codes.ResourceExhausted, "grpc: received message larger than max (5000000 vs. 4194304)")}},
			err:     vehicle.ErrOverloaded},
		"numbers that begin at 5 have a gap": {
			scripts: []vt.Script{{vt.NumberFrom(5), vt.Answer(`5`, `6`)}}, err: vehicle.ErrSequence, text: "chunk 0 or 1 was wanted"},
		"a gap is out of sequence": {
			scripts: []vt.Script{{vt.SendRaw(seq(0, `0`), seq(1, `1`), last(seq(3, `3`)))}}, want: []string{"0", "1"}, err: vehicle.ErrSequence, text: "chunk 2 was wanted"},
		"duplicates are dropped and counted": {
			scripts: []vt.Script{{vt.SendRaw(seq(0, `0`), seq(1, `1`), seq(0, `0`), seq(1, `1`), last(seq(2, `2`)))}}, want: []string{"0", "1", "2"}, replayed: 2},
		"chunks shuffled inside the window are put in order": {
			scripts: []vt.Script{{vt.SendRaw(seq(0, `0`), seq(3, `3`), seq(2, `2`), seq(1, `1`), last(seq(4, `4`)))}}, want: []string{"0", "1", "2", "3", "4"}},
		"chunks shuffled beyond the window are out of sequence": {
			scripts: []vt.Script{{vt.SendRaw(seq(0, `0`), seq(5, `5`), seq(4, `4`), seq(3, `3`), seq(2, `2`), last(seq(1, `1`)))}},
			opts:    []vehicle.CallOption{vehicle.WithReorderWindow(3)}, want: []string{"0"}, err: vehicle.ErrSequence, text: "WithReorderWindow"},
		"a negative number is out of sequence": {
			scripts: []vt.Script{{vt.SendRaw(seq(0, `0`), seq(-1, `1`))}}, want: []string{"0"}, err: vehicle.ErrSequence},
		"chunks after the final one do not matter": {
			scripts: []vt.Script{{vt.Answer(`0`, `1`), vt.Send(`2`, `3`)}}, want: []string{"0", "1"}},
		"a failure after the final chunk does not matter": {
			scripts: []vt.Script{{vt.Answer(`0`, `1`), vt.Fail(codes.Internal, "too late")}}, want: []string{"0", "1"}},
		"a cut between the final chunk and the status does not matter": {
			scripts: []vt.Script{{vt.Answer(`0`, `1`), vt.Cut()}}, want: []string{"0", "1"}},
		"a stream that never ends after the final chunk does not hold the caller": {
			scripts: []vt.Script{{vt.Answer(`0`, `1`), vt.Stall()}}, want: []string{"0", "1"}},
		"an end without a final chunk is incomplete": {
			scripts: []vt.Script{{vt.Send(`0`, `1`)}}, want: []string{"0", "1"}, err: vehicle.ErrIncomplete},
		"an empty answer is incomplete": {
			scripts: []vt.Script{{}}, err: vehicle.ErrIncomplete},
		"a cut before the headers is retried": {
			scripts: []vt.Script{{vt.Cut()}, {vt.Answer(`0`, `1`)}}, want: []string{"0", "1"}, attempts: 2},
		"an identical replay is dropped": {
			scripts: []vt.Script{{vt.Send(`0`, `1`), vt.Cut()}, {vt.Answer(`0`, `1`, `2`)}}, want: []string{"0", "1", "2"}, attempts: 2, replayed: 2},
		"a server that resumes replays nothing": {
			scripts: []vt.Script{{vt.Send(`0`, `1`), vt.Cut()}, {vt.Resume(), vt.Answer(`0`, `1`, `2`)}}, want: []string{"0", "1", "2"}, attempts: 2},
		"an older server's replay from 1 is dropped": {
			scripts: []vt.Script{{vt.NumberFrom(1), vt.Send(`0`, `1`), vt.Cut()}, {vt.NumberFrom(1), vt.Answer(`0`, `1`, `2`)}}, want: []string{"0", "1", "2"}, attempts: 2, replayed: 2},
		"a replay with another payload has diverged": {
			scripts: []vt.Script{{vt.Send(`0`, `1`), vt.Cut()}, {vt.Answer(`0`, `"other"`, `2`)}}, want: []string{"0", "1"}, attempts: 2, replayed: 2,
			err: vehicle.ErrReplayDiverged, text: "a second time"},
		"a replay with another timestamp is identical": {
			scripts: []vt.Script{
				{vt.SendEdited(`0`, func(m *vehiclepb.CommandResponse) { m.Timestamp = "2025-10-31T14:30:00" }), vt.Cut()},
				{vt.SendEdited(`0`, func(m *vehiclepb.CommandResponse) { m.Timestamp = "2025-10-31T14:31:00" }), vt.Answer(`1`)}},
			want: []string{"0", "1"}, attempts: 2, replayed: 1},
		"another payload is taken where the replay is trusted": {
			scripts: []vt.Script{{vt.Send(`0`, `1`), vt.Cut()}, {vt.Answer(`0`, `"other"`, `2`)}}, opts: []vehicle.CallOption{vehicle.WithResume(vehicle.ResumeTrust)},
			want: []string{"0", "1", "2"}, attempts: 2, replayed: 2},
		"with ResumeNever a cut before the first chunk is retried": {
			scripts: []vt.Script{{vt.Cut()}, {vt.Answer(`0`)}}, opts: []vehicle.CallOption{vehicle.WithResume(vehicle.ResumeNever)},
			want: []string{"0"}, attempts: 2},
		"with ResumeNever a cut after the first chunk is the end": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Cut()}, {vt.Answer(`0`, `1`)}}, opts: []vehicle.CallOption{vehicle.WithResume(vehicle.ResumeNever)},
			want: []string{"0"}, err: vehicle.ErrUnavailable},
		"a vehicle that has run the command and will not repeat it": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Cut()}, {vt.Fail(codes.AlreadyExists, "command_id already executed")}},
			want:    []string{"0"}, attempts: 2, err: vehicle.ErrInternal, text: "(AlreadyExists)"},
		"progress on every attempt keeps the retries going": {
			scripts: []vt.Script{
				{vt.Send(`0`), vt.Cut()}, {vt.Resume(), vt.Send(`0`, `1`), vt.Cut()}, {vt.Resume(), vt.Send(`0`, `1`, `2`), vt.Cut()},
				{vt.Resume(), vt.Send(`0`, `1`, `2`, `3`), vt.Cut()}, {vt.Resume(), vt.Send(`0`, `1`, `2`, `3`, `4`), vt.Cut()}, {vt.Resume(), vt.Answer(`0`, `1`, `2`, `3`, `4`, `5`)}},
			want: []string{"0", "1", "2", "3", "4", "5"}, attempts: 6},
		"without progress the retries run out": {
			scripts: []vt.Script{{vt.Send(`0`), vt.Cut()}}, want: []string{"0"}, attempts: 4, replayed: 3, err: vehicle.ErrUnavailable},
	}
	for name, tt := range tests {
		for _, with := range []string{"without a sink", "with a sink", "as a long answer"} {
			t.Run(name+" "+with, func(t *testing.T) {
				t.Parallel()
				server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", tt.scripts...))
				client := server.Client(t, vehicle.WithMaxMessageSize(64<<10), quickly())
				cmd := command("Scripted")
				sink := newRecorder(t)
				opts := slices.Clip(tt.opts)
				switch with {
				case "with a sink":
					opts = append(opts, vehicle.WithSink(sink))
				case "as a long answer":
					opts = append(opts, vehicle.WithLookaheadAfter(1))
				}
				stream := client.Stream(t.Context(), cmd, opts...)
				var got []string
				var err error
				for chunk, e := range stream.Chunks() {
					if err != nil {
						t.Errorf("the loop went on after the error %v", err)
					}
					if err = e; e == nil {
						got = append(got, string(chunk.Payload))
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("payloads (-want +got):\n%s", diff)
				}
				if !errors.Is(err, tt.err) {
					t.Errorf("error: got %v, want %v", err, tt.err)
				}
				if err != nil && !strings.Contains(err.Error(), tt.text) {
					t.Errorf("error: got %q, want %q in it", err, tt.text)
				}
				res := stream.Result()
				if !errors.Is(res.Err, tt.err) || (res.Err == nil) != (err == nil) {
					t.Errorf("Result.Err: got %v, want %v", res.Err, err)
				}
				want := &vehicle.Result{Status: vehicle.StatusCompleted, Chunks: len(tt.want), Attempts: max(tt.attempts, 1), Replayed: tt.replayed}
				if tt.err != nil {
					want.Status = vehicle.StatusFailed
				}
				if res.Status != want.Status || res.Chunks != want.Chunks || res.Attempts != want.Attempts || res.Replayed != want.Replayed {
					t.Errorf("Result: got %+v, want %+v", res, want)
				}
				if with == "with a sink" {
					sink.check(cmd.ID, want, tt.want)
				}
			})
		}
	}
}

// A link that is cut after each chunk of an answer, and between the last chunk and the status.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	const n = 8
	payloads := numbered(n)
	for k := range n + 1 {
		for _, honours := range []bool{true, false} {
			t.Run(fmt.Sprintf("after %d of %d chunks, the server honours resume-from: %t", k, n, honours), func(t *testing.T) {
				t.Parallel()
				first := vt.Script{vt.Send(payloads[:k]...), vt.Cut()}
				if k == n {
					first = vt.Script{vt.Answer(payloads...), vt.Cut()}
				}
				second := vt.Script{vt.Answer(payloads...)}
				replayed := k
				if honours {
					second = vt.Script{vt.Resume(), vt.Answer(payloads...)}
					replayed = 0
				}
				server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", first, second))
				sink := newRecorder(t)
				cmd := command("Scripted")
				_, err := server.Client(t, quickly(), vehicle.WithSink(sink)).Execute(t.Context(), cmd)
				if err != nil {
					t.Fatalf("Execute: %v", err)
				}
				want := &vehicle.Result{Status: vehicle.StatusCompleted, Chunks: n, Attempts: 2, Replayed: replayed}
				if k == n {
					want.Attempts, want.Replayed = 1, 0
				}
				sink.check(cmd.ID, want, payloads)
				if k == n {
					return
				}
				second2 := server.Requests()[1]
				wantFrom := int32(k)
				if k == 0 {
					wantFrom = -1
				}
				if second2.Attempt != 2 || second2.ResumeFrom != wantFrom || second2.Command.GetCommandId() != cmd.ID.String() {
					t.Errorf("second request: got attempt %d, resume-from %d, command %s; want 2, %d, %s",
						second2.Attempt, second2.ResumeFrom, second2.Command.GetCommandId(), wantFrom, cmd.ID)
				}
			})
		}
	}
}

// A well-behaved server sees its stream end normally, although the caller cancels its context as soon
// as it has its answer; one that never ends it is cancelled after a while, and holds nobody.
func TestFinish(t *testing.T) {
	t.Parallel()
	const linger = time.Second
	tests := map[string]struct {
		after time.Duration // the final chunk, the server ends its stream; 0: never
		more  bool          // it sends another chunk then, and never ends it
		want  vt.Ending
		took  time.Duration // until the call has ended
	}{
		"a server that takes its time after the final chunk is not cancelled": {after: linger / 2, want: vt.Finished, took: linger / 2},
		"a server that never ends its stream is cancelled after a while":      {want: vt.Canceled, took: linger},
		"a server that sends more is cancelled at once":                       {after: linger / 2, more: true, want: vt.Canceled, took: linger / 2},
	}
	for name, tt := range tests {
		for _, with := range []string{"without a sink", "with a sink"} {
			t.Run(name+" "+with, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { // where a cancellation has certainly arrived before time goes on
					script := vt.Script{vt.Answer(`0`)}
					if tt.after > 0 {
						script = append(script, vt.Delay(tt.after))
					}
					if tt.more {
						script = append(script, vt.Send(`1`))
					}
					if tt.want == vt.Canceled {
						script = append(script, vt.Stall())
					}
					server := vt.NewServer(t, vt.On("Scripted", script))
					var opts []vehicle.Option
					if with == "with a sink" {
						opts = append(opts, vehicle.WithSink(newRecorder(t)))
					}
					client := server.Client(t, opts...)
					ctx, cancel := context.WithCancel(t.Context())
					start := time.Now()
					if _, err := client.Execute(ctx, command("Scripted")); err != nil {
						t.Fatalf("Execute: %v", err)
					}
					cancel()
					if took := time.Since(start); took != 0 {
						t.Errorf("the caller was held for %v, want not at all", took)
					}
					got, err := server.Requests()[0].Wait(t.Context())
					if err != nil || got.How != tt.want || time.Since(start) != tt.took {
						t.Errorf("the call ended: got %v, %v after %v; want %v after %v", got, err, time.Since(start), tt.want, tt.took)
					}
				})
			})
		}
	}
}

// Every chunk that arrived while a sink was writing goes to it in one Write, and one that arrives alone alone, at once.
func TestBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		payloads := numbered(n)
		server := vt.NewServer(t, vt.On("Scripted", vt.Script{
			vt.Send(payloads[0]), vt.Delay(time.Second), vt.Send(payloads[1]), vt.Delay(time.Second), vt.Send(payloads[2 : n-1]...),
			vt.Delay(10 * time.Second), vt.Answer(payloads[n-1]),
		}))
		sink := newRecorder(t)
		start := time.Now()
		var at []time.Duration
		sink.onWrite = func(context.Context, []vehicle.Chunk) error {
			if at = append(at, time.Since(start).Round(time.Second)); len(at) == 2 {
				time.Sleep(5 * time.Second)
			}
			return nil
		}
		cmd := command("Scripted")
		if _, err := server.Client(t, vehicle.WithSink(sink)).Execute(t.Context(), cmd); err != nil {
			t.Fatalf("Execute: %v", err)
		}
		sink.check(cmd.ID, &vehicle.Result{Status: vehicle.StatusCompleted, Chunks: n, Attempts: 1}, payloads)
		if diff := cmp.Diff([]int{1, 1, n - 3, 1}, sink.batches); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]time.Duration{0, time.Second, 6 * time.Second, 12 * time.Second}, at); diff != "" {
			t.Errorf("written at (-want +got):\n%s", diff)
		}
	})
}

// A sink that does not keep up stops the vehicle through flow control, and what waits is bounded.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	payload := `"` + strings.Repeat("x", 64<<10) + `"`
	release := make(chan struct{})
	sent := make(chan int, 10_000)
	server := vt.NewServer(t, vt.WithTCP(), vt.On("Scripted", vt.Script{func(ctx context.Context, c *vt.Call) error {
		for i := range 400 { // 25 MB
			if err := vt.Send(payload)(ctx, c); err != nil {
				return err
			}
			sent <- i
		}
		return vt.Answer(payload)(ctx, c)
	}}))
	sink := newRecorder(t)
	sink.onWrite = func(ctx context.Context, _ []vehicle.Chunk) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	client := server.Client(t, vehicle.WithSink(sink), vehicle.WithAttemptTimeout(0))
	done := make(chan error, 1)
	go func() {
		_, err := client.Execute(t.Context(), command("Scripted"))
		done <- err
	}()
	n := 0
	for idle := false; !idle; { // until the vehicle has been held up for a second
		select {
		case n = <-sent:
		case <-time.After(time.Second):
			idle = true
		}
	}
	if mb := n * len(payload) >> 20; mb > 16 {
		t.Errorf("the vehicle sent %d MB to a sink that took nothing; want less than 16", mb)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("Execute: %v", err)
	}
}

func TestStreamIsLazyAndSingleUse(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	client := server.Client(t)
	stream := client.Stream(t.Context(), command("ReadDTC"))
	if got := stream.Result(); got != nil {
		t.Errorf("Result before the loop: got %+v, want nil", got)
	}
	if got := server.Requests(); len(got) != 0 {
		t.Errorf("requests before the loop: got %d, want none", len(got))
	}
	n := 0
	for _, err := range stream.Chunks() {
		if err != nil {
			t.Fatalf("Chunks: %v", err)
		}
		if n++; stream.Result() != nil {
			t.Error("Result inside the loop: got one, want nil")
		}
	}
	if res := stream.Result(); res == nil || res.Chunks != n || n != 3 {
		t.Errorf("Result after the loop of %d: got %+v", n, res)
	}
	for _, err := range stream.Chunks() {
		if !errors.Is(err, vehicle.ErrInvalidCommand) {
			t.Errorf("the second loop: got %v, want ErrInvalidCommand", err)
		}
	}
	if got := len(server.Requests()); got != 1 {
		t.Errorf("requests: got %d, want 1", got)
	}
}

// A panic in an interceptor of the caller's ends the command and nothing else.
func TestInterceptorPanics(t *testing.T) {
	t.Parallel()
	panics := vehicle.WithDialOptions(grpc.WithStreamInterceptor(
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
			panic("interceptor")
		}))
	server := vt.NewServer(t)
	for _, opts := range [][]vehicle.Option{{panics}, {panics, vehicle.WithSink(newRecorder(t))}} {
		_, err := server.Client(t, opts...).Execute(t.Context(), command("ReadDTC"))
		if !errors.Is(err, vehicle.ErrInternal) || !strings.Contains(err.Error(), "with a string") {
			t.Errorf("Execute: got %v, want ErrInternal that tells of the panic", err)
		}
	}
}

// faltering is a stream that does something else than receive its third message.
type faltering struct {
	grpc.ClientStream
	received int
	at       int // the message before which it falters, from 1
	does     func()
}

func (s *faltering) RecvMsg(m any) error {
	if s.received++; s.received == s.at {
		s.does()
	}
	return s.ClientStream.RecvMsg(m)
}

// An interceptor that panics between two messages, or ends the goroutine as t.FailNow does, ends the command, in whichever
// goroutine it ran.
func TestInterceptorBreaksTheReceiving(t *testing.T) {
	t.Parallel()
	for name, does := range map[string]func(){"panics": func() { panic("interceptor") }, "ends the goroutine": runtime.Goexit} {
		for where, tt := range map[string]struct {
			opt vehicle.Option
			at  int
		}{
			"with a sink":            {vehicle.WithSink(newRecorder(t)), 3},
			"at first, with a sink":  {vehicle.WithSink(newRecorder(t)), 1},
			"at second, with a sink": {vehicle.WithSink(newRecorder(t)), 2},
			"as a long answer":       {vehicle.WithLookaheadAfter(1), 3},
		} {
			t.Run(name+" "+where, func(t *testing.T) {
				t.Parallel()
				client := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(numbered(5)...)})).Client(t, tt.opt, vehicle.WithDialOptions(grpc.WithStreamInterceptor(
					func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
						s, err := next(ctx, desc, cc, method, opts...)
						return &faltering{ClientStream: s, at: tt.at, does: does}, err
					})))
				res, err := client.Execute(t.Context(), command("Scripted"))
				if !errors.Is(err, vehicle.ErrInternal) || res.Chunks != tt.at-1 {
					t.Errorf("got %v after %d chunks, want ErrInternal after %d", err, res.Chunks, tt.at-1)
				}
			})
		}
	}
}

// Who leaves the loop over a long answer leaves nothing behind: the vehicle is told, and no goroutine holds up Close.
func TestLeavingALongAnswer(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(numbered(1000)...), vt.Stall()}))
	client := server.Client(t)
	n := 0
	for _, err := range client.Stream(t.Context(), command("Scripted")).Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 500 {
			break
		}
	}
	if end, err := server.Requests()[0].Wait(t.Context()); err != nil || end.How != vt.Canceled {
		t.Errorf("got %v and %v, want canceled", end, err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestCloseInALongAnswer(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(numbered(1000)...), vt.Stall()}))
	client := server.Client(t)
	n := 0
	var last error
	for _, err := range client.Stream(t.Context(), command("Scripted")).Chunks() {
		if last = err; err != nil {
			break
		}
		if n++; n == 500 {
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	}
	if n != 500 || !errors.Is(last, vehicle.ErrClosed) {
		t.Errorf("got %d chunks and %v, want 500 and ErrClosed", n, last)
	}
}

// counted is a stream that knows how many receive from it.
type counted struct {
	grpc.ClientStream
	now, most *atomic.Int32
}

func (s counted) RecvMsg(m any) error {
	if n := s.now.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	defer s.now.Add(-1)
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		time.Sleep(time.Second) // of the bubble: whoever does not wait is seen
	}
	return err
}

// One goroutine receives at a time, and none when the loop has been left.
func TestALongAnswerIsReceivedByOneAtATime(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		script vt.Script
		leave  int // after so many chunks; 0: not before it is over
	}{
		"the loop is left":                        {vt.Script{vt.Send(`0`, `1`, `2`), vt.Stall()}, 2},
		"the final chunk comes before the others": {vt.Script{vt.SendRaw(last(seq(2, `2`)), seq(0, `0`), seq(1, `1`)), vt.Stall()}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var now, most atomic.Int32
				client := vt.NewServer(t, vt.On("Scripted", tt.script)).Client(t, vehicle.WithLookaheadAfter(1), vehicle.WithDialOptions(grpc.WithStreamInterceptor(
					func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
						s, err := next(ctx, desc, cc, method, opts...)
						return counted{s, &now, &most}, err
					})))
				n := 0
				for _, err := range client.Stream(t.Context(), command("Scripted")).Chunks() {
					if err != nil {
						t.Fatal(err)
					}
					if n++; n == tt.leave {
						break
					}
				}
				if got := now.Load(); tt.leave > 0 && got != 0 {
					t.Errorf("got %d that receive when the loop has been left, want none", got)
				}
				time.Sleep(100 * time.Millisecond) // the stream of a completed command is being seen off
				if got := most.Load(); got != 1 {
					t.Errorf("got %d that received at once, want 1", got)
				}
			})
		})
	}
}
