package vehicle_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// A handshake that cannot succeed ends the first command with its reason, without a retry.
func TestHandshakeThatFailsForGood(t *testing.T) {
	t.Parallel()
	ca, other := vt.NewCA(t), vt.NewCA(t)
	clientTLS := func(opts ...vt.CertOption) *tls.Config {
		config, err := ca.ClientConfig(opts...)
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	serve := func(opts ...vt.Option) func(*testing.T) string {
		return func(t *testing.T) string { return vt.NewServer(t, append(opts, vt.WithTCP())...).Target() }
	}
	serverTLS := func(change func(*tls.Config), opts ...vt.CertOption) func(*testing.T) string {
		return func(t *testing.T) string {
			cert, err := ca.IssueServer(opts...)
			if err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool()}
			change(config)
			return serve(vt.WithTLS(config))(t)
		}
	}
	files := ca.Files()
	tests := map[string]struct {
		target func(*testing.T) string
		client vehicle.Option
		text   string
		reason func(error) bool // errors.As to the reason's type
	}{
		"a server of an unknown authority": {
			target: serve(vt.WithMutualTLS(other)), client: vehicle.WithTLSFiles(files),
			text: "certificate signed by unknown authority", reason: is[x509.UnknownAuthorityError],
		},
		"a server whose certificate has expired": {
			target: serve(vt.WithMutualTLS(ca, vt.CertExpired())), client: vehicle.WithTLSFiles(files),
			text: "certificate has expired or is not yet valid", reason: is[x509.CertificateInvalidError],
		},
		"a server whose certificate is not yet valid": {
			target: serve(vt.WithMutualTLS(ca, vt.CertNotYetValid())), client: vehicle.WithTLSFiles(files),
			text: "certificate has expired or is not yet valid", reason: is[x509.CertificateInvalidError],
		},
		"a server of another name": {
			target: serve(vt.WithMutualTLS(ca, vt.CertForNames("other.example"))), client: vehicle.WithTLSFiles(files),
			text: "doesn't contain any IP SANs", reason: is[x509.HostnameError],
		},
		"a server that has not the name of ServerName": {
			target: serve(vt.WithMutualTLS(ca)),
			client: vehicle.WithTLSFiles(vehicle.TLSFiles{CA: files.CA, Cert: files.Cert, Key: files.Key, ServerName: "gateway.example"}),
			text:   "not gateway.example", reason: is[x509.HostnameError],
		},
		"a server that wants a client certificate, and there is none, in TLS 1.3": {
			target: serve(vt.WithMutualTLS(ca)), client: vehicle.WithTLSFiles(vehicle.TLSFiles{CA: files.CA}),
			text: "remote error: tls: certificate required", reason: is[*net.OpError],
		},
		"a server that wants a client certificate, and there is none, in TLS 1.2": {
			target: serverTLS(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			client: vehicle.WithTLSFiles(vehicle.TLSFiles{CA: files.CA}),
			text:   "remote error: tls: handshake failure", reason: is[*net.OpError],
		},
		"a server that does not know the client's authority, in TLS 1.3": {
			target: serverTLS(func(c *tls.Config) { c.ClientCAs = other.Pool() }), client: vehicle.WithTLSFiles(files),
			text: "remote error: tls: unknown certificate authority", reason: is[*net.OpError],
		},
		"a server that does not know the client's authority, in TLS 1.2": {
			target: serverTLS(func(c *tls.Config) { c.ClientCAs, c.MaxVersion = other.Pool(), tls.VersionTLS12 }), client: vehicle.WithTLSFiles(files),
			text: "remote error: tls: unknown certificate authority", reason: is[*net.OpError],
		},
		"a client whose certificate has expired": {
			target: serve(vt.WithMutualTLS(ca)), client: vehicle.WithTLS(clientTLS(vt.CertExpired())),
			text: "remote error: tls: expired certificate", reason: is[*net.OpError],
		},
		"a plaintext server": {
			target: serve(), client: vehicle.WithTLSFiles(files),
			text: "first record does not look like a TLS handshake", reason: is[tls.RecordHeaderError],
		},
		"a server that speaks no HTTP/2": {
			target: func(t *testing.T) string {
				cert, err := ca.IssueServer()
				if err != nil {
					t.Fatal(err)
				}
				return serveConns(t, func(raw net.Conn) {
					conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
					_ = conn.HandshakeContext(t.Context())
				})
			},
			client: vehicle.WithTLSFiles(files),
			text:   "missing selected ALPN property", reason: func(error) bool { return true }, // gRPC's, without a type
		},
		"a server that speaks TLS 1.1": {
			target: oldServer, client: vehicle.WithTLSFiles(files),
			text: "remote error: tls: protocol version not supported", reason: is[*net.OpError],
		},
		"a server that the caller's VerifyConnection refuses": {
			target: serve(vt.WithMutualTLS(ca)), client: vehicle.WithTLS(with(clientTLS(), func(c *tls.Config) {
				c.VerifyConnection = func(tls.ConnectionState) error { return errNotThisOne }
			})),
			text: errNotThisOne.Error(), reason: func(err error) bool { return errors.Is(err, errNotThisOne) },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := vehicle.New(test.target(t), test.client)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			start := time.Now()
			for _, what := range []string{"the first command", "the second command"} {
				res, err := client.Execute(t.Context(), command("ReadDTC"))
				wantHandshake(t, what, err, test.text, test.reason)
				if res.Attempts != 1 {
					t.Errorf("%s: got %d attempts, want 1", what, res.Attempts)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			wantHandshake(t, "WaitReady", client.WaitReady(ctx), test.text, test.reason)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v, want an answer at once", took)
			}
		})
	}
}

var errNotThisOne = errors.New("not this one")

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func with(config *tls.Config, change func(*tls.Config)) *tls.Config {
	change(config)
	return config
}

func wantHandshake(t *testing.T, what string, err error, text string, reason func(error) bool) {
	t.Helper()
	if !errors.Is(err, vehicle.ErrUnavailable) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "TLS handshake: ") {
		t.Fatalf("%s: got error %v, want ErrUnavailable with %q", what, err, text)
	}
	if !reason(err) {
		t.Errorf("%s: the reason's type is not in the chain of %#v", what, errors.Unwrap(err))
	}
	if st, ok := status.FromError(err); !ok || st.Code() != codes.Unavailable {
		t.Errorf("%s: got status %v, want Unavailable", what, st)
	}
	if e, ok := errors.AsType[*vehicle.Error](err); !ok || e.MayHaveRun() {
		t.Errorf("%s: got an error that says that the command may have run: %#v", what, e)
	}
}

// oldServer speaks nothing newer than TLS 1.1, which gRPC's own servers cannot be made to.
func oldServer(t *testing.T) string {
	t.Helper()
	cert, err := vt.NewCA(t).IssueServer()
	if err != nil {
		t.Fatal(err)
	}
	return serveConns(t, func(raw net.Conn) {
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
		_ = conn.HandshakeContext(t.Context())
	})
}

// serveConns gives each connection to serve, and then closes it.
func serveConns(t *testing.T, serve func(net.Conn)) (target string) {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// A handshake that the network broke is tried again, as any link that breaks.
func TestHandshakeThatFailsOnce(t *testing.T) {
	t.Parallel()
	tests := map[string]func(net.Conn){
		"the server closes the connection":    func(net.Conn) {},
		"the server resets the connection":    func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) },
		"the server breaks off in the middle": func(conn net.Conn) { _, _ = conn.Write([]byte("\x16\x03\x03\x00\x7a\x02\x00")) },
		"the server has an internal error":    func(conn net.Conn) { _, _ = conn.Write([]byte("\x15\x03\x03\x00\x02\x02\x50")) },
	}
	for name, breakOff := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := serveConns(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 16<<10)) // the client is at its handshake
				breakOff(conn)
			})
			server := vt.NewServer(t, vt.WithTCP(), vt.WithMutualTLS(vt.NewCA(t)))
			var dials atomic.Int32
			dial := func(ctx context.Context, _ string) (net.Conn, error) {
				if dials.Add(1) > 1 {
					return server.Dial(ctx, "")
				}
				var dialer net.Dialer
				return dialer.DialContext(ctx, "tcp", broken)
			}
			client := server.Client(t, vehicle.WithDialOptions(grpc.WithContextDialer(dial)))
			res, err := client.Execute(t.Context(), command("ReadDTC"))
			if err != nil || res.Attempts < 2 {
				t.Errorf("got %d attempts and error %v, want at least 2 and none", res.Attempts, err)
			}
			client = server.Client(t, vehicle.WithoutRetry(), vehicle.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, "tcp", broken)
			})))
			_, err = client.Execute(t.Context(), command("ReadDTC"))
			if !errors.Is(err, vehicle.ErrUnavailable) || !strings.Contains(err.Error(), "TLS handshake: ") {
				t.Errorf("without retry: got error %v, want ErrUnavailable with the handshake's", err)
			}
		})
	}
}

// A handshake that failed for good explains no failure that comes after it.
func TestHandshakeThatFailedIsNotTheReasonForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials int
		dial := func(context.Context, string) (net.Conn, error) {
			if dials++; dials > 1 {
				return nil, errors.New("nobody is there")
			}
			return withoutTLS(), nil
		}
		client, err := vehicle.New("passthrough:///gateway", vehicle.WithTLS(nil), vehicle.WithDialOptions(grpc.WithContextDialer(dial)))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_, err = client.Execute(t.Context(), command("ReadDTC"))
		wantHandshake(t, "the first command", err, "first record does not look like a TLS handshake", is[tls.RecordHeaderError])
		pass(5 * time.Second)
		synctest.Wait()
		res, err := client.Execute(t.Context(), command("ReadDTC"))
		if err == nil || !strings.Contains(err.Error(), "nobody is there") || strings.Contains(err.Error(), "TLS") || res.Attempts != 4 {
			t.Errorf("the second command: got %d attempts and error %v, want 4 and what the dialer says", res.Attempts, err)
		}
	})
}

// withoutTLS is a connection to a server that takes the handshake for a request in HTTP/1.1.
func withoutTLS() net.Conn {
	client, server := net.Pipe()
	go func() {
		_, _ = server.Read(make([]byte, 16<<10))
		_, _ = server.Write([]byte("HTTP/1.1 503 Service Unavailable\r\n\r\n"))
		_ = server.Close()
	}()
	return client
}

// Nor is it for who asks later: gRPC waits longer and longer before it connects again, and meanwhile the gateway may have been mended.
func TestHandshakeThatFailedIsNotTheReasonForWhoAsksLater(t *testing.T) {
	t.Parallel()
	const reason = "first record does not look like a TLS handshake"
	ask := map[string]func(*testing.T, *vehicle.Client) error{
		"Execute": func(t *testing.T, c *vehicle.Client) error {
			_, err := c.Execute(t.Context(), command("ReadDTC"))
			return err
		},
		"WaitReady": func(t *testing.T, c *vehicle.Client) error { return c.WaitReady(t.Context()) },
	}
	for name, ask := range ask {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, permitPings(), vt.WithMutualTLS(vt.NewCA(t)))
				var mended atomic.Bool
				client := server.Client(t, vehicle.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					if mended.Load() {
						return server.Dial(ctx, "")
					}
					return withoutTLS(), nil
				})))
				for range 2 {
					start := time.Now()
					wantHandshake(t, "while the gateway is broken", ask(t, client), reason, is[tls.RecordHeaderError])
					if took := time.Since(start); took > 2*time.Second {
						t.Errorf("while the gateway is broken: it took %v, want no more than one retry", took)
					}
					pass(10 * time.Minute)
				}
				mended.Store(true)
				pass(time.Second) // gRPC may have tried just now, and that failure counts
				start := time.Now()
				if err := ask(t, client); err != nil {
					t.Errorf("once it is mended: got error %v, want none", err)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("once it is mended: it took %v, want no more than one retry", took)
				}
			})
		})
	}
}

// A command may begin long before it asks, and had not asked at that time either.
func TestHandshakeThatFailedIsNotTheReasonForACommandThatDidNotAskThen(t *testing.T) {
	t.Parallel()
	const pause = 10 * time.Minute
	for name, opts := range map[string]struct {
		server vt.Option
		client []vehicle.Option
	}{
		"since a sink kept it": {
			vt.On("Late", vt.Script{vt.Answer(`1`)}),
			[]vehicle.Option{vehicle.WithSink(&recorder{tb: t, chunks: map[uuid.UUID][]vehicle.Chunk{}, begun: map[uuid.UUID]int{}, ended: map[uuid.UUID][]vehicle.Result{},
				onBegin: func(_ context.Context, cmd vehicle.Command) error {
					if cmd.Name == "Late" {
						pass(pause)
					}
					return nil
				}})},
		},
		"since it waited for a retry": {
			vt.On("Late", vt.Script{vt.Fail(codes.Unavailable, "later", retryInfo(pause))}, vt.Script{vt.Answer(`1`)}), nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := vt.NewServer(t, permitPings(), opts.server, vt.WithMutualTLS(vt.NewCA(t)))
				var broken atomic.Bool
				var last atomic.Pointer[net.Conn]
				client := server.Client(t, append(opts.client, vehicle.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					if !broken.Load() {
						conn, err := server.Dial(ctx, "")
						last.Store(&conn)
						return conn, err
					}
					return withoutTLS(), nil
				})))...)
				pass(time.Second) // since the client was made
				late := make(chan error, 1)
				go func() {
					_, err := client.Execute(t.Context(), command("Late"))
					late <- err
				}()
				pass(time.Minute)
				broken.Store(true)
				if conn := last.Load(); conn != nil {
					_ = (*conn).Close()
					synctest.Wait() // until the client knows
				}
				_, err := client.Execute(t.Context(), command("Early"))
				wantHandshake(t, "while the gateway is broken", err, "first record does not look like a TLS handshake", is[tls.RecordHeaderError])
				pass(pause - time.Minute - time.Second)
				broken.Store(false) // a second before it asks: gRPC may have tried just now, and that failure counts
				if err := <-late; err != nil {
					t.Errorf("once it is mended: got error %v, want none", err)
				}
			})
		})
	}
}

// Whose time ends before the gateway has been asked again has run out of time, and is told of the old failure.
func TestWaitReadyThatEndsBeforeTheServerIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mute atomic.Bool
		client, err := vehicle.New("passthrough:///gateway", vehicle.WithTLS(nil), vehicle.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if mute.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return withoutTLS(), nil
		})))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		const reason = "first record does not look like a TLS handshake"
		wantHandshake(t, "the first", client.WaitReady(t.Context()), reason, is[tls.RecordHeaderError])
		pass(10 * time.Minute)
		mute.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := client.WaitReady(ctx); !errors.Is(err, vehicle.ErrTimeout) || !strings.Contains(err.Error(), reason) {
			t.Errorf("got error %v, want ErrTimeout with %q", err, reason)
		}
	})
}

// A server that accepts connections and says nothing is named as the reason, by whatever ends the wait.
func TestHandshakeThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	mute := grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		conn, _ := net.Pipe()
		return conn, nil
	})
	tests := map[string]struct {
		opt      vehicle.Option
		sentinel error
		text     string
		took     time.Duration
	}{
		"by its own limit, before the attempt's": {
			vehicle.WithoutRetry(), vehicle.ErrUnavailable, "TLS handshake: no answer from the server within 10s", 10 * time.Second},
		"by the attempt's limit": {
			vehicle.WithAttemptTimeout(5 * time.Second), vehicle.ErrTimeout, "TLS handshake: no answer from the server yet", 5 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, err := vehicle.New("passthrough:///mute", vehicle.WithTLS(nil), vehicle.WithDialOptions(mute),
					vehicle.WithRetry(vehicle.RetryPolicy{TimeoutRetries: -1}))
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				start := time.Now()
				_, err = client.Execute(t.Context(), command("ReadDTC"), test.opt.(vehicle.CallOption))
				if !errors.Is(err, test.sentinel) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("got error %v, want %v with %q", err, test.sentinel, test.text)
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := client.WaitReady(ctx); !errors.Is(err, vehicle.ErrTimeout) || !strings.Contains(err.Error(), "TLS handshake: no answer from the server within 10s") {
					t.Errorf("WaitReady: got error %v, want ErrTimeout with the reason", err)
				}
			})
		})
	}
}

// WaitReady hears of a failure, also where a service config or an option has streams wait through failures.
func TestWaitReadyWhereStreamsWait(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.WithTCP(), vt.WithMutualTLS(vt.NewCA(t)))
	files := vt.NewCA(t).Files()
	for name, option := range map[string]grpc.DialOption{
		"a service config": grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "waitForReady": true}]}`),
		"a dial option":    grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := vehicle.New(server.Target(), vehicle.WithTLSFiles(files), vehicle.WithDialOptions(option))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			wantHandshake(t, "WaitReady", client.WaitReady(ctx), "certificate signed by unknown authority", is[x509.UnknownAuthorityError])
		})
	}
}

// WaitReady says what it was that it waited for in vain, also without TLS.
func TestWaitReadyNamesTheLastFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials int
		refused := grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			dials++
			return nil, fmt.Errorf("refused for the %dth time", dials)
		})
		client, err := vehicle.New("passthrough:///nobody", vehicle.WithInsecure(), vehicle.WithDialOptions(refused))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = client.WaitReady(ctx)
		if want := fmt.Sprintf("refused for the %dth time", dials); dials < 2 || !errors.Is(err, vehicle.ErrTimeout) || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want ErrTimeout with %q", err, want)
		}
	})
}

func TestWithTLSHonoursTheCallersConfig(t *testing.T) {
	t.Parallel()
	ca := vt.NewCA(t)
	pair, err := ca.IssueClient()
	if err != nil {
		t.Fatal(err)
	}
	var asked, verified atomic.Int32
	var wrongPeer atomic.Bool
	sessions := tls.NewLRUClientSessionCache(8)
	config := &tls.Config{
		RootCAs:            ca.Pool(),
		ClientSessionCache: sessions,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked.Add(1)
			return &pair, nil
		},
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { verified.Add(1); return nil },
		VerifyConnection: func(state tls.ConnectionState) error {
			wrongPeer.Store(state.PeerCertificates[0].VerifyHostname("127.0.0.1") != nil)
			verified.Add(1)
			return nil
		},
	}
	server := vt.NewServer(t, vt.WithTCP(), vt.WithTLS(ca.ServerConfig(), vehicle.WithTLS(config)))
	client := server.Client(t, quickly())
	for range 3 {
		if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
			t.Fatal(err)
		}
		server.CutConnections()
	}
	for i, r := range server.Requests() {
		if !r.TLS.PeerCertificates[0].Equal(pair.Leaf) {
			t.Errorf("request %d: the client showed another certificate than that of GetClientCertificate", i)
		}
		if r.TLS.DidResume {
			t.Errorf("request %d came in a resumed session", i)
		}
		if r.TLS.Version != tls.VersionTLS13 {
			t.Errorf("request %d: got %s, want TLS 1.3", i, tls.VersionName(r.TLS.Version))
		}
	}
	if asked.Load() < 3 || verified.Load() != 2*asked.Load() || wrongPeer.Load() {
		t.Errorf("the callbacks were called %d and %d times, want at least 3 and twice that", asked.Load(), verified.Load())
	}
	if config.MinVersion != 0 || config.NextProtos != nil || config.ClientSessionCache != sessions {
		t.Error("the caller's config was changed")
	}
}

func TestWithTLSRefusesWhatDoesNotProtect(t *testing.T) {
	t.Parallel()
	verify := func(tls.ConnectionState) error { return nil }
	tests := map[string]struct {
		config *tls.Config
		text   string // empty: no error
	}{
		"a config that verifies nothing":                {&tls.Config{InsecureSkipVerify: true}, "InsecureSkipVerify"},
		"a config that verifies in its own way is fine": {&tls.Config{InsecureSkipVerify: true, VerifyConnection: verify}, ""},
		"a config that ends at TLS 1.1":                 {&tls.Config{MaxVersion: tls.VersionTLS11}, "MaxVersion is TLS 1.1"},
		"a config that ends at TLS 1.2 is fine":         {&tls.Config{MaxVersion: tls.VersionTLS12}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := vehicle.New("localhost:50051", vehicle.WithTLS(test.config))
			if client != nil {
				defer client.Close()
			}
			if text := fmt.Sprint(err); (err != nil) != (test.text != "") || !strings.Contains(text, test.text) {
				t.Errorf("got error %v, want one with %q", err, test.text)
			}
		})
	}
}

func TestPlaintextAcrossANetworkIsWarnedOf(t *testing.T) {
	t.Parallel()
	tests := map[string]int{ // by target, how many warnings
		"localhost:50051": 0, "LOCALHOST.:50051": 0, "mock.localhost:50051": 0, "127.0.0.1:50051": 0, "127.8.9.1:1": 0, "[::1]:50051": 0,
		"dns:///localhost:50051": 0, "dns://9.9.9.9/localhost:50051": 0, "passthrough:///127.0.0.1:50051": 0, "dns:localhost:50051": 0,
		"unix:/run/vehicle.sock": 0, "unix:///run/vehicle.sock": 0, "unix-abstract:vehicle": 0, "passthrough:///bufnet": 0,
		"gateway.example:50051": 1, "gateway.example": 1, "dns:///gateway.example:50051": 1, "passthrough:///10.0.0.7:50051": 1,
		"10.0.0.7:50051": 1, "[2001:db8::1]:50051": 1, "localhost.gateway.example:50051": 1, "0.0.0.0:50051": 1,
	}
	for target, want := range tests {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			for i, option := range []vehicle.Option{vehicle.WithInsecure(), vehicle.WithTLS(nil)} {
				want := want * (1 - i) // none with TLS
				var log logged
				client, err := vehicle.New(target, option, vehicle.WithLogger(log.at(slog.LevelDebug)), vehicle.WithPoolSize(4))
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if got := strings.Count(log.text(), `"level":"WARN","msg":"vehicle: plaintext`); got != want {
					t.Errorf("got %d warnings, want %d:\n%s", got, want, log.text())
				}
			}
		})
	}
}
