package vehicle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// FuzzPEM reads files that hold anything. What is accepted is usable, and no error has anything of the key in it.
func FuzzPEM(f *testing.F) {
	cert, key := selfSigned(f)
	f.Add(cert, cert, key)
	f.Add(append([]byte("remark\n"), cert...), append(key, cert...), append(cert, key...))
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add(cert[:len(cert)-1], cert[:len(cert)/2], key[:len(key)-2])
	f.Add(append(cert[:100:100], cert...), append(cert, cert[:30]...), append(key[:30:30], key...))
	f.Add(key, key, cert)
	files := TLSFiles{CA: "ca.pem", Cert: "client-cert.pem", Key: "client-key.pem"}
	f.Fuzz(func(t *testing.T, ca, cert, key []byte) {
		content := pemContent{ca: ca, cert: cert, key: key}
		g, err := content.load(files)
		if err == nil {
			if g.TransportCredentials == nil || !time.Now().Before(g.notAfter) || g.notBefore.After(time.Now()) {
				t.Errorf("accepted, with credentials %v for %v to %v", g.TransportCredentials, g.notBefore, g.notAfter)
			}
			if _, err := tls.X509KeyPair(cert, key); err != nil {
				t.Errorf("accepted a pair that is none: %v", err)
			}
			if _, _, err := loadRoots(ca); err != nil {
				t.Errorf("accepted without roots: %v", err)
			}
			return
		}
		if g != nil {
			t.Error("got credentials beside an error")
		}
		if !strings.Contains(err.Error(), "ca.pem") && !strings.Contains(err.Error(), "client-cert.pem") && !strings.Contains(err.Error(), "client-key.pem") {
			t.Errorf("%q names no file", err)
		}
		for line := range strings.Lines(string(key)) {
			if line = strings.TrimSpace(line); len(line) >= 32 && !strings.HasPrefix(line, "-----") && strings.Contains(err.Error(), line) {
				t.Errorf("%q has a line of the key in it", err)
			}
		}
	})
}

func selfSigned(tb testing.TB) (cert, key []byte) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		tb.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
