package vehicletest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sovd-go/vehicle"
)

// CA is a certificate authority for tests and demonstrations. It keeps a folder as vehicle clients expect it (ca.pem,
// client-cert.pem, client-key.pem), issues certificates for servers and clients, and can rotate all of it while they
// run. Certificates are valid since two hours ago, so that a clock may be behind; in a testing/synctest bubble that is the
// bubble's time. Its methods may be called from several goroutines at once.
//
// Mutual TLS between a server and its clients is one option, [WithMutualTLS]:
//
//	ca := vehicletest.NewCA(t)
//	server := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca))
//	client := server.Client(t)
//
// Certificates that a client must refuse are one more: WithMutualTLS(ca, vehicletest.CertExpired()).
type CA struct {
	dir string

	mu       sync.Mutex
	count    int          // of versions of the folder
	previous []*authority // of one rotation ago, whose certificates are still accepted
	current  *authority
	next     *authority // trusted already, so that it can take over at any time
}

// NewCA makes a CA in a folder that goes with the test. It fails the test if it cannot.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca, err := MakeCA(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

// MakeCA is [NewCA] for programs: it makes a CA in this folder, which may be there already, but without certificates.
func MakeCA(dir string) (*CA, error) {
	ca := &CA{dir: dir}
	for _, name := range []string{caFile, certFile, keyFile, dataLink} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("vehicletest: CA: %s has a %s already, which may be worth something", dir, name)
		}
	}
	if err := ca.replace(); err != nil {
		return nil, fmt.Errorf("vehicletest: CA: %w", err)
	}
	return ca, nil
}

// WithMutualTLS serves TLS with a certificate of the CA's, valid for 127.0.0.1, ::1 and localhost unless the options
// say otherwise, and asks clients for one of theirs. [Server.Options] uses the CA's folder. New connections see
// what [CA.Rotate] and [CA.Replace] have done.
func WithMutualTLS(ca *CA, server ...CertOption) Option {
	return WithTLS(ca.ServerConfig(server...), vehicle.WithTLSFiles(ca.Files()))
}

// Dir is the folder, for VEHICLE_TLS_CERT_DIR. Its three files are symbolic links through one more to a folder of
// their version, as Kubernetes lays out a secret: a rotation moves that one link, and so exchanges all three at once.
func (ca *CA) Dir() string { return ca.dir }

// Files names the folder's files. The server's name is left to the target.
func (ca *CA) Files() vehicle.TLSFiles {
	return vehicle.TLSFiles{
		CA:   filepath.Join(ca.dir, caFile),
		Cert: filepath.Join(ca.dir, certFile),
		Key:  filepath.Join(ca.dir, keyFile),
	}
}

// ServerConfig is the server's side of mutual TLS, for servers that are not vehicletest's. The certificate is issued with
// opts by whoever is the current authority; each new connection asks. A session of before a rotation is not resumed
// after it.
func (ca *CA) ServerConfig(opts ...CertOption) *tls.Config {
	var (
		mu     sync.Mutex
		issuer *authority
		config *tls.Config
	)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			ca.mu.Lock()
			current, trusted := ca.current, ca.trusted()
			ca.mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			if issuer == current {
				return config, nil
			}
			cert, err := current.issue(x509.ExtKeyUsageServerAuth, opts)
			if err != nil {
				return nil, err
			}
			issuer, config = current, &tls.Config{
				MinVersion:   tls.VersionTLS12,
				NextProtos:   []string{"h2"}, // gRPC clients insist
				Certificates: []tls.Certificate{cert},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    pool(trusted),
			}
			config.SetSessionTicketKeys([][32]byte{randomKey()}) // or else the outer config's, which stay
			return config, nil
		},
	}
}

// ClientConfig is a client's side, for clients that are not made of files: it trusts what the folder's ca.pem has at
// this time. The error is that of issuing the certificate.
func (ca *CA) ClientConfig(opts ...CertOption) (*tls.Config, error) {
	cert, err := ca.IssueClient(opts...)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.Pool(), Certificates: []tls.Certificate{cert}}, nil
}

// Pool has the authorities of the folder's ca.pem.
func (ca *CA) Pool() *x509.CertPool {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return pool(ca.trusted())
}

// IssueServer issues a server's certificate, valid for a day, for 127.0.0.1, ::1, localhost and servers in memory.
func (ca *CA) IssueServer(opts ...CertOption) (tls.Certificate, error) {
	return ca.authority().issue(x509.ExtKeyUsageServerAuth, opts)
}

// IssueClient issues a client's certificate, valid for a day.
func (ca *CA) IssueClient(opts ...CertOption) (tls.Certificate, error) {
	return ca.authority().issue(x509.ExtKeyUsageClientAuth, opts)
}

// RenewClient exchanges the certificate and key in the folder for new ones of the same authority.
func (ca *CA) RenewClient(opts ...CertOption) error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.write(opts)
}

// Rotate exchanges everything: authority, server certificates, and the files in the folder. It is done as it should
// be in production, so that at no time one side shows what the other does not trust yet: ca.pem and the servers trust
// the next authority in advance, and the previous one for one rotation more.
func (ca *CA) Rotate() error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	next, err := newAuthority()
	if err != nil {
		return err
	}
	ca.previous, ca.current, ca.next = []*authority{ca.current}, ca.next, next
	return ca.write(nil)
}

// Replace is what follows the theft of the authority's key: everything is new, as with [CA.Rotate], and nothing of the
// old is trusted any more.
func (ca *CA) Replace() error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.replace()
}

func (ca *CA) replace() error {
	current, err := newAuthority()
	if err != nil {
		return err
	}
	next, err := newAuthority()
	if err != nil {
		return err
	}
	ca.previous, ca.current, ca.next = nil, current, next
	return ca.write(nil)
}

func (ca *CA) authority() *authority {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.current
}

// trusted is what ca.pem has.
func (ca *CA) trusted() []*authority {
	return append([]*authority{ca.current, ca.next}, ca.previous...)
}

// A CertOption changes a certificate before it is signed.
type CertOption func(*x509.Certificate)

// CertExpired makes a certificate whose time was over an hour ago.
func CertExpired() CertOption {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
}

// CertNotYetValid makes a certificate whose time comes in an hour.
func CertNotYetValid() CertOption {
	return func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }
}

// CertValidFor makes a certificate that expires when d has passed.
func CertValidFor(d time.Duration) CertOption {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(d) }
}

// CertForNames makes a certificate for these names and IP addresses, and no others.
func CertForNames(names ...string) CertOption {
	return func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = nil, nil
		for _, name := range names {
			if ip := net.ParseIP(name); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, name)
			}
		}
	}
}

// authority is one generation of the CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// How long certificates are valid, and since when.
const (
	leafLife      = 24 * time.Hour
	authorityLife = 365 * 24 * time.Hour
	backdated     = 2 * time.Hour
)

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template("vehicletest CA")
	template.NotAfter = time.Now().Add(authorityLife)
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, err
}

func (a *authority) issue(usage x509.ExtKeyUsage, opts []CertOption) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := template("vehicletest client")
	if usage == x509.ExtKeyUsageServerAuth {
		template = serverTemplate()
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	for _, opt := range opts {
		opt(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("vehicletest: issuing a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

func template(name string) *x509.Certificate {
	serial := randomKey()
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:16]),
		Subject:               pkix.Name{CommonName: name, SerialNumber: fmt.Sprintf("%x", serial[:4])},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(leafLife),
		BasicConstraintsValid: true,
	}
}

func serverTemplate() *x509.Certificate {
	t := template("vehicletest server")
	CertForNames("localhost", "vehicletest", "127.0.0.1", "::1")(t) // vehicletest: in memory
	return t
}

func randomKey() (key [32]byte) {
	_, _ = rand.Read(key[:]) // it never fails
	return key
}

func pool(authorities []*authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a.cert)
	}
	return pool
}

// The folder's files.
const (
	caFile   = "ca.pem"
	certFile = "client-cert.pem"
	keyFile  = "client-key.pem"
	dataLink = "..data" // Kubernetes' name for it
)

// write makes a new version of the folder, with a client certificate of the current authority, and moves the link to it.
func (ca *CA) write(opts []CertOption) error {
	client, err := ca.current.issue(x509.ExtKeyUsageClientAuth, opts)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		return err
	}
	var bundle []byte
	for _, a := range ca.trusted() {
		bundle = append(bundle, encodePEM("CERTIFICATE", a.cert.Raw)...)
	}
	ca.count++
	version := fmt.Sprintf("..%06d", ca.count)
	folder := filepath.Join(ca.dir, version)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		caFile:   bundle,
		certFile: encodePEM("CERTIFICATE", client.Certificate[0]),
		keyFile:  encodePEM("PRIVATE KEY", key),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			return err
		}
	}
	return ca.link(version)
}

// link makes a version the one that is seen, and removes the one before.
func (ca *CA) link(version string) error {
	data := filepath.Join(ca.dir, dataLink)
	before, err := os.Readlink(data)
	if err != nil {
		before = ""
	}
	moving := data + "_tmp"
	if err := os.Symlink(version, moving); err != nil {
		return err
	}
	if err := os.Rename(moving, data); err != nil {
		return err
	}
	if before != "" {
		return os.RemoveAll(filepath.Join(ca.dir, before))
	}
	for _, name := range []string{caFile, certFile, keyFile} {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(ca.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
