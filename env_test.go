package vehicle_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// These tests change the environment, and so do not run in parallel.

// env sets the VEHICLE_* variables, and empties those that vars does not have.
func env(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, name := range []string{
		"VEHICLE_ENDPOINT_URL", "VEHICLE_USE_TLS", "VEHICLE_TLS_CERT_DIR", "VEHICLE_TLS_CA_FILE", "VEHICLE_TLS_CERT_FILE",
		"VEHICLE_TLS_KEY_FILE", "VEHICLE_TLS_SERVER_NAME", "VEHICLE_GRPC_TIMEOUT", "VEHICLE_MAX_RETRIES", "VEHICLE_RETRY_BASE_DELAY",
		"VEHICLE_POOL_SIZE",
	} {
		t.Setenv(name, vars[name])
	}
}

// behaviour is what a client made from the environment does.
type behaviour struct {
	Address  string
	Timeout  time.Duration
	Attempts int   // at a command whose service is unavailable
	Delay    about // before the second of them
	Pool     int   // connections to a server that takes one stream on each
}

// about is a delay with jitter, which is a fifth of it at most.
type about time.Duration

var roughly = cmp.Comparer(func(a, b about) bool { return max(a, b)-min(a, b) <= max(a, b)/5 })

// echo stands in for DNS, which a bubble has none of: a name is its own address.
type echo struct{}

func (echo) Scheme() string                        { return "dns" }
func (echo) ResolveNow(resolver.ResolveNowOptions) {}
func (echo) Close()                                {}
func (e echo) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return e, cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: target.Endpoint()}}})
}

// observe makes the client, and looks from the other end.
func observe(t *testing.T, opts ...vehicle.Option) (b behaviour) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := vt.NewServer(t, vt.WithServerOptions(grpc.MaxConcurrentStreams(1)),
			vt.On("ReadDTC", vt.Script{vt.Fail(codes.Unavailable, "gateway restarting")}),
			vt.On("ECUReset", vt.Script{vt.Stall()}))
		addresses := make(chan string, 100)
		dial := func(ctx context.Context, address string) (net.Conn, error) {
			addresses <- address
			return server.Dial(ctx, address)
		}
		client, err := vehicle.NewFromEnv(append(opts, vehicle.WithDialOptions(grpc.WithContextDialer(dial), grpc.WithResolvers(echo{})))...)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_, err = client.Execute(t.Context(), command("ReadDTC"))
		wantSentinel(t, err, "ErrUnavailable")
		requests := server.Requests()
		b.Address, b.Attempts = <-addresses, len(requests)
		b.Timeout = requests[0].Deadline.Sub(requests[0].Arrived)
		if len(requests) > 1 {
			b.Delay = about(requests[1].Arrived.Sub(requests[0].Arrived))
		}

		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := client.Execute(ctx, command("ECUReset")); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want context.Canceled", err)
				}
			})
		}
		pass(200 * time.Millisecond)
		synctest.Wait()
		b.Pool = len(server.Requests()) - len(requests)
		cancel()
		all.Wait()
	})
	return b
}

func TestNewFromEnv(t *testing.T) {
	type vars = map[string]string
	const second = about(time.Second)
	tests := map[string]struct {
		vars vars
		opts []vehicle.Option
		want func(*behaviour) // what is other than by default
	}{
		"nothing is set": {},
		"the endpoint is a host and port": {vars: vars{"VEHICLE_ENDPOINT_URL": "gateway.example:443"},
			want: func(b *behaviour) { b.Address = "gateway.example:443" }},
		"the endpoint is any gRPC target": {vars: vars{"VEHICLE_ENDPOINT_URL": "passthrough:///gateway"},
			want: func(b *behaviour) { b.Address = "gateway" }},
		"the timeout is in seconds": {vars: vars{"VEHICLE_GRPC_TIMEOUT": "5"},
			want: func(b *behaviour) { b.Timeout = 5 * time.Second }},
		"the timeout may be a part of a second": {vars: vars{"VEHICLE_GRPC_TIMEOUT": "0.25"},
			want: func(b *behaviour) { b.Timeout = 250 * time.Millisecond }},
		"the retries are counted without the first attempt": {vars: vars{"VEHICLE_MAX_RETRIES": "5"},
			want: func(b *behaviour) { b.Attempts = 6 }},
		"no retries are none": {vars: vars{"VEHICLE_MAX_RETRIES": "0"},
			want: func(b *behaviour) { b.Attempts, b.Delay = 1, 0 }},
		"the delay is in seconds": {vars: vars{"VEHICLE_RETRY_BASE_DELAY": "2.5"},
			want: func(b *behaviour) { b.Delay = 5 * second / 2 }},
		"the delay may be over the longest by default": {vars: vars{"VEHICLE_RETRY_BASE_DELAY": "1e2"},
			want: func(b *behaviour) { b.Delay = 100 * second }},
		"no delay is none": {vars: vars{"VEHICLE_RETRY_BASE_DELAY": "0"},
			want: func(b *behaviour) { b.Delay = 0 }},
		"the pool has as many connections": {vars: vars{"VEHICLE_POOL_SIZE": "3"},
			want: func(b *behaviour) { b.Pool = 3 }},
		"without TLS its files do not matter": {vars: vars{"VEHICLE_USE_TLS": "false", "VEHICLE_TLS_CERT_DIR": "there/is/none", "VEHICLE_TLS_KEY_FILE": "none"}},
		"an explicit timeout wins": {vars: vars{"VEHICLE_GRPC_TIMEOUT": "5"}, opts: client{vehicle.WithAttemptTimeout(7 * time.Second)},
			want: func(b *behaviour) { b.Timeout = 7 * time.Second }},
		"an explicit policy wins as a whole": {vars: vars{"VEHICLE_MAX_RETRIES": "7", "VEHICLE_RETRY_BASE_DELAY": "70"}, opts: client{vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 2})},
			want: func(b *behaviour) { b.Attempts = 3 }},
		"an explicit absence of retries wins": {vars: vars{"VEHICLE_MAX_RETRIES": "7"}, opts: client{vehicle.WithoutRetry()},
			want: func(b *behaviour) { b.Attempts, b.Delay = 1, 0 }},
		"an explicit pool wins": {vars: vars{"VEHICLE_POOL_SIZE": "3"}, opts: client{vehicle.WithPoolSize(2)},
			want: func(b *behaviour) { b.Pool = 2 }},
		"explicit plaintext wins": {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_CERT_DIR": "there/is/none"}, opts: client{vehicle.WithInsecure()}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			env(t, tt.vars)
			want := behaviour{Address: "localhost:50051", Timeout: 30 * time.Second, Attempts: 4, Delay: second, Pool: 16}
			if tt.want != nil {
				tt.want(&want)
			}
			if diff := cmp.Diff(want, observe(t, tt.opts...), roughly); diff != "" {
				t.Errorf("client (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewFromEnvNamesWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	writePEM(t, filepath.Join(dir, "half"), "client-cert.pem", newCertificate(t))
	writePEM(t, filepath.Join(dir, "half"), "ca.pem", newCertificate(t))
	writePEM(t, filepath.Join(dir, "other half"), "client-key.pem", newCertificate(t))
	writePEM(t, filepath.Join(dir, "other half"), "ca.pem", newCertificate(t))
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none.pem")
	values := map[string][]string{
		"VEHICLE_ENDPOINT_URL":     {"http://gateway:50051", "gateway:0", "gateway:https", "a gateway", ":50051"},
		"VEHICLE_USE_TLS":          {"yes", "on", "2", " true"},
		"VEHICLE_GRPC_TIMEOUT":     {"30s", "0", "-1", "NaN", "Inf", "1e30", "9223372036.854775807", "1e-10", "thirty", " 30"},
		"VEHICLE_MAX_RETRIES":      {"-1", "1.5", "many", "99999999999999999999"},
		"VEHICLE_RETRY_BASE_DELAY": {"1s", "-0.5", "NaN", "Inf", "9223372036.854775807", "soon"},
		"VEHICLE_POOL_SIZE":        {"0", "-4", "3.0", "big"},
		"VEHICLE_TLS_CERT_DIR":     {filepath.Join(dir, "none"), filepath.Join(dir, "half"), filepath.Join(dir, "other half")},
		"VEHICLE_TLS_CA_FILE":      {none},
		"VEHICLE_TLS_CERT_FILE":    {none},
		"VEHICLE_TLS_KEY_FILE":     {none},
	}
	for name, unreadable := range values {
		for _, value := range unreadable {
			t.Run(name+" is "+filepath.Base(value), func(t *testing.T) {
				vars := map[string]string{name: value}
				if strings.HasPrefix(name, "VEHICLE_TLS_") {
					vars["VEHICLE_USE_TLS"] = "true"
				}
				env(t, vars)
				client, err := vehicle.NewFromEnv()
				if err == nil {
					t.Fatalf("got no error, want one (closing: %v)", client.Close())
				}
				if want := fmt.Sprintf("%s=%q", name, value); !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s in it", err, want)
				}
			})
		}
	}
	full := filepath.Join(dir, "full")
	longer := filepath.Join(full, "ca.pem.crt") // begins as another one does
	for _, name := range []string{"ca.pem", "client-cert.pem", "client-key.pem"} {
		writePEM(t, full, name, newCertificate(t)) // each is another one's
	}
	if err := os.WriteFile(longer, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		vars  map[string]string
		blame []string // which of them
	}{
		"an authority's file that is no PEM":  {map[string]string{"VEHICLE_TLS_CA_FILE": garbage}, []string{"VEHICLE_TLS_CA_FILE"}},
		"a certificate's file that is no PEM": {map[string]string{"VEHICLE_TLS_CERT_DIR": full, "VEHICLE_TLS_CERT_FILE": garbage}, []string{"VEHICLE_TLS_CERT_FILE"}},
		"a key's file that is a folder":       {map[string]string{"VEHICLE_TLS_CERT_DIR": full, "VEHICLE_TLS_KEY_FILE": dir}, []string{"VEHICLE_TLS_KEY_FILE"}},
		"a folder that is a file":             {map[string]string{"VEHICLE_TLS_CERT_DIR": garbage}, []string{"VEHICLE_TLS_CERT_DIR"}},
		"a folder whose files do not match":   {map[string]string{"VEHICLE_TLS_CERT_DIR": full}, []string{"VEHICLE_TLS_CERT_DIR"}},
		"a key that is not the folder's":      {map[string]string{"VEHICLE_TLS_CERT_DIR": full, "VEHICLE_TLS_KEY_FILE": filepath.Join(full, "client-key.pem")}, []string{"VEHICLE_TLS_CERT_DIR", "VEHICLE_TLS_KEY_FILE"}},
		"one of three that are given each": {map[string]string{"VEHICLE_TLS_CA_FILE": filepath.Join(full, "ca.pem"), "VEHICLE_TLS_CERT_FILE": garbage,
			"VEHICLE_TLS_KEY_FILE": filepath.Join(full, "client-key.pem")}, []string{"VEHICLE_TLS_CERT_FILE"}},
		"one whose name begins as another's": {map[string]string{"VEHICLE_TLS_CA_FILE": filepath.Join(full, "ca.pem"), "VEHICLE_TLS_CERT_FILE": longer,
			"VEHICLE_TLS_KEY_FILE": filepath.Join(full, "client-key.pem")}, []string{"VEHICLE_TLS_CERT_FILE"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.vars["VEHICLE_USE_TLS"] = "true"
			env(t, tt.vars)
			_, err := vehicle.NewFromEnv()
			for variable, value := range tt.vars {
				named := strings.Contains(fmt.Sprint(err), fmt.Sprintf("%s=%q", variable, value))
				if want := slices.Contains(tt.blame, variable); err == nil || named != want {
					t.Errorf("got %v, want %s in it: %v", err, variable, want)
				}
			}
		})
	}
	t.Run("several are all named", func(t *testing.T) {
		env(t, map[string]string{"VEHICLE_USE_TLS": "maybe", "VEHICLE_POOL_SIZE": "big", "VEHICLE_MAX_RETRIES": "many"})
		_, err := vehicle.NewFromEnv()
		for _, want := range []string{`VEHICLE_USE_TLS="maybe"`, `VEHICLE_POOL_SIZE="big"`, `VEHICLE_MAX_RETRIES="many"`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s in it", err, want)
			}
		}
	})
	t.Run("the folder by default is not blamed on the variable", func(t *testing.T) {
		env(t, map[string]string{"VEHICLE_USE_TLS": "true"})
		t.Chdir(t.TempDir())
		if err := os.Mkdir("certs", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("certs/ca.pem", []byte("no PEM"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := vehicle.NewFromEnv()
		if err == nil || !strings.Contains(err.Error(), "certs/ca.pem") || strings.Contains(err.Error(), "VEHICLE_") {
			t.Errorf("got %v, want an error about the file alone", err)
		}
	})
	t.Run("a target by default is not blamed on the variable", func(t *testing.T) {
		env(t, nil)
		_, err := vehicle.NewFromEnv(vehicle.WithPoolSize(0))
		if err == nil || strings.Contains(err.Error(), "VEHICLE_") {
			t.Errorf("got %v, want an error about the option alone", err)
		}
	})
}

// Where the files come from, as a gateway sees it that asks for a client certificate.
func TestNewFromEnvWithTLS(t *testing.T) {
	type vars = map[string]string
	gateway, cert, other := newCertificate(t), newCertificate(t), newCertificate(t)
	dir := t.TempDir()
	full, bare, wrong := filepath.Join(dir, "certs"), filepath.Join(dir, "bare"), filepath.Join(dir, "wrong")
	for _, d := range []string{full, bare} {
		writePEM(t, d, "ca.pem", gateway)
	}
	writePEM(t, full, "client-cert.pem", cert)
	writePEM(t, full, "client-key.pem", cert)
	writePEM(t, wrong, "ca.pem", other)
	writePEM(t, wrong, "client-cert.pem", other)
	writePEM(t, wrong, "client-key.pem", other)
	ca, certFile, keyFile := filepath.Join(full, "ca.pem"), filepath.Join(full, "client-cert.pem"), filepath.Join(full, "client-key.pem")
	trusting := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	trusting.RootCAs.AddCert(gateway.Leaf)
	tests := map[string]struct {
		vars vars
		opts []vehicle.Option
		name string           // that the client asks for
		cert *tls.Certificate // the client's; nil: none
	}{
		"the folder is certs by default":   {vars: vars{"VEHICLE_USE_TLS": "true"}, cert: &cert},
		"the folder can be another":        {vars: vars{"VEHICLE_USE_TLS": "1", "VEHICLE_TLS_CERT_DIR": bare}},
		"the CA file is instead of its":    {vars: vars{"VEHICLE_USE_TLS": "TRUE", "VEHICLE_TLS_CERT_DIR": wrong, "VEHICLE_TLS_CA_FILE": ca}, cert: &other},
		"the client's files are too":       {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_CERT_DIR": wrong, "VEHICLE_TLS_CA_FILE": ca, "VEHICLE_TLS_CERT_FILE": certFile, "VEHICLE_TLS_KEY_FILE": keyFile}, cert: &cert},
		"and need no folder":               {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_CERT_DIR": "none", "VEHICLE_TLS_CA_FILE": ca, "VEHICLE_TLS_CERT_FILE": certFile, "VEHICLE_TLS_KEY_FILE": keyFile}, cert: &cert},
		"one alone goes with the folder's": {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_CERT_FILE": certFile}, cert: &cert},
		"the server's name is asked for":   {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_SERVER_NAME": "gateway.example"}, name: "gateway.example", cert: &cert},
		"explicit files win":               {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_CERT_DIR": "none"}, opts: client{vehicle.WithTLSFiles(vehicle.TLSFiles{CA: ca})}},
		"explicit TLS wins":                {vars: vars{"VEHICLE_USE_TLS": "true", "VEHICLE_TLS_CA_FILE": "none"}, opts: client{vehicle.WithTLS(trusting)}},
		"explicit TLS wins over plaintext": {vars: vars{"VEHICLE_USE_TLS": "false"}, opts: client{vehicle.WithTLS(trusting)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Chdir(dir)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var hello *tls.ClientHelloInfo
			var certs []*x509.Certificate
			target := listen(t, func(raw net.Conn) {
				defer cancel()
				config := &tls.Config{Certificates: []tls.Certificate{gateway}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
				config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					hello = h
					return nil, nil //nolint:nilnil // it is the one that asks
				}
				conn := tls.Server(raw, config)
				if err := conn.HandshakeContext(ctx); err != nil {
					t.Errorf("handshake: %v", err)
				}
				if _, err := conn.Read(make([]byte, 1)); err != nil { // the client is satisfied only when it speaks
					t.Errorf("after the handshake: %v", err)
				}
				certs = conn.ConnectionState().PeerCertificates
			})
			tt.vars["VEHICLE_ENDPOINT_URL"] = target
			env(t, tt.vars)
			client, err := vehicle.NewFromEnv(tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			wantSentinel(t, client.WaitReady(ctx), "ErrCanceled")
			if hello == nil || hello.ServerName != tt.name {
				t.Errorf("hello: got %+v, want server name %q", hello, tt.name)
			}
			switch {
			case tt.cert == nil && len(certs) > 0:
				t.Errorf("client certificate: got %v, want none", certs[0].SerialNumber)
			case tt.cert != nil && (len(certs) == 0 || !certs[0].Equal(tt.cert.Leaf)):
				t.Errorf("client certificates: got %d, want the one of the variables", len(certs))
			}
		})
	}
}

// newCertificate signs itself: for 127.0.0.1 and gateway.example, for servers and clients.
func newCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"gateway.example"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// writePEM writes the certificate, or its key where the file's name says so.
func writePEM(t *testing.T, dir, name string, cert tls.Certificate) {
	t.Helper()
	block := &pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}
	if strings.Contains(name, "key") {
		der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		block = &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}
