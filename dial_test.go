package vehicle_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

func TestTargets(t *testing.T) {
	t.Parallel()
	good := []string{
		"localhost:50051", "gateway.example:443", "127.0.0.1:1", "[::1]:50051", "host:65535", "unixgateway:50051", "host_1:50051",
		"localhost", "gateway.example", "127.0.0.1", "::1", "[::1]", "[fe80::1%25eth0]:50051",
		"dns:///x:1", "dns:///x", "dns:x:1", "dns://8.8.8.8/x:1", "DNS:///x:1", "dns:///[::1]:50051",
		"unix:/tmp/x.sock", "unix:///tmp/x.sock", "unix-abstract:x", "passthrough:///x", "passthrough:x:y:z",
	}
	for _, target := range good {
		t.Run(target+" is good", func(t *testing.T) {
			t.Parallel()
			client, err := vehicle.New(target, vehicle.WithInsecure())
			if err != nil {
				t.Fatalf("New(%q): got %v, want no error", target, err)
			}
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	bad := map[string]string{ // and the reason
		"":                        "empty",
		"  \t":                    "empty",
		"local host:50051":        "space",
		"localhost:50051 ":        "space",
		"localhost:50051\n":       "control character",
		"localhost:\u00a050051":   "space",
		"http://gateway:50051":    `scheme "http"`,
		"https://gateway":         `scheme "https"`,
		"grpc://gateway:50051":    `scheme "grpc"`,
		"HTTP://gateway%41:50051": `scheme "HTTP"`,
		"host:0":                  `port "0"`,
		"host:99999":              `port "99999"`,
		"host:65536":              `port "65536"`,
		"host:abc":                `port "abc"`,
		"host:-1":                 `port "-1"`,
		"host:":                   `port ""`,
		"unixgateway:0":           `port "0"`,
		"dns:///x:0":              `port "0"`,
		"dns://8.8.8.8/x:abc":     `port "abc"`,
		"[::1":                    "want host:port",
		"::1]:50051":              "want host:port",
		"[host]x:1":               "want host:port",
		"a:b:1":                   "want host:port",
		"a/b":                     "want host:port",
		"a/b:1":                   "want host:port",
		"dns:///a/b":              "want host:port",
		"user@host:1":             "want host:port",
		"host?x=1":                "want host:port",
		":50051":                  "no host",
		"[]:50051":                "no host",
		"[]":                      "no host",
		"dns:///":                 "no host",
	}
	for target, reason := range bad {
		t.Run(target+" is bad", func(t *testing.T) {
			t.Parallel()
			client, err := vehicle.New(target, vehicle.WithInsecure())
			if err == nil {
				t.Fatalf("New(%q): got no error, want one (closing: %v)", target, client.Close())
			}
			if !strings.Contains(err.Error(), fmt.Sprintf("target %q", target)) || !strings.Contains(err.Error(), reason) {
				t.Errorf("New(%q): got %v, want the target and %q in it", target, err, reason)
			}
		})
	}
}

// A resolver that the caller brings makes its scheme a good one.
func TestTargetOfTheCallersResolver(t *testing.T) {
	t.Parallel()
	client, err := vehicle.New("fleet:///gateway", vehicle.WithInsecure(), vehicle.WithDialOptions(grpc.WithResolvers(manual.NewBuilderWithScheme("fleet"))))
	if err != nil {
		t.Fatalf("New: got %v, want no error", err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// The bubble does not end while a goroutine of it is left.
func TestNewConnectsNowhereAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	never := vehicle.WithDialOptions(grpc.WithContextDialer(func(_ context.Context, address string) (net.Conn, error) {
		t.Errorf("got a connection to %s, want none", address)
		return nil, errors.New("unwanted")
	}))
	tests := map[string]struct {
		target string
		opts   []vehicle.Option
		fails  bool
	}{
		"a client that is closed unused":          {target: "localhost:50051", opts: client{vehicle.WithInsecure(), never}},
		"one with TLS":                            {target: "localhost:50051", opts: client{never}},
		"one with a logger that listens to Debug": {target: "localhost:50051", opts: client{never, vehicle.WithLogger(slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})))}},
		"one with a bad target":                   {target: "http://x", opts: client{vehicle.WithInsecure(), never}, fails: true},
		"one with a bad option":                   {target: "localhost:50051", opts: client{vehicle.WithPoolSize(-1), never}, fails: true},
		"one with a missing file":                 {target: "localhost:50051", opts: client{vehicle.WithTLSFiles(vehicle.TLSFiles{CA: "testdata/there-is-none.pem"}), never}, fails: true},
		"one with dial options that gRPC refuses": {target: "localhost:50051", opts: client{vehicle.WithInsecure(), vehicle.WithDialOptions(grpc.WithDefaultServiceConfig("{")), never}, fails: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, err := vehicle.New(tt.target, tt.opts...)
				if (err != nil) != tt.fails {
					t.Fatalf("New: got error %v, want one: %v", err, tt.fails)
				}
				if client == nil {
					return
				}
				pass(time.Hour)
				for range 2 {
					if err := client.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				}
			})
		})
	}
}

// listen serves one TCP connection, and gives the target.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	}()
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return listener.Addr().String()
}

func TestPlaintextOnlyWhereAskedFor(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts []vehicle.Option
		want string // what the connection begins with
	}{
		"the default is TLS":         {want: "\x16\x03\x01"}, // a handshake record
		"WithTLS of nothing is TLS":  {opts: client{vehicle.WithTLS(nil)}, want: "\x16\x03\x01"},
		"WithTLSFiles of none is":    {opts: client{vehicle.WithTLSFiles(vehicle.TLSFiles{})}, want: "\x16\x03\x01"},
		"WithInsecure is plaintext":  {opts: client{vehicle.WithInsecure()}, want: "PRI"}, // HTTP/2's preface
		"said twice it is the same":  {opts: client{vehicle.WithInsecure(), vehicle.WithInsecure()}, want: "PRI"},
		"a later WithTLS of the two": {opts: client{vehicle.WithTLS(nil), vehicle.WithTLS(&tls.Config{})}, want: "\x16\x03\x01"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			got := make([]byte, 3)
			target := listen(t, func(conn net.Conn) {
				defer cancel()
				if _, err := io.ReadFull(conn, got); err != nil {
					t.Error(err)
				}
			})
			client, err := vehicle.New(target, tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			wantSentinel(t, client.WaitReady(ctx), "ErrCanceled")
			if string(got) != tt.want {
				t.Errorf("the connection begins with %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWithTLSKeepsACopy(t *testing.T) {
	t.Parallel()
	config := &tls.Config{ServerName: "gateway.example", MinVersion: tls.VersionTLS10}
	option := vehicle.WithTLS(config)
	config.ServerName = "changed.example"
	for range 2 { // the option serves two clients
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var hello *tls.ClientHelloInfo
		target := listen(t, func(conn net.Conn) {
			defer cancel()
			_ = tls.Server(conn, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				hello = h
				return nil, errors.New("seen enough")
			}}).HandshakeContext(ctx)
		})
		client, err := vehicle.New(target, option)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		wantSentinel(t, client.WaitReady(ctx), "ErrCanceled")
		if hello.ServerName != "gateway.example" {
			t.Errorf("server name: got %q, want the one that New was told, gateway.example", hello.ServerName)
		}
		if least := slices.Min(hello.SupportedVersions); least != tls.VersionTLS12 {
			t.Errorf("least version: got %s, want TLS 1.2", tls.VersionName(least))
		}
		if config.MinVersion != tls.VersionTLS10 || config.NextProtos != nil || config.ServerName != "changed.example" {
			t.Errorf("the caller's configuration: got version %s, protocols %v, name %s; want it unchanged",
				tls.VersionName(config.MinVersion), config.NextProtos, config.ServerName)
		}
	}
}

// logged are the records of a logger at a level, as JSON.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) at(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: level}))
}

func (l *logged) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// records are those with this message.
func (l *logged) records(t *testing.T, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.text()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] == message {
			found = append(found, record)
		}
	}
	return found
}

// fields picks some of each record's fields.
func fields(records []map[string]any, keys ...string) [][]any {
	var picked [][]any
	for _, r := range records {
		var values []any
		for _, key := range keys {
			values = append(values, r[key])
		}
		picked = append(picked, values)
	}
	return picked
}

func TestWithLogger(t *testing.T) {
	t.Parallel()
	const payload = "P0420-00"
	run := func(t *testing.T, opts ...vehicle.Option) (cmd vehicle.Command) {
		synctest.Test(t, func(t *testing.T) {
			server := vt.NewServer(t, vt.On("ReadDTC",
				vt.Script{vt.Fail(codes.Unavailable, "no route to "+vin+"\nsecond line")},
				vt.Script{vt.Send(`"` + payload + `"`), vt.Stall()},
				vt.Script{vt.Answer(`"`+payload+`"`, `"`+payload+`"`)}))
			cmd = command("ReadDTC")
			cmd.Params = map[string]any{"mask": secret}
			opts = append(opts, vehicle.WithRetry(vehicle.RetryPolicy{Jitter: -1}))
			client := server.Client(t, opts...)
			if _, err := client.Execute(t.Context(), cmd, vehicle.WithMetadata(metadata.Pairs("authorization", "Bearer "+secret))); err != nil {
				t.Error(err)
			}
			if err := client.Close(); err != nil { // waits for what is logged late
				t.Error(err)
			}
		})
		return cmd
	}
	silent := func(t *testing.T, l *logged) {
		for _, word := range []string{secret, vin, payload, "Bearer"} {
			if strings.Contains(l.text(), word) {
				t.Errorf("got %q in the log, want no parameters, payloads, metadata or VINs:\n%s", word, l.text())
			}
		}
	}
	t.Run("at Info there is a record of each retry", func(t *testing.T) {
		t.Parallel()
		var l logged
		cmd := run(t, vehicle.WithLogger(l.at(slog.LevelInfo)))
		want := [][]any{
			{"INFO", 1., "Unavailable", float64(time.Second), "ReadDTC", cmd.ID.String(), cmd.VehicleID.String()},
			{"INFO", 2., "DeadlineExceeded", float64(time.Second), "ReadDTC", cmd.ID.String(), cmd.VehicleID.String()},
		}
		got := fields(l.records(t, "vehicle: retrying"), "level", "attempt", "code", "delay", "command", "command_id", "vehicle_id")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("retries (-want +got):\n%s", diff)
		}
		if got := l.records(t, "finished call"); got != nil {
			t.Errorf("attempts: got %v, want none at Info", got)
		}
		silent(t, &l)
	})
	t.Run("at Debug there are go-grpc-middleware's records of each attempt too", func(t *testing.T) {
		t.Parallel()
		var l logged
		run(t, vehicle.WithLogger(l.at(slog.LevelDebug)))
		if got := len(l.records(t, "vehicle: retrying")); got != 2 {
			t.Errorf("retries: got %d, want 2", got)
		}
		want := [][]any{{"DEBUG", "ExecuteCommand"}, {"DEBUG", "ExecuteCommand"}, {"DEBUG", "ExecuteCommand"}}
		if diff := cmp.Diff(want, fields(l.records(t, "started call"), "level", "grpc.method")); diff != "" {
			t.Errorf("attempts begun (-want +got):\n%s", diff)
		}
		finished := l.records(t, "finished call")
		want = [][]any{{"DEBUG", "Unavailable"}, {"DEBUG", "DeadlineExceeded"}, {"DEBUG", "OK"}}
		if diff := cmp.Diff(want, fields(finished, "level", "grpc.code")); diff != "" {
			t.Errorf("attempts ended (-want +got):\n%s", diff)
		}
		if got, want := fmt.Sprint(finished[0]["grpc.error"]), "no route to [VIN] second line"; !strings.HasSuffix(got, want) {
			t.Errorf("the first attempt's error: got %q, want %q at its end", got, want)
		}
		silent(t, &l)
	})
	t.Run("at Warn there are no retries", func(t *testing.T) {
		t.Parallel()
		var l logged
		run(t, vehicle.WithLogger(l.at(slog.LevelWarn)))
		if got := l.records(t, "vehicle: retrying"); got != nil {
			t.Errorf("retries: got %v, want none", got)
		}
	})
	t.Run("the later logger counts", func(t *testing.T) {
		t.Parallel()
		var before, after logged
		run(t, vehicle.WithLogger(before.at(slog.LevelDebug)), vehicle.WithLogger(after.at(slog.LevelInfo)))
		if got := len(after.records(t, "vehicle: retrying")); got != 2 || before.text() != "" {
			t.Errorf("got %d records in the later one, want 2; and in the earlier %q, want none", got, before.text())
		}
	})
	t.Run("nil is nowhere", func(t *testing.T) {
		t.Parallel()
		var l logged
		run(t, vehicle.WithLogger(l.at(slog.LevelDebug)), vehicle.WithLogger(nil))
		if l.text() != "" {
			t.Errorf("got %q, want nothing", l.text())
		}
	})
}

// attemptCounter is a stats handler.
type attemptCounter struct{ begun, ended atomic.Int32 }

func (*attemptCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*attemptCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*attemptCounter) HandleConn(context.Context, stats.ConnStats)                       {}
func (c *attemptCounter) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin:
		c.begun.Add(1)
	case *stats.End:
		c.ended.Add(1)
	}
}

func TestWithDialOptions(t *testing.T) {
	t.Parallel()
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} { // with go-grpc-middleware's interceptor and without
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			// Each interceptor leaves a mark on what the server sees, and notes the attempt that it saw.
			var mu sync.Mutex
			seen := map[string][]string{}
			mark := func(name string) grpc.StreamClientInterceptor {
				return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					out, _ := metadata.FromOutgoingContext(ctx)
					mu.Lock()
					seen[name] = append(seen[name], out.Get("x-sovd-attempt")...)
					mu.Unlock()
					return streamer(metadata.AppendToOutgoingContext(ctx, "mark", name), desc, cc, method, opts...)
				}
			}
			counter := &attemptCounter{}
			fail := vt.Script{vt.Fail(codes.Unavailable, "gateway restarting")}
			server := vt.NewServer(t, vt.On("ReadDTC", fail, fail, vt.Script{vt.GoAway(), vt.Answer(`1`)}))
			handed := []grpc.DialOption{grpc.WithStatsHandler(counter), grpc.WithStreamInterceptor(mark("single"))}
			option := vehicle.WithDialOptions(handed...)
			handed[0], handed[1] = grpc.EmptyDialOption{}, grpc.EmptyDialOption{}
			client := server.Client(t, quickly(), option, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(mark("chained"), mark("second"))),
				vehicle.WithLogger(new(logged).at(level)), vehicle.WithPoolSize(1)) // a larger pool may move streams, which are then seen twice
			for range 3 { // each on a connection of its own
				if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			attempts := []string{"1", "2", "3", "1", "2", "3", "1", "2", "3"}
			want := map[string][]string{"single": attempts, "chained": attempts, "second": attempts}
			if diff := cmp.Diff(want, seen); diff != "" {
				t.Errorf("attempts that the interceptors saw (-want +got):\n%s", diff)
			}
			requests := server.Requests()
			if got := requests[len(requests)-1].Conn; got != 3 {
				t.Errorf("connections: got %d, want 3", got)
			}
			for i, r := range requests {
				if diff := cmp.Diff([]string{"single", "chained", "second"}, r.Metadata.Get("mark")); diff != "" {
					t.Errorf("interceptors of request %d (-want +got):\n%s", i, diff)
				}
			}
			if begun, ended := counter.begun.Load(), counter.ended.Load(); begun != 9 || ended != 9 {
				t.Errorf("attempts that the stats handler saw: got %d begun and %d ended, want 9", begun, ended)
			}
		})
	}
}

// Options that one connection adds to must not pile up on the next.
func TestDialOptionsAreTheSameOnEachConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server := vt.NewServer(t, vt.WithServerOptions(grpc.MaxConcurrentStreams(1)), vt.On("ReadDTC", vt.Script{vt.Until(release), vt.Answer(`1`)}))
		client := server.Client(t, vehicle.WithPoolSize(3), vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				return streamer(metadata.AppendToOutgoingContext(ctx, "mark", "1"), desc, cc, method, opts...)
			})))
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
					t.Error(err)
				}
			})
		}
		requests, err := server.WaitRequests(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		close(release)
		all.Wait()
		conns := map[int]bool{}
		for _, r := range requests {
			conns[r.Conn] = true
			if got := r.Metadata.Get("mark"); len(got) != 1 {
				t.Errorf("interceptors on connection %d: got %d, want 1", r.Conn, len(got))
			}
		}
		if len(conns) != 3 {
			t.Errorf("connections: got %d, want 3", len(conns))
		}
	})
}

// A service config that asks gRPC to retry would send a command of Once again.
func TestServiceConfigDoesNotRetry(t *testing.T) {
	t.Parallel()
	config := `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	server := vt.NewServer(t, vt.On("ECUReset", vt.Script{vt.Fail(codes.Unavailable, "gateway restarting")}))
	cmd := command("ECUReset")
	cmd.Once = true
	_, err := server.Client(t, vehicle.WithDialOptions(grpc.WithDefaultServiceConfig(config))).Execute(t.Context(), cmd)
	wantSentinel(t, err, "ErrUnavailable")
	if got := len(server.Requests()); got != 1 {
		t.Errorf("requests: got %d, want 1", got)
	}
}

// frameLengths are the lengths of the frames that gRPC receives into memory of the pool's: those of more than 1 KiB.
type frameLengths struct {
	mem.NopBufferPool

	longest atomic.Int64
}

func (f *frameLengths) Get(length int) *[]byte {
	for longest := f.longest.Load(); int64(length) > longest && !f.longest.CompareAndSwap(longest, int64(length)); {
		longest = f.longest.Load()
	}
	return f.NopBufferPool.Get(length)
}

func TestChunksThatArriveTogetherAreOneFrame(t *testing.T) {
	t.Parallel()
	const size = 2000
	payloads := slices.Repeat([]string{`"` + strings.Repeat("a", size-2) + `"`}, 500)
	for _, tt := range []struct {
		name    string
		options []vt.Option
	}{
		{"in plaintext", []vt.Option{vt.WithTCP()}},
		{"with TLS", []vt.Option{vt.WithTCP(), vt.WithMutualTLS(vt.NewCA(t))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := vt.NewServer(t, append(tt.options, vt.WithServerOptions(grpc.WriteBufferSize(32<<10)), vt.On("ReadDTC", vt.Script{vt.Answer(payloads...)}))...)
			frames := new(frameLengths)
			client := server.Client(t, vehicle.WithDialOptions(experimental.WithBufferPool(frames)))
			res, err := client.Execute(t.Context(), command("ReadDTC"))
			if err != nil || res.Chunks != len(payloads) {
				t.Fatalf("got %d chunks, %v, want %d", res.Chunks, err, len(payloads))
			}
			if got := frames.longest.Load(); got < 2*size {
				t.Errorf("the longest frame: got %d bytes, want at least two chunks of %d", got, size)
			}
		})
	}
}
