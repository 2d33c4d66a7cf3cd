package vehicletest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"

	"github.com/sovd-go/vehicle/vehicletest"
)

func TestAConnectionIsCutExactlyWhereTheScriptSays(t *testing.T) {
	t.Parallel()
	steps := map[string]func() vehicletest.Step{"Cut": vehicletest.Cut, "HangUp": vehicletest.HangUp}
	all := []string{`{"n":0}`, `{"n":1}`, `{"n":2}`}
	for name, step := range steps {
		for k := range len(all) + 1 {
			t.Run(fmt.Sprintf("%s after %d of %d chunks", name, k, len(all)), func(t *testing.T) {
				t.Parallel()
				transports(t, func(t *testing.T, opts ...vehicletest.Option) {
					script := vehicletest.Script{vehicletest.Send(all[:k]...), step(), vehicletest.Send("never")}
					if k == len(all) { // between the final chunk and the status
						script = vehicletest.Script{vehicletest.Answer(all...), step()}
					}
					s := vehicletest.NewServer(t, append(opts, vehicletest.On("ReadDTC", script))...)
					client := stub(t, s)
					for range 20 {
						chunks, err := ask(t.Context(), client, request("ReadDTC"))
						wantCode(t, err, codes.Unavailable)
						if diff := cmp.Diff(all[:k], append([]string{}, payloads(chunks)...)); diff != "" {
							t.Fatalf("payloads before the cut (-want +got):\n%s", diff)
						}
					}
					for _, r := range s.Requests() {
						wantEnd(t, r, vehicletest.Disconnected)
					}
				})
			})
		}
	}
}

// A client acknowledges a long answer while it reads it: there is something that the server has not read when it closes.
func TestWhatWasSentOfALongAnswerArrivesBeforeTheCut(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux says what its kernel has not sent: see link.go")
	}
	const runs, chunks = 60, 300
	payload := `"` + strings.Repeat("x", 3000) + `"`
	for name, step := range map[string]func() vehicletest.Step{"Cut": vehicletest.Cut, "HangUp": vehicletest.HangUp} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.On("ReadDTC",
				vehicletest.Script{vehicletest.Send(slices.Repeat([]string{payload}, chunks)...), step()}))
			client := stub(t, s)
			for i := range runs {
				got, err := ask(t.Context(), client, request("ReadDTC"))
				wantCode(t, err, codes.Unavailable)
				if len(got) != chunks {
					t.Fatalf("answer %d of %d: got %d chunks, want %d", i+1, runs, len(got), chunks)
				}
			}
		})
	}
}

func TestTheCutIsAsExactForAClientThatCompresses(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		all := []string{`{"n":0}`, `{"n":1}`, `{"n":2}`}
		s := vehicletest.NewServer(t, append(opts,
			vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Send(all...), vehicletest.Cut()}))...)
		client := stub(t, s, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
		for range 50 {
			chunks, err := ask(t.Context(), client, request("ReadDTC"))
			wantCode(t, err, codes.Unavailable)
			if diff := cmp.Diff(all, payloads(chunks)); diff != "" {
				t.Fatalf("payloads before the cut (-want +got):\n%s", diff)
			}
		}
	})
}

func TestACutTCPConnectionIsResetAndAClosedOneIsNot(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end  func(*vehicletest.Server)
		want error
	}{
		"CutConnections": {(*vehicletest.Server).CutConnections, syscall.ECONNRESET},
		"Close":          {func(s *vehicletest.Server) { _ = s.Close() }, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := vehicletest.NewServer(t, vehicletest.WithTCP())
			// Not a gRPC client: its writer and its reader would race for the one ECONNRESET that the
			// kernel gives.
			conn, err := s.Dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				t.Fatal(err)
			}
			framer := http2.NewFramer(conn, conn)
			if err := framer.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			for {
				frame, err := framer.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if settings, ok := frame.(*http2.SettingsFrame); ok && settings.IsAck() {
					break // the server has read all that was written
				}
			}
			tt.end(s)
			for err == nil {
				_, err = framer.ReadFrame()
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("reading from the connection: got error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestACutTLSConnectionIsResetWithoutAGoodbye(t *testing.T) {
	t.Parallel()
	ca := vehicletest.NewCA(t)
	s := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca))
	config, err := ca.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.ServerName, config.NextProtos = "localhost", []string{"h2"}
	raw, err := s.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, config)
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // the server's side of the handshake is done, too
		t.Fatal(err)
	}
	s.CutConnections()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading from the connection: got error %v, want %v", err, syscall.ECONNRESET)
	}
}

func TestCutEndsTheOtherCallsOnTheConnection(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, append(opts,
			vehicletest.On("Monitor", vehicletest.Script{vehicletest.Stall()}),
			vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Cut()}))...)
		client := stub(t, s)
		other := make(chan error, 1)
		go func() {
			_, err := ask(t.Context(), client, request("Monitor"))
			other <- err
		}()
		if _, err := s.WaitRequests(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		_, err := ask(t.Context(), client, request("ReadDTC"))
		wantCode(t, err, codes.Unavailable)
		wantCode(t, <-other, codes.Unavailable)
		wantEnd(t, s.Requests()[0], vehicletest.Disconnected)
	})
}

func TestCutConnectionsCutsWhatIsOpenAndServesOn(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, append(opts,
			vehicletest.On("Monitor", vehicletest.Script{vehicletest.Stall()}))...)
		client := stub(t, s)
		ended := make(chan error, 1)
		go func() {
			_, err := ask(t.Context(), client, request("Monitor"))
			ended <- err
		}()
		if _, err := s.WaitRequests(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		s.CutConnections()
		wantCode(t, <-ended, codes.Unavailable)
		if got := len(mustAsk(t, client, request("ReadDTC"))); got != 3 {
			t.Errorf("after the cut: got %d chunks, want 3", got)
		}
	})
}

func TestGoAwayLetsTheCallFinishAndSendsTheNextElsewhere(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, append(opts, vehicletest.On("ReadDTC", vehicletest.Script{
			vehicletest.Send("0"), vehicletest.GoAway(), vehicletest.Answer("1", "2"),
		}))...)
		client := stub(t, s)
		for i := range 5 {
			got := payloads(mustAsk(t, client, request("ReadDTC")))
			if diff := cmp.Diff([]string{"0", "1", "2"}, got); diff != "" {
				t.Fatalf("payloads (-want +got):\n%s", diff)
			}
			requests := s.Requests()
			if got, want := requests[i].Conn, i+1; got != want {
				t.Fatalf("call %d came on connection %d, want %d", i+1, got, want)
			}
			wantEnd(t, requests[i], vehicletest.Finished)
		}
	})
}

func TestGoAwayIsSentBetweenTheChunksOfItsScript(t *testing.T) {
	t.Parallel()
	before := strings.Repeat("0", 200_000) // more than a client takes at once
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, append(opts, vehicletest.On("ReadDTC", vehicletest.Script{
			vehicletest.Send(before), vehicletest.GoAway(), vehicletest.Answer("1", "2"),
		}))...)
		var received recording
		client := stub(t, s, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := s.Dial(ctx, addr)
			return recordedConn{c, &received}, err
		}))
		mustAsk(t, client, request("ReadDTC"))
		data, atGoAway := 0, -1 // bytes
		framer := http2.NewFramer(io.Discard, bytes.NewReader(received.bytes()))
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				break // the end, perhaps amidst a frame
			}
			switch frame.(type) {
			case *http2.DataFrame:
				data += int(frame.Header().Length)
			case *http2.GoAwayFrame:
				if atGoAway < 0 {
					atGoAway = data
				}
			}
		}
		if atGoAway < len(before) || atGoAway == data {
			t.Errorf("got GOAWAY after %d of %d bytes, want it between the chunk of %d and the rest of the answer", atGoAway, data, len(before))
		}
	})
}

// recording is what a client has read from its connection.
type recording struct {
	mu  sync.Mutex
	all []byte
}

func (r *recording) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

type recordedConn struct {
	net.Conn
	to *recording
}

func (c recordedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.to.mu.Lock()
	c.to.all = append(c.to.all, b[:n]...)
	c.to.mu.Unlock()
	return n, err
}

// goDark is a BlackHole that the script goes on after.
func goDark(_ context.Context, c *vehicletest.Call) error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := vehicletest.BlackHole()(ended, c); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func TestABlackHoleSwallowsEverythingAndClosesNothing(t *testing.T) {
	t.Parallel()
	t.Run("a call runs into its deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{
				vehicletest.Send("0"), vehicletest.BlackHole(),
			}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			chunks, err := ask(ctx, stub(t, s), request("ReadDTC"))
			wantCode(t, err, codes.DeadlineExceeded)
			if got := len(chunks); got != 1 {
				t.Errorf("got %d chunks, want 1", got)
			}
			wantEnd(t, s.Requests()[0], vehicletest.Expired)
		})
	})
	t.Run("keepalive finds it, and the next call has a new connection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := vehicletest.NewServer(t, vehicletest.On("ReadDTC",
				vehicletest.Script{vehicletest.BlackHole()}, vehicletest.Script{vehicletest.Answer("0")}))
			client := stub(t, s, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
			start := time.Now()
			req := request("ReadDTC")
			_, err := ask(t.Context(), client, req)
			wantCode(t, err, codes.Unavailable)
			if got, want := time.Since(start), 40*time.Second; got != want {
				t.Errorf("the dead link was noticed after %v, want %v", got, want)
			}
			mustAsk(t, client, req)
			if got := s.Requests()[1].Conn; got != 2 {
				t.Errorf("the second call came on connection %d, want 2", got)
			}
		})
	})
	t.Run("nothing passes in either direction", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := vehicletest.NewServer(t, vehicletest.On("ReadDTC", vehicletest.Script{
				goDark, vehicletest.Send("never arrives"), vehicletest.Stall(),
			}))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Minute, cancel)
			var conn net.Conn
			client := stub(t, s, grpc.WithContextDialer(func(ctx context.Context, addr string) (_ net.Conn, err error) {
				conn, err = s.Dial(ctx, addr)
				return conn, err
			}))
			chunks, err := ask(ctx, client, request("ReadDTC"))
			wantCode(t, err, codes.Canceled)
			if len(chunks) > 0 {
				t.Errorf("got %d chunks, want none", len(chunks))
			}
			_ = conn.Close()
			synctest.Wait()
			select {
			case <-s.Requests()[0].Done():
				t.Error("the client's cancellation arrived, or the end of its connection")
			default:
			}
		})
	})
	t.Run("over TCP it ends with the server", func(t *testing.T) {
		t.Parallel()
		dark := make(chan struct{})
		s := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.On("ReadDTC", vehicletest.Script{
			goDark,
			func(context.Context, *vehicletest.Call) error { close(dark); return nil },
			vehicletest.Stall(),
		}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		client := stub(t, s)
		go func() {
			_, err := ask(ctx, client, request("ReadDTC"))
			ended <- err
		}()
		<-dark
		cancel()
		wantCode(t, <-ended, codes.Canceled)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantEnd(t, s.Requests()[0], vehicletest.Disconnected)
	})
}
