package vehicle_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// reloadWithin is what WithTLSFiles promises.
const reloadWithin = 5 * time.Second

// Everything is exchanged under the feet of 200 running commands, ten times, and none of them notices.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const running, rotations = 200, 10
	ca := vt.NewCA(t)
	seen := watchClients(ca.ServerConfig())
	server := vt.NewServer(t, vt.WithTCP(), vt.WithTLS(seen.config, vehicle.WithTLSFiles(ca.Files())),
		vt.On("Scripted", vt.Script{vt.Send(`0`), vt.Delay(20 * time.Millisecond), vt.Send(`1`), vt.Delay(20 * time.Millisecond), vt.Answer(`2`)}))
	sink := newRecorder(t)
	client := server.Client(t, vehicle.WithSink(sink), vehicle.WithReloadInterval(20*time.Millisecond), vehicle.WithoutRetry())
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var completed atomic.Int64
	for range running {
		load.Go(func() {
			for ctx.Err() == nil {
				res, err := client.Execute(t.Context(), command("Scripted"))
				if err != nil || res.Attempts != 1 {
					t.Errorf("after %d attempts: %v", res.Attempts, err)
					return
				}
				completed.Add(1)
			}
		})
	}
	for i := range rotations {
		before := completed.Load()
		if err := ca.Rotate(); err != nil {
			t.Fatal(err)
		}
		seen.wait(t, ca)
		for completed.Load() < before+running { // commands have run under the new certificates
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				t.Fatalf("rotation %d: %d commands since, want %d", i, completed.Load()-before, running)
			}
		}
	}
	stop()
	load.Wait()
	if got := int64(sink.ends()); got != completed.Load() {
		t.Errorf("got %d ends, want %d", got, completed.Load())
	}
	t.Logf("%d commands, %d rotations, %d connections", completed.Load(), rotations, seen.count())
}

// clients is what a server saw of its clients' certificates.
type clients struct {
	config *tls.Config

	mu      sync.Mutex
	leaves  []*x509.Certificate // one for each connection
	resumed int
	changed chan struct{}
}

func watchClients(config *tls.Config) *clients {
	c := &clients{config: config.Clone(), changed: make(chan struct{}, 1)}
	c.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		inner, err := config.GetConfigForClient(hello)
		if err != nil {
			return nil, err
		}
		inner = inner.Clone()
		inner.VerifyConnection = func(state tls.ConnectionState) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.leaves = append(c.leaves, state.PeerCertificates[0])
			if state.DidResume {
				c.resumed++
			}
			select {
			case c.changed <- struct{}{}:
			default:
			}
			return nil
		}
		return inner, nil
	}
	return c
}

func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.leaves)
}

// has says whether the last client came with the certificate of the CA's folder.
func (c *clients) has(t *testing.T, ca *vt.CA) bool {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(ca.Files().Cert, ca.Files().Key)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.leaves) > 0 && c.leaves[len(c.leaves)-1].Equal(pair.Leaf)
}

func (c *clients) wait(t *testing.T, ca *vt.CA) {
	t.Helper()
	for !c.has(t, ca) {
		select {
		case <-c.changed:
		case <-t.Context().Done():
			t.Fatal("no connection with the new certificate")
		}
	}
}

// In the tests below the clock is the bubble's, the network is memory, and the files are files.

type reloading struct {
	*testing.T
	ca     *vt.CA
	seen   *clients
	server *vt.Server
	client *vehicle.Client
	log    *logged
}

// reload runs test with a client that is connected, and has no command.
func reload(t *testing.T, files func(*vt.CA) vehicle.TLSFiles, test func(reloading), opts ...vt.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := reloading{T: t, ca: vt.NewCA(t), log: new(logged)}
		r.seen = watchClients(r.ca.ServerConfig())
		r.server = vt.NewServer(t, append(opts, permitPings(), vt.WithTLS(r.seen.config))...)
		r.client = r.server.Client(t, vehicle.WithTLSFiles(files(r.ca)), vehicle.WithLogger(r.log.at(slog.LevelInfo)))
		if err := r.client.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(r)
	})
}

func (r reloading) wantLog(level, text string, want int) {
	r.Helper()
	got := 0
	for line := range strings.Lines(r.log.text()) {
		if strings.Contains(line, `"level":"`+level+`"`) && strings.Contains(line, text) {
			got++
		}
	}
	if got != want {
		r.Errorf("got %d records at %s with %q, want %d:\n%s", got, level, text, want, r.log.text())
	}
}

func (r reloading) mustRun() {
	r.Helper()
	if _, err := r.client.Execute(r.Context(), command("ReadDTC"), vehicle.WithoutRetry()); err != nil {
		r.Error(err)
	}
}

func TestIdleConnectionsFollowARotation(t *testing.T) {
	t.Parallel()
	reload(t, (*vt.CA).Files, func(r reloading) {
		pass(time.Minute)
		if got := r.seen.count(); got != 1 {
			r.Fatalf("before: got %d connections, want 1", got)
		}
		for i := range 3 {
			if err := r.ca.Rotate(); err != nil {
				r.Fatal(err)
			}
			pass(reloadWithin)
			synctest.Wait()
			if got := r.seen.count(); got != i+2 || !r.seen.has(r.T, r.ca) {
				r.Errorf("%v after rotation %d: got %d connections, want %d, the last one with the new certificate", reloadWithin, i+1, got, i+2)
			}
		}
		r.mustRun()
		if got := r.seen.count(); got != 4 {
			r.Errorf("after a command: got %d connections, want the 4 of before", got)
		}
		files := r.ca.Files()
		r.wantLog("INFO", fmt.Sprintf(`"msg":"vehicle: TLS files reloaded","ca":%q,"cert":%q,"not_after":"`, files.CA, files.Cert), 3)
		r.wantLog("WARN", "", 0)
	})
}

// A log handler may ask the client: it is called without what that waits for.
func TestALogHandlerMayAskTheClient(t *testing.T) {
	t.Parallel()
	ca := vt.NewCA(t)
	server := vt.NewServer(t, vt.WithTCP(), vt.WithMutualTLS(ca))
	client := make(chan *vehicle.Client, 1)
	reloaded := make(chan struct{})
	var first atomic.Bool
	ask := writerFunc(func(line []byte) (int, error) {
		if !bytes.Contains(line, []byte("vehicle: TLS files reloaded")) || first.Swap(true) {
			return len(line), nil
		}
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			(<-client).Stats()
		}()
		select {
		case <-asked:
		case <-time.After(10 * time.Second):
			t.Error("Stats did not return while the handler waited for it")
		}
		close(reloaded)
		return len(line), nil
	})
	client <- server.Client(t, vehicle.WithReloadInterval(20*time.Millisecond), vehicle.WithLogger(slog.New(slog.NewJSONHandler(ask, nil))))
	if err := ca.Rotate(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reloaded:
	case <-time.After(time.Minute):
		t.Error("the files were not reloaded within a minute")
	}
}

// writerFunc is an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A new connection does not wait for that: it uses what the files hold when it is made.
func TestNewConnectionsUseNewFilesAtOnce(t *testing.T) {
	t.Parallel()
	reload(t, (*vt.CA).Files, func(r reloading) {
		if err := r.ca.Replace(); err != nil { // the old certificate is good for nothing
			r.Fatal(err)
		}
		r.server.CutConnections()
		synctest.Wait()
		r.mustRun()
		if !r.seen.has(r.T, r.ca) {
			r.Error("the command went with an old certificate")
		}
	})
}

func TestRunningCommandsOutliveARotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := vt.NewCA(t)
		var open connections
		server := vt.NewServer(t, permitPings(), vt.WithMutualTLS(ca),
			vt.On("Long", vt.Script{vt.Send(`0`), vt.Delay(2 * time.Minute), vt.Answer(`1`)}))
		client := server.Client(t, vehicle.WithAttemptTimeout(0), vehicle.WithDialOptions(grpc.WithStatsHandler(&open)))
		var long sync.WaitGroup
		for range 3 {
			long.Go(func() {
				if res, err := client.Execute(t.Context(), command("Long")); err != nil || res.Attempts != 1 {
					t.Errorf("a command over three rotations: got %d attempts and error %v, want 1 and none", res.Attempts, err)
				}
			})
		}
		for range 3 {
			pass(2 * reloadWithin)
			if err := ca.Rotate(); err != nil {
				t.Fatal(err)
			}
			pass(2 * reloadWithin)
			if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
				t.Error(err)
			}
		}
		if got := open.Load(); got != 2 {
			t.Errorf("while they run: got %d connections, want the old one and the new one", got)
		}
		long.Wait()
		pass(2 * time.Second) // gRPC gives a connection that it closes a second to say good-bye
		if got := open.Load(); got != 1 {
			t.Errorf("afterwards: got %d connections, want the new one", got)
		}
		conns := map[string]map[int]bool{}
		for _, r := range server.Requests() {
			name := r.Command.GetCommandName()
			if conns[name] == nil {
				conns[name] = map[int]bool{}
			}
			conns[name][r.Conn] = true
		}
		if want := fmt.Sprint(map[string]map[int]bool{"Long": {1: true}, "ReadDTC": {2: true, 3: true, 4: true}}); fmt.Sprint(conns) != want {
			t.Errorf("connections by command: got %v, want %v", conns, want)
		}
	})
}

// A connection that takes another one's place is expected to carry as much as that: how many streams the server takes has not to be
// found out again, by streams that wait.
func TestRenewedConnectionsAreExpectedToCarryAsMuch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, conns = 2, 3
		ca := vt.NewCA(t)
		before, after := make(chan struct{}), make(chan struct{})
		server := vt.NewServer(t, permitPings(), vt.WithMutualTLS(ca), vt.WithServerOptions(grpc.MaxConcurrentStreams(limit)),
			vt.On("Before", vt.Script{vt.Until(before), vt.Answer(`0`)}),
			vt.On("After", vt.Script{vt.Until(after), vt.Answer(`0`)}))
		var openings atomic.Int32
		client := server.Client(t, vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc,
			cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			openings.Add(1)
			return streamer(ctx, desc, cc, method, opts...)
		})))
		run := func(name string, commands int, release chan struct{}) {
			var wg sync.WaitGroup
			for range commands {
				wg.Go(func() {
					if _, err := client.Execute(t.Context(), command(name), vehicle.WithAttemptTimeout(0)); err != nil {
						t.Error(err)
					}
				})
			}
			time.Sleep(time.Second)
			close(release)
			wg.Wait()
		}
		run("Before", conns*limit, before)
		if got := client.Stats().Ready; got != conns {
			t.Fatalf("before: got %d connections, want %d", got, conns)
		}
		if err := ca.Rotate(); err != nil {
			t.Fatal(err)
		}
		pass(2 * reloadWithin)
		openings.Store(0)
		const more = conns*limit + 1 // which asks for another connection
		run("After", more, after)
		if got := openings.Load(); got != more {
			t.Errorf("afterwards: %d commands opened %d streams: some were given up", more, got)
		}
	})
}

// connections counts those that are open.
type connections struct{ atomic.Int32 }

func (*connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*connections) HandleRPC(context.Context, stats.RPCStats)                         {}
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.Add(1)
	case *stats.ConnEnd:
		c.Add(-1)
	}
}

// Files that cannot be used change nothing but the log, whatever is wrong with them and for however long.
func TestHalfARotationKeepsWhatThereWas(t *testing.T) {
	t.Parallel()
	for name, test := range spoiled {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var f *folder
			files := func(ca *vt.CA) vehicle.TLSFiles {
				f = newFolder(t, ca)
				return f.files()
			}
			reload(t, files, func(r reloading) {
				key := f.issued("client-key.pem")
				test.spoil(f)
				pass(time.Minute)
				r.wantLog("WARN", "vehicle: TLS files changed and cannot be used", 1)
				r.wantLog("WARN", f.dir+"/"+test.file, 1)
				r.wantLog("WARN", test.text, 1)
				r.mustRun()
				r.server.CutConnections()
				synctest.Wait()
				r.mustRun() // on a new connection
				if got := r.seen.count(); got != 2 {
					r.Errorf("got %d connections, want 2", got)
				}
				wantNoKey(t, r.log.text(), key, f.issued("client-key.pem"))

				if err := os.RemoveAll(f.files().CA); err != nil {
					r.Fatal(err)
				}
				if err := r.ca.Rotate(); err != nil {
					r.Fatal(err)
				}
				for _, name := range []string{"client-key.pem", "client-cert.pem", "ca.pem"} {
					f.put(name, f.issued(name))
				}
				pass(reloadWithin)
				synctest.Wait()
				if !r.seen.has(r.T, r.ca) {
					r.Error("once the files were right: no connection with the new certificate")
				}
				r.mustRun()
			})
		})
	}
}

// A rotation that comes in the wrong order, the servers first, is over when the files have followed.
func TestFilesThatFollowTheServersLate(t *testing.T) {
	t.Parallel()
	var f *folder
	files := func(ca *vt.CA) vehicle.TLSFiles {
		f = newFolder(t, ca)
		return f.files()
	}
	reload(t, files, func(r reloading) {
		if err := r.ca.Replace(); err != nil {
			r.Fatal(err)
		}
		r.server.CutConnections()
		for range 2 {
			_, err := r.client.Execute(r.Context(), command("ReadDTC"))
			if !errors.Is(err, vehicle.ErrUnavailable) || !is[x509.UnknownAuthorityError](err) {
				r.Errorf("before the files: got error %v, want the unknown authority", err)
			}
			pass(10 * time.Minute) // gRPC waits longer and longer between its attempts
		}
		for _, name := range []string{"client-key.pem", "client-cert.pem", "ca.pem"} {
			f.put(name, f.issued(name))
		}
		pass(reloadWithin)
		synctest.Wait()
		r.mustRun()
	})
}

// A handshake that fails because the files change during it is tried again.
func TestFilesThatChangeDuringAHandshake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := vt.NewCA(t)
		config := ca.ServerConfig()
		var once sync.Once
		serve := config.GetConfigForClient
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			once.Do(func() { // the client has read its files
				if err := ca.Replace(); err != nil {
					t.Error(err)
				}
			})
			return serve(hello)
		}
		client := vt.NewServer(t, vt.WithTLS(config, vehicle.WithTLSFiles(ca.Files()))).Client(t)
		res, err := client.Execute(t.Context(), command("ReadDTC"))
		if err != nil || res.Attempts < 2 {
			t.Errorf("got %d attempts and error %v, want at least 2 and none", res.Attempts, err)
		}
	})
}

// What was verified under an authority that is not trusted any more is not used for commands any more, and the server is
// verified anew, in full.
func TestSessionsDoNotOutliveAChangeOfCA(t *testing.T) {
	t.Parallel()
	ca, other := vt.NewCA(t), vt.NewCA(t)
	cert, err := ca.IssueServer()
	if err != nil {
		t.Fatal(err)
	}
	// A server that would resume any session of before.
	var resumed, full atomic.Int32
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, VerifyConnection: func(state tls.ConnectionState) error {
		if state.DidResume {
			resumed.Add(1)
		} else {
			full.Add(1)
		}
		return nil
	}}
	f := newFolder(t, ca)
	server := vt.NewServer(t, vt.WithTCP(), vt.WithTLS(config, vehicle.WithTLSFiles(vehicle.TLSFiles{CA: f.files().CA})))
	client := server.Client(t, vehicle.WithReloadInterval(10*time.Millisecond))
	for range 3 {
		if _, err := client.Execute(t.Context(), command("ReadDTC"), vehicle.WithRetry(vehicle.RetryPolicy{})); err != nil {
			t.Fatal(err)
		}
		server.CutConnections()
	}
	if resumed.Load() != 0 || full.Load() < 3 {
		t.Errorf("got %d resumed and %d full handshakes, want none and at least 3", resumed.Load(), full.Load())
	}
	theirs, err := os.ReadFile(other.Files().CA)
	if err != nil {
		t.Fatal(err)
	}
	f.put("ca.pem", theirs)
	for {
		_, err := client.Execute(t.Context(), command("ReadDTC"))
		if is[x509.UnknownAuthorityError](err) {
			break
		}
		if err != nil {
			t.Fatalf("got error %v, want none or the unknown authority", err)
		}
	}
	f.put("ca.pem", f.issued("ca.pem"))
	for t.Context().Err() == nil {
		if _, err := client.Execute(t.Context(), command("ReadDTC")); err == nil {
			break
		}
	}
	if got := resumed.Load(); got != 0 {
		t.Errorf("got %d resumed handshakes, want none", got)
	}

	// The server is one that resumes.
	sessions := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", NextProtos: []string{"h2"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for resumed.Load() == 0 {
		raw, err := server.Dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, sessions)
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACertificateThatIsNotRenewedIsWarnedOf(t *testing.T) {
	t.Parallel()
	reload(t, (*vt.CA).Files, func(r reloading) {
		const warning = "about to expire"
		for warned := range 2 {
			if err := r.ca.RenewClient(vt.CertValidFor(time.Hour)); err != nil { // since two hours ago
				r.Fatal(err)
			}
			pass(40 * time.Minute)
			r.wantLog("WARN", warning, warned)
			pass(30 * time.Minute) // it has expired meanwhile
			r.wantLog("WARN", warning, warned+1)
		}
	})
}
