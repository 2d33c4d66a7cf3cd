package vehicle_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// said is what the client and one call were told.
type said struct {
	client []vehicle.Option
	call   []vehicle.CallOption
}

type (
	client = []vehicle.Option
	call   = []vehicle.CallOption
)

func TestWithAttemptTimeout(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		said said
		ctx  time.Duration // the caller's deadline; 0: none
		want time.Duration // on the wire; 0: none
	}{
		"the default is 30 s":               {want: 30 * time.Second},
		"the client's is sent":              {said: said{client: client{vehicle.WithAttemptTimeout(5 * time.Second)}}, want: 5 * time.Second},
		"the later one counts":              {said: said{client: client{vehicle.WithAttemptTimeout(5 * time.Second), vehicle.WithAttemptTimeout(7 * time.Second)}}, want: 7 * time.Second},
		"the call's counts":                 {said: said{client{vehicle.WithAttemptTimeout(5 * time.Second)}, call{vehicle.WithAttemptTimeout(9 * time.Second)}}, want: 9 * time.Second},
		"the call's later one counts":       {said: said{call: call{vehicle.WithAttemptTimeout(9 * time.Second), vehicle.WithAttemptTimeout(time.Second)}}, want: time.Second},
		"zero is none":                      {said: said{call: call{vehicle.WithAttemptTimeout(0)}}},
		"a negative one is none":            {said: said{call: call{vehicle.WithAttemptTimeout(-1)}}},
		"the caller's earlier ctx counts":   {ctx: 10 * time.Second, want: 10 * time.Second},
		"the caller's later ctx does not":   {ctx: time.Hour, want: 30 * time.Second},
		"without one the caller's ctx does": {said: said{call: call{vehicle.WithAttemptTimeout(0)}}, ctx: time.Hour, want: time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Answer(`1`)}))
				ctx := t.Context()
				if tt.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.ctx)
					defer cancel()
				}
				if _, err := server.Client(t, tt.said.client...).Execute(ctx, command("ReadDTC"), tt.said.call...); err != nil {
					t.Fatal(err)
				}
				var got time.Duration
				if r := server.Requests()[0]; !r.Deadline.IsZero() {
					got = r.Deadline.Sub(r.Arrived)
				}
				if got != tt.want {
					t.Errorf("the request's deadline: got %v, want %v (0: none)", got, tt.want)
				}
			})
		})
	}
}

func TestWithIdleTimeout(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		said said
		want time.Duration // after which a silent vehicle is given up
	}{
		"the default is none but the attempt's": {want: 30 * time.Second},
		"the client's counts":                   {said: said{client: client{vehicle.WithIdleTimeout(5 * time.Second)}}, want: 5 * time.Second},
		"the later one counts":                  {said: said{client: client{vehicle.WithIdleTimeout(5 * time.Second), vehicle.WithIdleTimeout(4 * time.Second)}}, want: 4 * time.Second},
		"the call's counts":                     {said: said{client{vehicle.WithIdleTimeout(5 * time.Second)}, call{vehicle.WithIdleTimeout(3 * time.Second)}}, want: 3 * time.Second},
		"zero is none":                          {said: said{client{vehicle.WithIdleTimeout(5 * time.Second)}, call{vehicle.WithIdleTimeout(0)}}, want: 30 * time.Second},
		"a negative one is none":                {said: said{call: call{vehicle.WithIdleTimeout(-1)}}, want: 30 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Stall()}))
				start := time.Now()
				_, err := server.Client(t, tt.said.client...).Execute(t.Context(), command("ReadDTC"), append(tt.said.call, vehicle.WithoutRetry())...)
				wantSentinel(t, err, "ErrTimeout")
				if got := time.Since(start); got != tt.want {
					t.Errorf("given up: got after %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestWithRetry(t *testing.T) {
	t.Parallel()
	unavailable, stall := vt.Script{vt.Fail(codes.Unavailable, "gateway restarting")}, vt.Script{vt.Stall()}
	retry := func(p vehicle.RetryPolicy) vehicle.CallOption { p.Jitter = -1; return vehicle.WithRetry(p) }
	tests := map[string]struct {
		said   said
		script vt.Script
		want   []time.Duration // the attempts' beginnings
	}{
		"the default is 3 retries": {said: said{call: call{retry(vehicle.RetryPolicy{})}}, script: unavailable,
			want: []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second}},
		"the default is 1 retry after a timeout": {said: said{call: call{retry(vehicle.RetryPolicy{})}}, script: stall,
			want: []time.Duration{0, 31 * time.Second}},
		"the client's policy counts": {said: said{client: client{retry(vehicle.RetryPolicy{MaxRetries: 1, BaseDelay: 3 * time.Second})}}, script: unavailable,
			want: []time.Duration{0, 3 * time.Second}},
		"the later policy counts": {said: said{client: client{retry(vehicle.RetryPolicy{MaxRetries: 5}), retry(vehicle.RetryPolicy{MaxRetries: 1})}}, script: unavailable,
			want: []time.Duration{0, time.Second}},
		"the call's policy counts, as a whole": {said: said{client{retry(vehicle.RetryPolicy{BaseDelay: time.Minute, MaxDelay: time.Hour})}, call{retry(vehicle.RetryPolicy{MaxRetries: 1})}}, script: unavailable,
			want: []time.Duration{0, time.Second}},
		"timeouts have a count of their own": {said: said{client: client{retry(vehicle.RetryPolicy{TimeoutRetries: 2, MaxRetries: -1})}}, script: stall,
			want: []time.Duration{0, 31 * time.Second, 63 * time.Second}},
		"a negative count means none":               {said: said{call: call{retry(vehicle.RetryPolicy{MaxRetries: -1})}}, script: unavailable, want: []time.Duration{0}},
		"WithoutRetry means none":                   {said: said{client: client{vehicle.WithoutRetry()}}, script: unavailable, want: []time.Duration{0}},
		"WithoutRetry means none for timeouts too":  {said: said{client: client{vehicle.WithoutRetry()}}, script: stall, want: []time.Duration{0}},
		"the call's WithoutRetry counts":            {said: said{client{retry(vehicle.RetryPolicy{})}, call{vehicle.WithoutRetry()}}, script: unavailable, want: []time.Duration{0}},
		"the call's WithRetry over the client's":    {said: said{client{vehicle.WithoutRetry()}, call{retry(vehicle.RetryPolicy{MaxRetries: 1})}}, script: unavailable, want: []time.Duration{0, time.Second}},
		"WithoutRetry said twice is no trouble":     {said: said{call: call{vehicle.WithoutRetry(), vehicle.WithoutRetry()}}, script: unavailable, want: []time.Duration{0}},
		"no delay is no delay":                      {said: said{call: call{retry(vehicle.RetryPolicy{BaseDelay: -1})}}, script: unavailable, want: []time.Duration{0, 0, 0, 0}},
		"the longest delay is kept to":              {said: said{call: call{retry(vehicle.RetryPolicy{MaxDelay: 1500 * time.Millisecond})}}, script: unavailable, want: []time.Duration{0, 1000 * time.Millisecond, 2500 * time.Millisecond, 4000 * time.Millisecond}},
		"a multiplier of 1 makes the delays equal":  {said: said{call: call{retry(vehicle.RetryPolicy{Multiplier: 1})}}, script: unavailable, want: []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}},
		"a base over the default longest delay can": {said: said{call: call{retry(vehicle.RetryPolicy{BaseDelay: time.Minute, MaxRetries: 1})}}, script: unavailable, want: []time.Duration{0, time.Minute}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("ReadDTC", tt.script))
				start := time.Now()
				res, err := server.Client(t, tt.said.client...).Execute(t.Context(), command("ReadDTC"), tt.said.call...)
				if wantError(t, err).Attempts != len(tt.want) || res.Attempts != len(tt.want) {
					t.Errorf("got %d attempts and %v, want %d", res.Attempts, err, len(tt.want))
				}
				var got []time.Duration
				for _, r := range server.Requests() {
					got = append(got, r.Arrived.Sub(start))
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("attempts began (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestWithResume(t *testing.T) {
	t.Parallel()
	scripts := []vt.Script{{vt.Send(`1`, `2`), vt.Cut()}, {vt.Answer(`1`, `"another"`, `3`)}}
	tests := map[string]struct {
		said     said
		want     string // the sentinel; "": completed
		attempts int
	}{
		"the default is to verify":      {want: "ErrReplayDiverged", attempts: 2},
		"ResumeVerified verifies":       {said: said{client: client{vehicle.WithResume(vehicle.ResumeVerified)}}, want: "ErrReplayDiverged", attempts: 2},
		"ResumeTrust trusts":            {said: said{client: client{vehicle.WithResume(vehicle.ResumeTrust)}}, attempts: 2},
		"ResumeNever does not resume":   {said: said{client: client{vehicle.WithResume(vehicle.ResumeNever)}}, want: "ErrUnavailable", attempts: 1},
		"the later one counts":          {said: said{client: client{vehicle.WithResume(vehicle.ResumeNever), vehicle.WithResume(vehicle.ResumeTrust)}}, attempts: 2},
		"the call's counts":             {said: said{client{vehicle.WithResume(vehicle.ResumeNever)}, call{vehicle.WithResume(vehicle.ResumeTrust)}}, attempts: 2},
		"the call's zero counts as one": {said: said{client{vehicle.WithResume(vehicle.ResumeTrust)}, call{vehicle.WithResume(0)}}, want: "ErrReplayDiverged", attempts: 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("ReadDTC", scripts...))
				res, err := server.Client(t, tt.said.client...).Execute(t.Context(), command("ReadDTC"), tt.said.call...)
				if tt.want != "" {
					wantSentinel(t, err, tt.want)
				} else if err != nil {
					t.Errorf("got error %v, want none", err)
				}
				if res.Attempts != tt.attempts {
					t.Errorf("attempts: got %d, want %d", res.Attempts, tt.attempts)
				}
			})
		})
	}
}

func TestWithReorderWindow(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		said said
		want int // so many chunks may wait, and no more
	}{
		"the default is 64":            {want: 64},
		"the client's counts":          {said: said{client: client{vehicle.WithReorderWindow(3)}}, want: 3},
		"the later one counts":         {said: said{client: client{vehicle.WithReorderWindow(3), vehicle.WithReorderWindow(2)}}, want: 2},
		"the call's counts":            {said: said{client{vehicle.WithReorderWindow(3)}, call{vehicle.WithReorderWindow(100)}}, want: 100},
		"0 takes chunks in order only": {said: said{call: call{vehicle.WithReorderWindow(0)}}, want: 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, waiting := range []int{tt.want, tt.want + 1} {
				messages := []*vehiclepb.CommandResponse{seq(0, `0`)}
				for n := range waiting {
					messages = append(messages, seq(int32(n)+2, `2`))
				}
				messages = append(messages, seq(1, `1`), last(seq(int32(waiting)+2, `3`)))
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.SendRaw(messages...)}))
				_, err := server.Client(t, tt.said.client...).Execute(t.Context(), command("ReadDTC"), tt.said.call...)
				if waiting == tt.want && err != nil {
					t.Errorf("%d chunks that wait: got %v, want no error", waiting, err)
				}
				if waiting > tt.want {
					wantSentinel(t, err, "ErrSequence")
				}
			}
		})
	}
}

// named is a sink that notes in a common log that it was told.
type named struct {
	name string
	log  *strings.Builder
}

func (n named) Begin(context.Context, vehicle.Command) error {
	fmt.Fprint(n.log, n.name, " ")
	return nil
}
func (named) Write(context.Context, []vehicle.Chunk) error { return nil }
func (named) End(context.Context, vehicle.Result) error    { return nil }

// tagging is an observer too.
type tagging struct {
	named
	tags *strings.Builder
}

func (s tagging) TagCommand(ctx context.Context, _ vehicle.Command) context.Context {
	s.tags.WriteString(s.name + " ")
	return ctx
}
func (s tagging) TagAttempt(ctx context.Context, _ vehicle.Attempt) context.Context { return ctx }
func (s tagging) Observe(context.Context, vehicle.Event)                            {}

func TestWithSink(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	var log, tags strings.Builder
	sink := func(name string) vehicle.Sink { return tagging{named{name, &log}, &tags} }
	handed := []vehicle.Sink{sink("c3"), sink("c4"), sink("spare")}[:2]
	second := vehicle.WithSink(handed...)
	handed[1] = sink("changed by the caller")
	// The client's four sinks leave room behind them where append made it: calls must not share it.
	client := server.Client(t, vehicle.WithSink(sink("c1"), sink("c2")), second, vehicle.WithSink(sink("c5")))
	streams := map[string]*vehicle.Stream{
		"c1 c2 c3 c4 c5 a1 a2 ": client.Stream(t.Context(), command("ReadDTC"), vehicle.WithSink(sink("a1")), vehicle.WithSink(sink("a2"))),
		"c1 c2 c3 c4 c5 b ":     client.Stream(t.Context(), command("ReadDTC"), vehicle.WithSink(sink("b"))),
		"c1 c2 c3 c4 c5 ":       client.Stream(t.Context(), command("ReadDTC")),
	}
	for want, stream := range streams {
		log.Reset()
		tags.Reset()
		if err := lastError(stream.Chunks()); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); got != want {
			t.Errorf("sinks begun: got %s, want %s", got, want)
		}
		if got := tags.String(); got != want {
			t.Errorf("observers told: got %s, want %s", got, want)
		}
	}
	if got, ok := handed[:3][2].(tagging); !ok || got.name != "spare" {
		t.Errorf("the caller's slice: got %v behind its end, want what was there", got)
	}
}

func TestWithMetadata(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		said said
		ctx  metadata.MD
		want metadata.MD
	}{
		"the client's is sent": {said: said{client: client{vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-7"))}}, want: metadata.Pairs("tenant", "fleet-7")},
		"several add up": {said: said{client{vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-7")), vehicle.WithMetadata(metadata.Pairs("trace", "1"))}, call{vehicle.WithMetadata(metadata.Pairs("user", "ann"))}},
			want: metadata.Pairs("tenant", "fleet-7", "trace", "1", "user", "ann")},
		"the later value replaces the earlier": {said: said{client: client{vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-7", "tenant", "fleet-8")), vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-9"))}},
			want: metadata.Pairs("tenant", "fleet-9")},
		"the call's value replaces the client's": {said: said{client{vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-7"))}, call{vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-8"))}},
			want: metadata.Pairs("tenant", "fleet-8")},
		"several values of a key are sent": {said: said{call: call{vehicle.WithMetadata(metadata.Pairs("tenant", "a", "tenant", "b"))}}, want: metadata.Pairs("tenant", "a", "tenant", "b")},
		"what ctx carries is sent too":     {said: said{call: call{vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-7"))}}, ctx: metadata.Pairs("trace", "1"), want: metadata.Pairs("tenant", "fleet-7", "trace", "1")},
		"what ctx carries alone is sent":   {ctx: metadata.Pairs("trace", "1"), want: metadata.Pairs("trace", "1")},
		"keys are lower-cased":             {said: said{call: call{vehicle.WithMetadata(metadata.MD{"Tenant": {"fleet-7"}})}}, want: metadata.Pairs("tenant", "fleet-7")},
		"binary values are sent":           {said: said{call: call{vehicle.WithMetadata(metadata.Pairs("token-bin", "\x00\xff\n"))}}, want: metadata.Pairs("token-bin", "\x00\xff\n")},
		"a key may have these characters":  {said: said{call: call{vehicle.WithMetadata(metadata.Pairs("az-09_.", "a ~"))}}, want: metadata.Pairs("az-09_.", "a ~")},
		"empty values are sent":            {said: said{call: call{vehicle.WithMetadata(metadata.Pairs("tenant", ""))}}, want: metadata.Pairs("tenant", "")},
		"nil is none":                      {said: said{call: call{vehicle.WithMetadata(nil)}}, want: metadata.MD{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Fail(codes.Unavailable, "")}, vt.Script{vt.Answer(`1`)}))
			ctx := metadata.NewOutgoingContext(t.Context(), tt.ctx)
			if _, err := server.Client(t, append(tt.said.client, quickly())...).Execute(ctx, command("ReadDTC"), tt.said.call...); err != nil {
				t.Fatal(err)
			}
			requests := server.Requests()
			if len(requests) != 2 {
				t.Fatalf("got %d attempts, want 2", len(requests))
			}
			for i, r := range requests {
				if r.Attempt != i+1 {
					t.Errorf("x-sovd-attempt: got %d, want %d", r.Attempt, i+1)
				}
				got := r.Metadata.Copy()
				for _, key := range []string{":authority", "content-type", "user-agent", "x-sovd-attempt", "grpc-accept-encoding"} {
					delete(got, key)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("metadata of attempt %d (-want +got):\n%s", i+1, diff)
				}
			}
		})
	}
}

// A service between the caller and the vehicle may pass on all that it was told, and that of an attempt is not this client's.
func TestHeadersOfTheCallersAreReplaced(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Resume(), vt.Send(`0`, `1`), vt.Cut()}, vt.Script{vt.Resume(), vt.Answer(`0`, `1`, `2`)}))
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("x-sovd-attempt", "4", "x-sovd-resume-from", "1", "trace", "1"))
	if _, err := server.Client(t, quickly()).Execute(ctx, command("ReadDTC")); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	var got []metadata.MD
	for _, r := range server.Requests() {
		told := metadata.MD{}
		for _, key := range []string{"x-sovd-attempt", "x-sovd-resume-from", "trace"} {
			if values := r.Metadata.Get(key); values != nil {
				told[key] = values
			}
		}
		got = append(got, told)
	}
	want := []metadata.MD{metadata.Pairs("x-sovd-attempt", "1", "trace", "1"), metadata.Pairs("x-sovd-attempt", "2", "x-sovd-resume-from", "2", "trace", "1")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the attempts told the vehicle (-want +got):\n%s", diff)
	}
}

func TestWithMetadataKeepsACopy(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	md := metadata.MD{"Tenant": {"fleet-7"}}
	option := vehicle.WithMetadata(md)
	md["Tenant"][0] = "changed by the caller"
	md["other"] = []string{"added by the caller"}
	client := server.Client(t, option)
	for _, opts := range []call{nil, {vehicle.WithMetadata(metadata.Pairs("tenant", "fleet-8"))}, nil} { // one call's is not the next one's
		if _, err := client.Execute(t.Context(), command("ReadDTC"), opts...); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, r := range server.Requests() {
		got = append(got, strings.Join(append(r.Metadata.Get("tenant"), r.Metadata.Get("other")...), "+"))
	}
	if diff := cmp.Diff([]string{"fleet-7", "fleet-8", "fleet-7"}, got); diff != "" {
		t.Errorf("metadata of three calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(metadata.MD{"Tenant": {"changed by the caller"}, "other": {"added by the caller"}}, md); diff != "" {
		t.Errorf("the caller's metadata (-want +got):\n%s", diff)
	}
}

func TestWithConcurrency(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		said said
		want int
	}{
		"the default is 64":    {want: 64},
		"the client's counts":  {said: said{client: client{vehicle.WithConcurrency(5)}}, want: 5},
		"the later one counts": {said: said{client: client{vehicle.WithConcurrency(5), vehicle.WithConcurrency(6)}}, want: 6},
		"the call's counts":    {said: said{client{vehicle.WithConcurrency(5)}, call{vehicle.WithConcurrency(1)}}, want: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.Until(release), vt.Answer(`1`)}))
				cmds := slices.Repeat([]vehicle.Command{{VehicleID: uuid.New(), Name: "ReadDTC"}}, 100)
				client := server.Client(t, tt.said.client...)
				var all sync.WaitGroup
				ended := 0
				all.Go(func() {
					for _, err := range client.ExecuteAll(t.Context(), slices.Values(cmds), tt.said.call...) {
						if ended++; err != nil {
							t.Error(err)
						}
					}
				})
				synctest.Wait()
				if got := len(server.Requests()); got != tt.want {
					t.Errorf("commands at once: got %d, want %d", got, tt.want)
				}
				close(release)
				all.Wait()
				if ended != len(cmds) {
					t.Errorf("commands that ended: got %d, want %d", ended, len(cmds))
				}
			})
		})
	}
}

func TestWithMaxMessageSize(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts []vehicle.Option
		want int
	}{
		"the default is 10 MiB": {want: 10 << 20},
		"the client's counts":   {opts: client{vehicle.WithMaxMessageSize(1000)}, want: 1000},
		"the later one counts":  {opts: client{vehicle.WithMaxMessageSize(1000), vehicle.WithMaxMessageSize(2000)}, want: 2000},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{tt.want, tt.want + 1} {
				cmd := command("ReadDTC")
				message := last(seq(0, ""))
				message.CommandId = cmd.ID.String()
				for n := size; n > 0; n -= max(proto.Size(message)-size, 1) { // the length of the length varies
					if message.ResponsePayload = `"` + strings.Repeat("F", n-2) + `"`; proto.Size(message) <= size {
						break
					}
				}
				if got := proto.Size(message); got != size {
					t.Fatalf("got a message of %d bytes, want %d", got, size)
				}
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.SendRaw(message)}))
				_, err := server.Client(t, tt.opts...).Execute(t.Context(), cmd)
				if size == tt.want && err != nil {
					t.Errorf("a message of %d bytes: got %v, want no error", size, err)
				}
				if size > tt.want {
					wantSentinel(t, err, "ErrMalformedResponse")
					if want := fmt.Sprintf("over the limit of %d bytes (see WithMaxMessageSize)", tt.want); !strings.Contains(err.Error(), want) {
						t.Errorf("a message of %d bytes: got %v, want %q in it", size, err, want)
					}
				}
			}
		})
	}
}

func TestWithPoolSize(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts []vehicle.Option
		want int
	}{
		"the default is 16":    {want: 16},
		"one is one":           {opts: client{vehicle.WithPoolSize(1)}, want: 1},
		"the later one counts": {opts: client{vehicle.WithPoolSize(1), vehicle.WithPoolSize(3)}, want: 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				server := vt.NewServer(t, vt.WithServerOptions(grpc.MaxConcurrentStreams(1)),
					vt.On("ReadDTC", vt.Script{vt.Until(release), vt.Answer(`1`)}))
				client := server.Client(t, tt.opts...)
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() {
						if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
							t.Error(err)
						}
					})
				}
				pass(5 * time.Second)
				synctest.Wait()
				conns := map[int]bool{}
				for _, r := range server.Requests() {
					conns[r.Conn] = true
				}
				if got := len(conns); got != tt.want {
					t.Errorf("connections to a server that takes one stream on each: got %d, want %d", got, tt.want)
				}
				close(release)
				all.Wait()
			})
		})
	}
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.NewTimer(d).C }

// The link dies without a word, and only probing finds out.
func TestWithKeepalive(t *testing.T) {
	t.Parallel()
	with := func(p keepalive.ClientParameters) vehicle.Option { return vehicle.WithKeepalive(p) }
	tests := map[string]struct {
		opts []vehicle.Option
		want time.Duration // until the command fails; an hour: it is not noticed
	}{
		"the default is 30 s and 10 s":  {want: 40 * time.Second},
		"the client's counts":           {opts: client{with(keepalive.ClientParameters{Time: time.Minute, Timeout: 5 * time.Second})}, want: 65 * time.Second},
		"the later one counts":          {opts: client{with(keepalive.ClientParameters{}), with(keepalive.ClientParameters{Time: time.Minute, Timeout: time.Second})}, want: 61 * time.Second},
		"less than 10 s is 10 s":        {opts: client{with(keepalive.ClientParameters{Time: time.Second, Timeout: time.Second})}, want: 11 * time.Second},
		"no timeout is gRPC's, 20 s":    {opts: client{with(keepalive.ClientParameters{Time: 10 * time.Second})}, want: 30 * time.Second},
		"no time is no probing":         {opts: client{with(keepalive.ClientParameters{})}, want: time.Hour},
		"a negative time is no probing": {opts: client{with(keepalive.ClientParameters{Time: -1})}, want: time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.BlackHole()}))
				client := server.Client(t, append(tt.opts, vehicle.WithoutRetry(), vehicle.WithAttemptTimeout(time.Hour))...)
				start := time.Now()
				_, err := client.Execute(t.Context(), command("ReadDTC"))
				if got := time.Since(start); got != tt.want {
					t.Errorf("got %v after %v, want it after %v", err, got, tt.want)
				}
				want := "ErrUnavailable"
				if tt.want == time.Hour {
					want = "ErrTimeout"
				}
				wantSentinel(t, err, want)
			})
		})
	}
}

// By default a link that died while nothing ran is found before the next command needs it.
func TestWithKeepaliveWithoutStreams(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts []vehicle.Option
		want int // connections that the next command has seen
	}{
		"the default probes idle connections": {want: 2},
		"without PermitWithoutStream nothing is noticed": {
			opts: client{vehicle.WithKeepalive(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second})}, want: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, vt.On("ReadDTC", vt.Script{vt.BlackHole()}), vt.On("ClearDTC", vt.Script{vt.Answer(`1`)}))
				client := server.Client(t, append(tt.opts, vehicle.WithoutRetry(), vehicle.WithAttemptTimeout(time.Second))...)
				_, err := client.Execute(t.Context(), command("ReadDTC"))
				wantSentinel(t, err, "ErrTimeout")
				pass(5 * time.Minute)
				_, err = client.Execute(t.Context(), command("ClearDTC"))
				if found := err == nil; found != (tt.want == 2) {
					t.Errorf("the next command: got %v, want connection %d to be used", err, tt.want)
				}
			})
		})
	}
}
