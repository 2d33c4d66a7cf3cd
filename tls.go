package vehicle

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
)

// TLSFiles names PEM files. CA is a bundle of the authorities that may have signed the server's
// certificate; empty means the system's roots. Cert and Key are the client's certificate chain and
// private key; both empty means no client certificate. ServerName overrides the name that the
// server's certificate must have; empty means the target's host.
//
// The files may be replaced while the client runs; see [WithTLSFiles].
type TLSFiles struct{ CA, Cert, Key, ServerName string }

// security is how connections are protected; the zero value is TLS with the system's roots.
type security struct {
	options  []string // which options spoke, for the error when they contradict
	insecure bool
	config   *tls.Config
	files    *TLSFiles
	interval time.Duration // of looking at the files; zero: reloadInterval
}

func (s *security) useFiles(files TLSFiles) { s.use("WithTLSFiles", security{files: &files}) }
func (s *security) useNothing()             { s.use("WithInsecure", security{insecure: true}) }

func (s *security) useConfig(config *tls.Config) {
	if config == nil {
		config = &tls.Config{}
	}
	s.use("WithTLS", security{config: config.Clone()})
}

func (s *security) use(option string, how security) {
	how.options, how.interval = s.options, s.interval
	if !slices.Contains(how.options, option) {
		how.options = append(how.options, option)
	}
	*s = how
}

func (s *security) validate() error {
	switch c := s.config; {
	case len(s.options) > 1:
		return fmt.Errorf("vehicle: %s contradict each other: give one of them", strings.Join(s.options, " and "))
	case c == nil:
		return nil
	case c.InsecureSkipVerify && c.VerifyPeerCertificate == nil && c.VerifyConnection == nil:
		return errors.New("vehicle: WithTLS: InsecureSkipVerify needs a VerifyConnection or VerifyPeerCertificate of yours: otherwise nothing verifies the server")
	case c.MaxVersion != 0 && c.MaxVersion < tls.VersionTLS12:
		return fmt.Errorf("vehicle: WithTLS: MaxVersion is %s, and TLS 1.2 is the least that is spoken", tls.VersionName(c.MaxVersion))
	}
	return nil
}

// keyring has the credentials for the next handshake.
type keyring interface {
	// current may read files. What it returns is equal to what it returned before until those have changed.
	current() credentials.TransportCredentials
	// watch calls renew after each change, until the function that it returns is called, which waits for renew.
	watch(renew func()) (stop func())
	// ends is when the client's certificate and the last of the authorities expire; zero where that is not known.
	ends() (client, authorities time.Time)
}

// load reads and checks what the options name.
func (s *security) load(logger *slog.Logger) (keyring, error) {
	switch {
	case s.insecure:
		return fixed{TransportCredentials: insecure.NewCredentials()}, nil
	case s.files != nil:
		keys, err := newReloader(*s.files, cmp.Or(s.interval, reloadInterval), logger)
		if err != nil {
			return nil, &filesError{err}
		}
		return keys, nil
	case s.config != nil:
		keys := fixed{TransportCredentials: newTLS(s.config)}
		if len(s.config.Certificates) > 0 && s.config.Certificates[0].Leaf != nil {
			keys.clientEnds = s.config.Certificates[0].Leaf.NotAfter
		}
		return keys, nil
	default:
		return fixed{TransportCredentials: newTLS(&tls.Config{MinVersion: tls.VersionTLS12})}, nil
	}
}

// filesError is TLSFiles that cannot be used.
type filesError struct{ reason error }

func (e *filesError) Error() string { return "vehicle: TLS: " + e.reason.Error() }
func (e *filesError) Unwrap() error { return e.reason }

// newTLS is gRPC's TLS with the house rules. It does not change config.
func newTLS(config *tls.Config) credentials.TransportCredentials {
	config = config.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	// Each connection verifies the server and is verified by it. A resumed session would stand for a
	// verification of the past, and saves connections that live for hours nothing.
	config.ClientSessionCache = nil
	// What these refuse is refused for good, and their errors have any type.
	if verify := config.VerifyPeerCertificate; verify != nil {
		config.VerifyPeerCertificate = verifying(verify)
	}
	if verify := config.VerifyConnection; verify != nil {
		config.VerifyConnection = func(state tls.ConnectionState) error { return refuse(verify(state)) }
	}
	return credentials.NewTLS(config)
}

// fixed is a keyring that never changes.
type fixed struct {
	credentials.TransportCredentials
	clientEnds time.Time
}

func (f fixed) current() credentials.TransportCredentials { return f.TransportCredentials }
func (fixed) watch(func()) func()                         { return func() {} }
func (f fixed) ends() (client, authorities time.Time)     { return f.clientEnds, time.Time{} }

// warnOfPlaintext logs where commands would cross a network that anyone may read.
func (s *security) warnOfPlaintext(target string, logger *slog.Logger) {
	if s.insecure && !isLocal(target) {
		commandLog{logger: logger}.log(context.Background(), slog.LevelWarn,
			"vehicle: plaintext: commands and answers can be read and changed on the way to the target",
			slog.String("target", target))
	}
}

// isLocal says whether a gRPC target stays on this machine: unix sockets, loopback, and what passes a name without a
// port through to some dialer of its own (bufconn).
func isLocal(target string) bool {
	u, err := url.Parse(target)
	if err != nil || resolver.Get(u.Scheme) == nil { // gRPC, too, then takes all of it for an address
		u = &url.URL{Scheme: "dns", Path: target}
	}
	endpoint := resolver.Target{URL: *u}.Endpoint()
	host, _, err := net.SplitHostPort(endpoint)
	switch {
	case u.Scheme == "unix", u.Scheme == "unix-abstract":
		return true
	case err != nil && u.Scheme == "passthrough":
		return true
	case err != nil:
		host = strings.Trim(endpoint, "[]")
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
