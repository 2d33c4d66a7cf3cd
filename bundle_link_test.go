package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/dialing"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// counter is a stats handler that counts the messages that gRPC receives.
type counter struct{ received atomic.Int32 }

func (*counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*counter) HandleConn(context.Context, stats.ConnStats)                       {}

func (c *counter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InPayload); ok {
		c.received.Add(1)
	}
}

func TestChunksThatArriveTogetherAreOneMessageWhereNobodyLooks(t *testing.T) {
	t.Parallel()
	payloads := slices.Repeat([]string{`"` + strings.Repeat("a", 100) + `"`}, 500)
	seen := new(counter)
	watched := grpc.WithStatsHandler(seen)
	for _, tt := range []struct {
		name   string
		server []vt.Option
		option grpc.DialOption
		apart  bool
	}{
		{"in plaintext", nil, dialing.Way{DialOption: watched}, false},
		{"with TLS", []vt.Option{vt.WithMutualTLS(vt.NewCA(t))}, dialing.Way{DialOption: watched}, false},
		{"where somebody may look", nil, watched, true},
	} {
		t.Run(tt.name, func(t *testing.T) { // one after the other: they share a counter
			server := vt.NewServer(t, append(tt.server, vt.WithTCP(), vt.WithServerOptions(grpc.WriteBufferSize(32<<10)), vt.On("ReadDTC", vt.Script{vt.Answer(payloads...)}))...)
			for _, with := range []vehicle.Option{vehicle.WithSink(newRecorder(t)), vehicle.WithLookaheadAfter(64)} {
				seen.received.Store(0)
				res, err := server.Client(t, with, vehicle.WithDialOptions(tt.option)).Execute(t.Context(), command("ReadDTC"))
				if err != nil || res.Chunks != len(payloads) {
					t.Fatalf("got %d chunks, %v, want %d", res.Chunks, err, len(payloads))
				}
				if got := int(seen.received.Load()); tt.apart && got != len(payloads) || !tt.apart && got > len(payloads)/2 {
					t.Errorf("gRPC received %d messages of %d chunks; apart: %v", got, len(payloads), tt.apart)
				}
			}
		})
	}
}

// gathering is a connection on which an answer arrives at once, when it is complete.
type gathering struct {
	net.Conn
	came  []byte // and may not be read yet
	whole []byte
	err   error
}

func (g *gathering) Read(p []byte) (int, error) {
	for len(g.whole) == 0 {
		if g.err != nil {
			return 0, g.err
		}
		n, err := g.Conn.Read(p)
		if g.came, g.err = append(g.came, p[:n]...), err; err != nil {
			g.whole, g.came = g.came, nil
			continue
		}
		g.release()
	}
	n := copy(p, g.whole)
	g.whole = g.whole[n:]
	return n, nil
}

// release lets frames be read up to the end of an answer, or to the beginning of one.
func (g *gathering) release() {
	const header, data, endStream = 9, 0, 1
	free, amid := 0, false
	for at := 0; len(g.came)-at >= header; {
		frame := g.came[at:]
		at += header + int(frame[0])<<16 + int(frame[1])<<8 + int(frame[2])
		if at > len(g.came) {
			break
		}
		amid = (amid || frame[3] == data) && frame[4]&endStream == 0
		if !amid {
			free = at
		}
	}
	g.whole, g.came = append(g.whole, g.came[:free]...), append([]byte(nil), g.came[free:]...)
}

// gathered reaches a server by connections on which an answer arrives at once.
func gathered(server *vt.Server) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := server.Dial(ctx, address)
		return &gathering{Conn: conn}, err
	})
}

// ways are those of a client that gets messages one by one, and of one that gets them in bundles.
func ways() map[string]func(grpc.DialOption) vehicle.Option {
	return map[string]func(grpc.DialOption) vehicle.Option{
		"apart":      func(o grpc.DialOption) vehicle.Option { return vehicle.WithDialOptions(o) },
		"in bundles": func(o grpc.DialOption) vehicle.Option { return vehicle.WithDialOptions(dialing.Way{DialOption: o}) },
	}
}

// What is in bundles comes to the same as what is not.
func TestAnAnswerThatArrivesAtOnceIsTheSameAsOneThatDoesNot(t *testing.T) {
	t.Parallel()
	unavailable := vt.Fail(codes.Unavailable, "gateway restarting")
	many := numbered(300)
	for name, scripts := range map[string][]vt.Script{
		"a short answer":                            {{vt.Answer(`1`, `2`, `3`)}},
		"a long answer":                             {{vt.Answer(many...)}},
		"chunks of many sizes":                      {{vt.Answer(`"`+strings.Repeat("a", 5000)+`"`, `"b"`, `"`+strings.Repeat("c", 40_000)+`"`, `"d"`, `"`+strings.Repeat("e", 900)+`"`, `"f"`)}},
		"an answer that breaks off":                 {{vt.Send(`1`, `2`, `3`), unavailable}, {vt.Answer(`1`, `2`, `3`, `4`)}},
		"an answer that breaks off with no end":     {{vt.Send(`1`, `2`, `3`), unavailable}, {vt.Send(`1`, `2`, `3`), unavailable}},
		"an answer without a final chunk":           {{vt.Send(`1`, `2`, `3`)}},
		"something after the final chunk":           {{vt.Answer(`1`, `2`, `3`), vt.Send(`4`)}},
		"chunks out of order":                       {{vt.SendRaw(seq(2, `3`), seq(0, `1`), seq(3, `4`), last(seq(4, `5`)), seq(1, `2`))}},
		"a replay that differs":                     {{vt.Send(`1`, `2`, `3`), unavailable}, {vt.Answer(`1`, `2`, `4`, `5`)}},
		"a payload that is no JSON":                 {{vt.Send(`1`, `2`), vt.SendRaw(seq(2, `{`)), vt.Answer(`4`)}},
		"a chunk of another command":                {{vt.Send(`1`, `2`), vt.SendEdited(`3`, func(m *vehiclepb.CommandResponse) { m.CommandId = "another" }), vt.Answer(`4`)}},
		"a message that is no protobuf":             {{vt.Send(`1`, `2`), vt.SendBytes([]byte("not protobuf")), vt.Answer(`3`)}},
		"a message that is no protobuf at first":    {{vt.SendBytes([]byte("\n\x01\xff")), vt.Answer(`1`)}},
		"a first message that begins as bundles do": {{vt.SendBytes([]byte("\x02a")), vt.Answer(`1`)}},
		"a message that begins as bundles do":       {{vt.Send(`1`), vt.SendBytes([]byte("\x02a")), vt.Answer(`2`)}},
	} {
		for how, opts := range map[string][]vehicle.Option{
			"": nil, ", as a long one": {vehicle.WithLookaheadAfter(1)}, ", for a sink": {vehicle.WithSink(newRecorder(t))},
		} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				outcome := func(way func(grpc.DialOption) vehicle.Option) (string, int32) {
					server, seen := vt.NewServer(t, vt.On("Scripted", scripts...)), new(counter)
					client := server.Client(t, append(slices.Clone(opts), quickly(), way(gathered(server)), way(grpc.WithStatsHandler(seen)))...)
					stream := client.Stream(t.Context(), command("Scripted"))
					var got []string
					for chunk, err := range stream.Chunks() {
						if err != nil {
							break
						}
						got = append(got, string(chunk.Payload))
					}
					res := stream.Result()
					text := ""
					if res.Err != nil { // but for the command's ID
						text = strings.ReplaceAll(res.Err.Error(), res.Command.ID.String(), "")
						text = strings.ReplaceAll(text, res.Command.VehicleID.String(), "")
					}
					return fmt.Sprintf("%q\n%d chunks, %d attempts, %d replayed, %s", got, res.Chunks, res.Attempts, res.Replayed, text), seen.received.Load()
				}
				want, apart := outcome(ways()["apart"])
				got, messages := outcome(ways()["in bundles"])
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-apart +in bundles):\n%s", diff)
				}
				if apart > 1 && messages >= apart {
					t.Errorf("gRPC received %d messages, want fewer than %d: some in bundles", messages, apart)
				}
			})
		}
	}
}

func TestAnAnswerThatArrivesAtOnceIsOneWrite(t *testing.T) {
	t.Parallel()
	server, sink := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(`1`, `2`, `3`)})), newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink), ways()["in bundles"](gathered(server)))
	if _, err := client.Execute(t.Context(), command("Scripted")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{3}, sink.batches); diff != "" {
		t.Errorf("chunks in each Write (-want +got):\n%s", diff)
	}
}

func TestAMalformedMessageIsOneThoughTimeHasRunOut(t *testing.T) {
	t.Parallel()
	malformed := vt.SendBytes([]byte("\n\x01\xff"))
	for name, scripts := range map[string][]vt.Script{
		"and others come after it":      {{vt.Send(`"a"`), malformed, vt.SendRaw(seq(1, `"stale"`)), vt.Send(`"x"`)}, {vt.Answer(`"a"`, `"b"`, `"c"`)}},
		"and another attempt may break": {{vt.Send(`"a"`), malformed}, {vt.Fail(codes.Unavailable, "gateway restarting")}, {vt.Answer(`"a"`, `"b"`)}},
	} {
		for how, way := range ways() {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := vt.NewServer(t, vt.On("Scripted", scripts...))
					client := server.Client(t, exactly(), vehicle.WithResume(vehicle.ResumeTrust), vehicle.WithAttemptTimeout(time.Second), way(gathered(server)))
					stream := client.Stream(t.Context(), command("Scripted"))
					var got []string
					for chunk, err := range stream.Chunks() {
						if err == nil {
							got = append(got, string(chunk.Payload))
							time.Sleep(2 * time.Second)
						}
					}
					if res := stream.Result(); !errors.Is(res.Err, vehicle.ErrMalformedResponse) || res.Attempts != 1 || !slices.Equal(got, []string{`"a"`}) {
						t.Errorf("got %q in %d attempts, %v, want one chunk in one, ErrMalformedResponse", got, res.Attempts, res.Err)
					}
				})
			})
		}
	}
}

func TestAMessageIsTooLargeThoughTimeHasRunOut(t *testing.T) {
	t.Parallel()
	for how, way := range ways() {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				large := vt.Script{vt.Send(`"a"`, `"`+strings.Repeat("x", 5000)+`"`)}
				server := vt.NewServer(t, vt.On("Scripted", large, large))
				client := server.Client(t, exactly(), vehicle.WithMaxMessageSize(1000), vehicle.WithAttemptTimeout(time.Second), way(gathered(server)))
				stream := client.Stream(t.Context(), command("Scripted"))
				for _, err := range stream.Chunks() {
					if err == nil {
						time.Sleep(2 * time.Second)
					}
				}
				if res := stream.Result(); !errors.Is(res.Err, vehicle.ErrMalformedResponse) || res.Attempts != 1 {
					t.Errorf("got %d attempts, %v, want one, ErrMalformedResponse", res.Attempts, res.Err)
				}
			})
		})
	}
}

// reopening is a stream that an interceptor opens again where it fails with INTERNAL, in the midst of receiving.
type reopening struct {
	grpc.ClientStream
	open func() (grpc.ClientStream, error)
	sent any
}

func (s *reopening) SendMsg(m any) error {
	s.sent = m
	return s.ClientStream.SendMsg(m)
}

func (s *reopening) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if status.Code(err) != codes.Internal {
		return err
	}
	if s.ClientStream, err = s.open(); err != nil {
		return err
	}
	if err := errors.Join(s.ClientStream.SendMsg(s.sent), s.CloseSend()); err != nil {
		return err
	}
	return s.ClientStream.RecvMsg(m)
}

func TestAMalformedMessageOfAStreamThatAnInterceptorOpenedAgainIsForgotten(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]vt.Script{
		"a chunk, then silence":     {vt.Send(`"a"`), vt.Stall()},
		"silence":                   {vt.Stall()},
		"a chunk, then UNAVAILABLE": {vt.Send(`"a"`), vt.Fail(codes.Unavailable, "gateway restarting")},
		"UNAVAILABLE":               {vt.Fail(codes.Unavailable, "gateway restarting")},
	} {
		for how, opt := range map[string]vehicle.Option{"a deadline": vehicle.WithAttemptTimeout(time.Second), "an idle timeout": vehicle.WithIdleTimeout(time.Second)} {
			t.Run(name+", with "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.SendBytes([]byte("\n\x01\xff"))}, second, vt.Script{vt.Answer(`"a"`, `"b"`)}))
					client := server.Client(t, exactly(), opt, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(
						func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
							again := func() (grpc.ClientStream, error) { return open(ctx, desc, cc, method, opts...) }
							stream, err := again()
							return &reopening{ClientStream: stream, open: again}, err
						})))
					if res, err := client.Execute(t.Context(), command("Scripted")); err != nil || res.Chunks != 2 {
						t.Errorf("got %d chunks in %d attempts, %v, want 2", res.Chunks, res.Attempts, err)
					}
				})
			})
		}
	}
}

func TestACallerThatCancelsSeesNothingOfABadChunkBehind(t *testing.T) {
	t.Parallel()
	for how, way := range ways() {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Send(`1`, `2`), vt.SendBytes([]byte("\n\x01\xff"))}))
			client := server.Client(t, vehicle.WithSink(newRecorder(t)), way(gathered(server)))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream := client.Stream(ctx, command("Scripted"))
			for chunk, err := range stream.Chunks() {
				if err == nil && chunk.Seq == 1 {
					cancel()
				}
			}
			if err := stream.Result().Err; !errors.Is(err, vehicle.ErrCanceled) {
				t.Errorf("got %v, want ErrCanceled", err)
			}
		})
	}
}

// The farewell of a stream reads what comes after the final chunk, with the command's codec.
func TestABundleAfterTheAnswerIsTheFarewells(t *testing.T) {
	t.Parallel()
	large := `"` + strings.Repeat("b", 8000) + `"`
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{
		vt.Send(`1`, large), vt.SendRaw(last(seq(2, `"f"`))), vt.SendRaw(seq(3, large), seq(4, large), seq(5, `5`), seq(6, `6`)),
	}))
	client := server.Client(t, vehicle.WithSink(newRecorder(t)), ways()["in bundles"](gathered(server)))
	for range 50 {
		if res, err := client.Execute(t.Context(), command("Scripted")); err != nil || res.Chunks != 3 {
			t.Fatalf("got %d chunks, %v, want 3", res.Chunks, err)
		}
	}
}

// limiting is a resolver whose service config has gRPC refuse messages over 1,000 bytes.
type limiting struct{}

func (limiting) Scheme() string                        { return "limiting" }
func (limiting) ResolveNow(resolver.ResolveNowOptions) {}
func (limiting) Close()                                {}

func (limiting) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return limiting{}, cc.UpdateState(resolver.State{
		Addresses:     []resolver.Address{{Addr: target.Endpoint()}},
		ServiceConfig: cc.ParseServiceConfig(`{"methodConfig":[{"name":[{}],"maxResponseMessageBytes":1000}]}`),
	})
}

func TestABundleIsNoLargerThanAServiceConfigAllows(t *testing.T) {
	t.Parallel()
	payloads := slices.Repeat([]string{`"` + strings.Repeat("a", 100) + `"`}, 50)
	server := vt.NewServer(t, vt.WithTCP(), vt.On("ReadDTC", vt.Script{vt.Answer(payloads...)}))
	for how, way := range ways() {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			client, err := vehicle.New("limiting:///"+server.Target(), vehicle.WithInsecure(), way(grpc.WithResolvers(limiting{})), way(gathered(server)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Close() }()
			if res, err := client.Execute(t.Context(), command("ReadDTC")); err != nil || res.Chunks != len(payloads) {
				t.Errorf("got %d chunks, %v, want %d", res.Chunks, err, len(payloads))
			}
		})
	}
}

// counting is a stream that counts the messages that are received through it.
type counting struct {
	grpc.ClientStream
	received *atomic.Int32
}

func (c counting) RecvMsg(m any) error {
	err := c.ClientStream.RecvMsg(m)
	if err == nil {
		c.received.Add(1)
	}
	return err
}

func TestAnInterceptorSeesAllThatABundleOfTheServersOwnHolds(t *testing.T) {
	t.Parallel()
	cmd := command("Scripted")
	var forged []byte
	for i, m := range []*vehiclepb.CommandResponse{seq(0, `"seen"`), seq(1, `"unseen"`), last(seq(2, `"unseen"`))} {
		m.CommandId = cmd.ID.String()
		text, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if forged = append(forged, text...); i > 0 {
			forged = append(forged, byte(i), 0, 0, 0, byte(len(text)))
		}
	}
	forged[0] = 2
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.SendBytes(forged)}))
	var received atomic.Int32
	client := server.Client(t, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := open(ctx, desc, cc, method, opts...)
			return counting{stream, &received}, err
		})))
	if res, err := client.Execute(t.Context(), cmd); !errors.Is(err, vehicle.ErrMalformedResponse) {
		t.Errorf("the interceptor saw %d messages; got %d chunks, %v, want ErrMalformedResponse", received.Load(), res.Chunks, err)
	}
}

// arriving is a server whose messages arrive together, and stalls when it has sent them.
func arriving(t *testing.T, steps ...vt.Step) *vt.Server {
	return vt.NewServer(t, vt.WithTCP(), vt.WithServerOptions(grpc.WriteBufferSize(32<<10)), vt.On("Scripted", append(vt.Script(steps), vt.Stall())))
}

func TestAnAnswerThatIsRefusedIsLeftBeforeTheSinksHaveWhatCameBefore(t *testing.T) {
	t.Parallel()
	server := arriving(t, vt.Send(`0`, `1`, `{"code":`))
	client := server.Client(t, vehicle.WithSink(troubled{write: func(ctx context.Context) error {
		_, err := server.Requests()[0].Wait(ctx)
		return err
	}}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if res, err := client.Execute(ctx, command("Scripted")); !errors.Is(err, vehicle.ErrMalformedResponse) || res.Chunks != 2 {
		t.Errorf("got %d chunks, %v, want 2, ErrMalformedResponse", res.Chunks, err)
	}
}

func TestACallerThatCancelsInTheFirstWriteHasCanceled(t *testing.T) {
	t.Parallel()
	for how, way := range ways() {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			client := arriving(t, vt.Send(`0`, `{"code":`)).Client(t, way(grpc.EmptyDialOption{}),
				vehicle.WithSink(troubled{write: func(context.Context) error { cancel(); return nil }}))
			if _, err := client.Execute(ctx, command("Scripted")); !errors.Is(err, vehicle.ErrCanceled) {
				t.Errorf("got %v, want ErrCanceled", err)
			}
		})
	}
}

func TestAPumpCountsTheFirstChunks(t *testing.T) {
	t.Parallel()
	half := `"` + strings.Repeat("x", 3<<20) + `"`
	most := 0
	sink := newRecorder(t)
	sink.onWrite = func(_ context.Context, chunks []vehicle.Chunk) error {
		sum := 0
		for _, c := range chunks {
			sum += len(c.Payload)
		}
		most = max(most, sum)
		return nil
	}
	payloads := append([]string{half}, slices.Repeat([]string{`"` + strings.Repeat("y", 60<<10) + `"`}, 120)...)
	client := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Answer(payloads...)})).Client(t, vehicle.WithSink(sink))
	if _, err := client.Execute(t.Context(), command("Scripted")); err != nil {
		t.Fatal(err)
	}
	if most > 4<<20+60<<10+2 {
		t.Errorf("a Write had %d bytes, want at most 4 MiB and a message", most)
	}
}
