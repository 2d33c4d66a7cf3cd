package vehicle

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// pemContent is what the files hold.
type pemContent struct{ ca, cert, key []byte }

// maxPEM is the most that is read of a file, in bytes; the bundles of operating systems have some 200 KB.
const maxPEM = 1 << 20

// read reads the files.
func (f TLSFiles) read() (content pemContent, err error) {
	switch {
	case f.Cert == "" && f.Key != "":
		return content, errors.New("TLSFiles has a Key and no Cert")
	case f.Cert != "" && f.Key == "":
		return content, errors.New("TLSFiles has a Cert and no Key")
	}
	for _, file := range []struct {
		what, path string
		into       *[]byte
	}{
		{"CA file", f.CA, &content.ca},
		{"client certificate", f.Cert, &content.cert},
		{"client key", f.Key, &content.key},
	} {
		if file.path == "" {
			continue
		}
		if *file.into, err = readFile(file.path); err != nil {
			return content, fmt.Errorf("%s: %w", file.what, err)
		}
	}
	return content, nil
}

func readFile(path string) ([]byte, error) {
	// A pipe gives what it has once, and without a writer holds up whoever opens it: a shell's <(command) is one.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if mode := info.Mode(); !mode.IsRegular() && !mode.IsDir() {
		return nil, fmt.Errorf("%s: it is no regular file, which can be read anew at any time", path)
	}
	file, err := os.Open(path) //nolint:gosec // G304: the caller's files
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	data, err := io.ReadAll(io.LimitReader(file, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = fmt.Errorf("%s: it has more than %d bytes", path, maxPEM)
	}
	return bytes.ReplaceAll(data, []byte("\uFEFF"), nil), err // an editor's mark; package pem passes over the block behind it
}

// errUnsettled is that of files which are exchanged faster than they are read.
var errUnsettled = errors.New("the files change while they are read")

// readSettled reads the files until they hold the same twice, unless they hold what is known. Files that are exchanged
// together, as Kubernetes and cert-manager do by moving one symbolic link, are never read as a mix of old and new.
func (f TLSFiles) readSettled(known [sha256.Size]byte) (pemContent, error) {
	before, trouble := known, errUnsettled
	for range 4 {
		content, err := f.read()
		if err != nil {
			trouble = err
			continue // gone for the moment of the exchange
		}
		now := content.digest()
		if now == before {
			return content, nil
		}
		before, trouble = now, errUnsettled
	}
	return pemContent{}, trouble
}

// digest stands for the content, so that no copy of the key is kept for the sake of comparing.
func (c pemContent) digest() [sha256.Size]byte {
	sum := make([]byte, 0, 3*sha256.Size)
	for _, part := range [][]byte{c.ca, c.cert, c.key} {
		hash := sha256.Sum256(part)
		sum = append(sum, hash[:]...)
	}
	return sha256.Sum256(sum)
}

// load makes credentials of the content. Its errors name the file and never have anything out of it.
func (c pemContent) load(files TLSFiles) (*generation, error) {
	g := &generation{digest: c.digest()}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files.ServerName}
	if files.CA != "" {
		roots, end, err := loadRoots(c.ca)
		if err != nil {
			return nil, fmt.Errorf("CA file %s: %w", files.CA, err)
		}
		config.RootCAs, g.caEnds = roots, end
	}
	if files.Cert != "" {
		pair, err := c.loadPair(files)
		if err != nil {
			return nil, err
		}
		g.notBefore, g.notAfter = pair.Leaf.NotBefore, pair.Leaf.NotAfter
		// Unlike one in Certificates, it is also sent where the server asks for other authorities' certificates: the
		// server then says "unknown certificate authority", and not that there is no certificate.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	g.TransportCredentials = newTLS(config)
	return g, nil
}

// loadRoots reads a bundle, and says when the last in it expires. Expired authorities may be among others in it, but not alone.
func loadRoots(bundle []byte) (roots *x509.CertPool, end time.Time, _ error) {
	certs, err := parseCertificates(bundle)
	if err != nil {
		return nil, end, err
	}
	roots = x509.NewCertPool()
	for _, cert := range certs {
		roots.AddCert(cert)
		if cert.NotAfter.After(end) {
			end = cert.NotAfter
		}
	}
	if time.Now().After(end) {
		return nil, end, fmt.Errorf("all in it has expired, the last certificate on %s", end.UTC().Format(time.RFC3339))
	}
	return roots, end, nil
}

func (c pemContent) loadPair(files TLSFiles) (*tls.Certificate, error) {
	chain, err := parseCertificates(c.cert)
	if err != nil {
		return nil, fmt.Errorf("client certificate %s: %w", files.Cert, err)
	}
	switch leaf, now := chain[0], time.Now(); {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("client certificate %s: it expired on %s", files.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("client certificate %s: it is not valid before %s", files.Cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if err := checkKey(c.key); err != nil {
		return nil, fmt.Errorf("client key %s: %w", files.Key, err)
	}
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("client key %s with certificate %s: %w", files.Key, files.Cert, err)
	}
	return &pair, nil
}

// parseCertificates returns one certificate at least.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	blocks, err := decodePEM(data)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for i, block := range blocks {
		if block.Type != "CERTIFICATE" {
			continue // the key, where both are in one file
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", i+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate in it")
	}
	return certs, nil
}

// checkKey finds what tls.X509KeyPair reports in a way that does not help.
func checkKey(data []byte) error {
	blocks, err := decodePEM(data)
	if err != nil {
		return err
	}
	for _, block := range blocks {
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return errors.New("it is encrypted with a passphrase; a key that is read anew at any time cannot be")
		}
	}
	return nil
}

// decodePEM also finds what pem.Decode passes over: a block that breaks off, as in a file that is being written.
func decodePEM(data []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	switch begun := bytes.Count(data, []byte("-----BEGIN ")); {
	case begun != len(blocks):
		return nil, fmt.Errorf("%d of its %d PEM blocks are damaged or break off", begun-len(blocks), begun)
	case begun == 0:
		return nil, errors.New("no PEM block in it")
	}
	return blocks, nil
}
