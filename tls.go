package vehicle

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// TLSFiles names PEM files. CA is a bundle of the authorities that may have signed the server's
// certificate; empty means the system's roots. Cert and Key are the client's certificate chain and
// private key; both empty means no client certificate. ServerName overrides the name that the
// server's certificate must have; empty means the target's host.
type TLSFiles struct{ CA, Cert, Key, ServerName string }

// security is how connections are protected; the zero value is TLS with the system's roots.
type security struct {
	options  []string // which options spoke, for the error when they contradict
	insecure bool
	config   *tls.Config
	files    *TLSFiles
}

func (s *security) useFiles(files TLSFiles) { s.use("WithTLSFiles", security{files: &files}) }
func (s *security) useNothing()             { s.use("WithInsecure", security{insecure: true}) }

func (s *security) useConfig(config *tls.Config) {
	if config == nil {
		config = &tls.Config{} //nolint:gosec // G402: the least version is set below
	}
	s.use("WithTLS", security{config: config.Clone()})
}

func (s *security) use(option string, how security) {
	how.options = s.options
	if !slices.Contains(how.options, option) {
		how.options = append(how.options, option)
	}
	*s = how
}

func (s *security) validate() error {
	if len(s.options) > 1 {
		return fmt.Errorf("vehicle: %s contradict each other: give one of them", strings.Join(s.options, " and "))
	}
	return nil
}

// credentials loads what there is to load.
func (s *security) credentials() (credentials.TransportCredentials, error) {
	if s.insecure {
		return insecure.NewCredentials(), nil
	}
	config := s.config
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if s.files != nil {
		if err := s.files.load(config); err != nil {
			return nil, fmt.Errorf("vehicle: TLS: %w", err)
		}
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	return credentials.NewTLS(config), nil
}

func (f *TLSFiles) load(config *tls.Config) error {
	config.ServerName = f.ServerName
	if f.CA != "" {
		bundle, err := os.ReadFile(f.CA)
		if err != nil {
			return fmt.Errorf("CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(bundle) {
			return fmt.Errorf("CA file %s: no PEM certificate in it", f.CA)
		}
	}
	switch {
	case f.Cert == "" && f.Key == "":
		return nil
	case f.Cert == "":
		return errors.New("TLSFiles has a Key and no Cert")
	case f.Key == "":
		return errors.New("TLSFiles has a Cert and no Key")
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return fmt.Errorf("client certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return nil
}

// handshakeError is a TLS handshake that failed.
type handshakeError struct {
	error
	permanent bool // the next one will fail as well
}
