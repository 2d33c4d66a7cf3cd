package vehicle_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/dialing"
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
				outcome := func(way func(grpc.DialOption) grpc.DialOption) (string, int32) {
					server, seen := vt.NewServer(t, vt.On("Scripted", scripts...)), new(counter)
					dial := func(ctx context.Context, address string) (net.Conn, error) {
						conn, err := server.Dial(ctx, address)
						return &gathering{Conn: conn}, err
					}
					client := server.Client(t, append(slices.Clone(opts), quickly(),
						vehicle.WithDialOptions(way(grpc.WithContextDialer(dial)), way(grpc.WithStatsHandler(seen))))...)
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
				want, apart := outcome(func(o grpc.DialOption) grpc.DialOption { return o })
				got, messages := outcome(func(o grpc.DialOption) grpc.DialOption { return dialing.Way{DialOption: o} })
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
