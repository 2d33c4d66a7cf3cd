package vehicletest_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/keepalive"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

func readDTC() vehicle.Command { return vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"} }

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		ca := vehicletest.NewCA(t)
		server := vehicletest.NewServer(t, append(opts, vehicletest.WithMutualTLS(ca))...)
		if _, err := server.Client(t).Execute(t.Context(), readDTC()); err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(ca.Files().Cert, ca.Files().Key)
		if err != nil {
			t.Fatal(err)
		}
		state := server.Requests()[0].TLS
		if !state.PeerCertificates[0].Equal(pair.Leaf) {
			t.Error("the client did not show the folder's certificate")
		}
		if state.Version != tls.VersionTLS13 {
			t.Errorf("got %s, want TLS 1.3", tls.VersionName(state.Version))
		}
	})
}

func TestMutualTLSInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := vehicletest.NewCA(t)
		server := vehicletest.NewServer(t, vehicletest.WithMutualTLS(ca))
		client := server.Client(t, vehicle.WithKeepalive(keepalive.ClientParameters{}))
		for range 3 { // a certificate is valid for a day
			if _, err := client.Execute(t.Context(), readDTC()); err != nil {
				t.Fatal(err)
			}
			<-time.NewTimer(10 * time.Hour).C
			server.CutConnections()
			synctest.Wait()
		}
	})
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca := vehicletest.NewCA(t)
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	tests := map[string]struct {
		issue func(...vehicletest.CertOption) (tls.Certificate, error)
		opts  []vehicletest.CertOption
		name  string             // verified for
		usage []x509.ExtKeyUsage // nil: a server's
		want  func(error) bool   // nil: it is valid
	}{
		"a server's is valid for localhost":         {issue: ca.IssueServer, name: "localhost"},
		"a server's is valid for 127.0.0.1":         {issue: ca.IssueServer, name: "127.0.0.1"},
		"a server's is valid for ::1":               {issue: ca.IssueServer, name: "::1"},
		"a server's is no client's":                 {issue: ca.IssueServer, usage: client, want: invalid(x509.IncompatibleUsage)},
		"a client's is valid":                       {issue: ca.IssueClient, usage: client},
		"a client's is no server's":                 {issue: ca.IssueClient, want: invalid(x509.IncompatibleUsage)},
		"an expired one has expired":                {issue: ca.IssueServer, opts: []vehicletest.CertOption{vehicletest.CertExpired()}, want: invalid(x509.Expired)},
		"one of the future is not yet valid":        {issue: ca.IssueClient, usage: client, opts: []vehicletest.CertOption{vehicletest.CertNotYetValid()}, want: invalid(x509.Expired)},
		"one for an hour is valid":                  {issue: ca.IssueServer, opts: []vehicletest.CertOption{vehicletest.CertValidFor(time.Hour)}},
		"one for a time that is over has expired":   {issue: ca.IssueServer, opts: []vehicletest.CertOption{vehicletest.CertValidFor(-time.Minute)}, want: invalid(x509.Expired)},
		"one for other names has them":              {issue: ca.IssueServer, opts: []vehicletest.CertOption{vehicletest.CertForNames("gateway.example", "10.0.0.7")}, name: "10.0.0.7"},
		"one for other names has not those of mine": {issue: ca.IssueServer, opts: []vehicletest.CertOption{vehicletest.CertForNames("gateway.example")}, name: "localhost", want: wrongName},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert, err := test.issue(test.opts...)
			if err != nil {
				t.Fatal(err)
			}
			_, err = cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: test.name, KeyUsages: test.usage})
			if test.want == nil && err != nil || test.want != nil && !test.want(err) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func invalid(reason x509.InvalidReason) func(error) bool {
	return func(err error) bool {
		e, ok := errors.AsType[x509.CertificateInvalidError](err)
		return ok && e.Reason == reason
	}
}

func wrongName(err error) bool {
	_, ok := errors.AsType[x509.HostnameError](err)
	return ok
}

// In a rotation nobody shows what the other side does not trust, whoever is first; after a replacement nobody trusts
// what was shown before.
func TestRotation(t *testing.T) {
	t.Parallel()
	ca := vehicletest.NewCA(t)
	type side struct {
		trusts *x509.CertPool
		shows  *x509.Certificate
	}
	now := func() side {
		cert, err := ca.IssueClient()
		if err != nil {
			t.Fatal(err)
		}
		return side{trusts: ca.Pool(), shows: cert.Leaf}
	}
	trusts := func(who, whom side) bool {
		_, err := whom.shows.Verify(x509.VerifyOptions{Roots: who.trusts, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err == nil
	}
	before := now()
	sides := []side{before}
	for i := range 3 {
		if err := ca.Rotate(); err != nil {
			t.Fatal(err)
		}
		after := now()
		if !trusts(before, after) || !trusts(after, before) {
			t.Errorf("rotation %d: before trusts after: %v, after trusts before: %v; want both", i+1, trusts(before, after), trusts(after, before))
		}
		if before.shows.Issuer.String() == after.shows.Issuer.String() {
			t.Errorf("rotation %d: the authority is the same", i+1)
		}
		if i > 0 && trusts(after, sides[i-1]) {
			t.Errorf("rotation %d: what was shown two rotations ago is trusted", i+1)
		}
		before = after
		sides = append(sides, after)
	}
	if err := ca.Replace(); err != nil {
		t.Fatal(err)
	}
	after := now()
	for i, before := range sides {
		if trusts(before, after) || trusts(after, before) {
			t.Errorf("replacement: before, after %d rotations, trusts after: %v, after trusts before: %v; want neither", i, trusts(before, after), trusts(after, before))
		}
	}
}

// A server that is not vehicletest's takes what the configuration says as it is.
func TestServerConfigIsThatOfAGRPCServerWithMutualTLS(t *testing.T) {
	t.Parallel()
	config, err := vehicletest.NewCA(t).ServerConfig().GetConfigForClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(config.NextProtos, "h2") || config.ClientAuth != tls.RequireAndVerifyClientCert {
		t.Errorf("got protocols %v and client authentication %v, want h2 and %v", config.NextProtos, config.ClientAuth, tls.RequireAndVerifyClientCert)
	}
}

func TestServersFollowARotation(t *testing.T) {
	t.Parallel()
	ca := vehicletest.NewCA(t)
	server := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca))
	old, err := ca.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	old.NextProtos, old.ServerName = []string{"h2"}, "localhost"
	old.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	connect := func() (*tls.ConnectionState, error) {
		raw, err := server.Dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, old)
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1)) // the handshake, and the session
		state := conn.ConnectionState()
		return &state, err
	}
	first, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := connect(); err != nil || !again.DidResume {
		t.Errorf("a second time: got error %v, want a resumed session", err)
	}
	if err := ca.Rotate(); err != nil {
		t.Fatal(err)
	}
	second, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	if second.DidResume || second.PeerCertificates[0].Equal(first.PeerCertificates[0]) {
		t.Error("after a rotation: got the old certificate or session, want new ones")
	}
	if err := ca.Replace(); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(); err == nil {
		t.Error("after a replacement: got a connection, want none")
	}
}

// The folder is what VEHICLE_TLS_CERT_DIR wants, and changes as a Kubernetes secret does.
func TestFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := vehicletest.MakeCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	check := func() (cert tls.Certificate) {
		t.Helper()
		cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "client-cert.pem"), filepath.Join(dir, "client-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(bundle) || !roots.Equal(ca.Pool()) {
			t.Error("ca.pem is not what Pool has")
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
		info, err := os.Stat(filepath.Join(dir, "client-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("mode of the key: got %v, want 0600", got)
		}
		return cert
	}
	first := check()
	for name, change := range map[string]func() error{
		"Rotate": ca.Rotate, "Replace": ca.Replace, "RenewClient": func() error { return ca.RenewClient() },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if next := check(); next.Leaf.Equal(first.Leaf) {
			t.Errorf("%s: the certificate is the same", name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), "..000004 ..data ca.pem client-cert.pem client-key.pem"; got != want {
		t.Errorf("the folder has %s, want %s", got, want)
	}
	if _, err := vehicletest.MakeCA(dir); err == nil {
		t.Error("a second CA in the same folder: got no error")
	}
	for _, name := range names[1:] {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := vehicletest.MakeCA(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a folder that has a %s: got error %v, want one that names it", name, err)
		}
	}
}
