package vehicle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// folder is a CA's folder, copied into plain files that a test may spoil.
type folder struct {
	t   *testing.T
	ca  *vt.CA
	dir string
}

func newFolder(t *testing.T, ca *vt.CA) *folder {
	t.Helper()
	f := &folder{t: t, ca: ca, dir: t.TempDir()}
	for _, name := range []string{"ca.pem", "client-cert.pem", "client-key.pem"} {
		f.put(name, f.issued(name))
	}
	return f
}

// issued is what the CA's own folder has.
func (f *folder) issued(name string) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.ca.Dir(), name))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *folder) put(name string, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// renew makes the CA issue another client certificate, here still the old one is seen.
func (f *folder) renew(opts ...vt.CertOption) {
	f.t.Helper()
	if err := f.ca.RenewClient(opts...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) files() vehicle.TLSFiles {
	return vehicle.TLSFiles{
		CA:   filepath.Join(f.dir, "ca.pem"),
		Cert: filepath.Join(f.dir, "client-cert.pem"),
		Key:  filepath.Join(f.dir, "client-key.pem"),
	}
}

// What may be wrong with the files, by the name of the file that the error must have.
var spoiled = map[string]struct {
	spoil func(*folder)
	file  string
	text  string
}{
	"the CA file is missing":     {func(f *folder) { f.remove("ca.pem") }, "ca.pem", "no such file"},
	"the certificate is missing": {func(f *folder) { f.remove("client-cert.pem") }, "client-cert.pem", "no such file"},
	"the key is missing":         {func(f *folder) { f.remove("client-key.pem") }, "client-key.pem", "no such file"},
	"the CA file is a folder": {func(f *folder) {
		f.remove("ca.pem")
		if err := os.Mkdir(filepath.Join(f.dir, "ca.pem"), 0o700); err != nil {
			f.t.Fatal(err)
		}
	}, "ca.pem", "is a directory"},
	"the CA file is empty":              {func(f *folder) { f.put("ca.pem", nil) }, "ca.pem", "no PEM block in it"},
	"the CA file is garbage":            {func(f *folder) { f.put("ca.pem", []byte("hello")) }, "ca.pem", "no PEM block in it"},
	"the CA file breaks off":            {func(f *folder) { f.put("ca.pem", short(f.issued("ca.pem"))) }, "ca.pem", "damaged or break off"},
	"the CA file is huge":               {func(f *folder) { f.put("ca.pem", bytes.Repeat([]byte(" \n"), 1<<20)) }, "ca.pem", "more than 1048576 bytes"},
	"the CA file has a key in it":       {func(f *folder) { f.put("ca.pem", f.issued("client-key.pem")) }, "ca.pem", "no PEM certificate in it"},
	"the CA file has no X.509":          {func(f *folder) { f.put("ca.pem", block("CERTIFICATE", []byte("hello"))) }, "ca.pem", "PEM block 1: x509: malformed certificate"},
	"the CA has expired":                {func(f *folder) { f.renew(vt.CertExpired()); f.put("ca.pem", f.issued("client-cert.pem")) }, "ca.pem", "all in it has expired, the last certificate on "},
	"the certificate is garbage":        {func(f *folder) { f.put("client-cert.pem", []byte("hello")) }, "client-cert.pem", "no PEM block in it"},
	"the certificate breaks off":        {func(f *folder) { f.put("client-cert.pem", short(f.issued("client-cert.pem"))) }, "client-cert.pem", "damaged or break off"},
	"the certificate is a key":          {func(f *folder) { f.put("client-cert.pem", f.issued("client-key.pem")) }, "client-cert.pem", "no PEM certificate in it"},
	"the certificate has expired":       {func(f *folder) { f.renew(vt.CertExpired()); f.put("client-cert.pem", f.issued("client-cert.pem")) }, "client-cert.pem", "it expired on "},
	"the certificate is of the future":  {func(f *folder) { f.renew(vt.CertNotYetValid()); f.put("client-cert.pem", f.issued("client-cert.pem")) }, "client-cert.pem", "it is not valid before "},
	"the certificate is of another key": {func(f *folder) { f.renew(); f.put("client-cert.pem", f.issued("client-cert.pem")) }, "client-key.pem", "private key does not match public key"},
	"the key is garbage":                {func(f *folder) { f.put("client-key.pem", []byte("hello")) }, "client-key.pem", "no PEM block in it"},
	"the key breaks off":                {func(f *folder) { f.put("client-key.pem", short(f.issued("client-key.pem"))) }, "client-key.pem", "damaged or break off"},
	"the key is a certificate":          {func(f *folder) { f.put("client-key.pem", f.issued("client-cert.pem")) }, "client-key.pem", "found a certificate rather than a key"},
	"the key is no key":                 {func(f *folder) { f.put("client-key.pem", block("PRIVATE KEY", []byte("hello"))) }, "client-key.pem", "failed to parse private key"},
	"the key has a passphrase":          {func(f *folder) { f.put("client-key.pem", block("ENCRYPTED PRIVATE KEY", []byte("hello"))) }, "client-key.pem", "encrypted with a passphrase"},
}

func short(data []byte) []byte { return data[:len(data)-40] }

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestNewChecksTLSFiles(t *testing.T) {
	t.Parallel()
	for name, test := range spoiled {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t, vt.NewCA(t))
			key := f.issued("client-key.pem")
			test.spoil(f)
			client, err := vehicle.New("localhost:50051", vehicle.WithTLSFiles(f.files()))
			if err == nil {
				_ = client.Close()
				t.Fatal("got a client, want an error")
			}
			for _, want := range []string{"vehicle: TLS: ", filepath.Join(f.dir, test.file), test.text} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %q, want %q in it", err, want)
				}
			}
			if test.text == "no such file" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got error %#v, want one that is fs.ErrNotExist", err)
			}
			wantNoKey(t, err.Error(), key, f.issued("client-key.pem"))
		})
	}
}

// A pipe cannot be read anew, and may keep New waiting for ever. A shell's <(command) is one.
func TestNewTakesNoPipes(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"ca.pem", "client-cert.pem", "client-key.pem"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			pipe := fmt.Sprintf("/dev/fd/%d", read.Fd())
			if _, err := os.Stat(pipe); err != nil {
				t.Skip("only Unix has such a file")
			}
			f := newFolder(t, vt.NewCA(t))
			path := filepath.Join(f.dir, what)
			f.remove(what)
			if err := os.Symlink(pipe, path); err != nil {
				t.Fatal(err)
			}
			made := make(chan error)
			go func() {
				_, err := vehicle.New("localhost:50051", vehicle.WithTLSFiles(f.files()))
				made <- err
			}()
			select {
			case err = <-made:
				_ = write.Close()
			case <-time.After(10 * time.Second):
				t.Error("New waits for what the pipe will bring")
				_ = write.Close() // so that it ends
				err = <-made
			}
			if want := path + ": it is no regular file"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v, want one with %q", err, want)
			}
		})
	}
}

// wantNoKey finds eight bytes of a key, as they are in the file.
func wantNoKey(t *testing.T, text string, keys ...[]byte) {
	t.Helper()
	for _, key := range keys {
		for i := 0; i+8 <= len(key); i++ {
			if part := string(key[i : i+8]); !strings.ContainsAny(part, " -\n") && strings.Contains(text, part) {
				t.Fatalf("%q has a part of the key in it", text)
			}
		}
	}
}

func TestNewTakesHalfAPairForAMistake(t *testing.T) {
	t.Parallel()
	for _, files := range []vehicle.TLSFiles{{Cert: "client-cert.pem"}, {Key: "client-key.pem"}} {
		_, err := vehicle.New("localhost:50051", vehicle.WithTLSFiles(files))
		if err == nil || !strings.Contains(err.Error(), "TLSFiles has a ") {
			t.Errorf("%+v: got error %v, want one that says what is missing", files, err)
		}
	}
}

// What is unusual and right.
func TestNewTakesTLSFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *folder) vehicle.TLSFiles{
		"certificate and key in one file": func(f *folder) vehicle.TLSFiles {
			f.put("both.pem", append(f.issued("client-key.pem"), f.issued("client-cert.pem")...))
			both := filepath.Join(f.dir, "both.pem")
			return vehicle.TLSFiles{CA: f.files().CA, Cert: both, Key: both}
		},
		"a bundle with remarks": func(f *folder) vehicle.TLSFiles {
			f.put("ca.pem", append([]byte("# the gateways' authority\n"), f.issued("ca.pem")...))
			return f.files()
		},
		"files that an editor has marked as UTF-8, as OpenSSL takes them": func(f *folder) vehicle.TLSFiles {
			marked := func(name string) []byte { return append([]byte("\uFEFF"), f.issued(name)...) }
			f.put("ca.pem", append(marked("ca.pem"), marked("ca.pem")...))
			f.put("client-cert.pem", marked("client-cert.pem"))
			f.put("client-key.pem", marked("client-key.pem"))
			return f.files()
		},
		"a bundle with an expired authority among others": func(f *folder) vehicle.TLSFiles {
			f.renew(vt.CertExpired())
			f.put("ca.pem", append(f.issued("client-cert.pem"), f.issued("ca.pem")...))
			return f.files()
		},
		"a key in the older form": func(f *folder) vehicle.TLSFiles {
			data, _ := pem.Decode(f.issued("client-key.pem"))
			key, err := x509.ParsePKCS8PrivateKey(data.Bytes)
			if err != nil {
				f.t.Fatal(err)
			}
			der, err := x509.MarshalECPrivateKey(ecdsaKey(f.t, key))
			if err != nil {
				f.t.Fatal(err)
			}
			f.put("client-key.pem", block("EC PRIVATE KEY", der))
			return f.files()
		},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t, vt.NewCA(t))
			server := vt.NewServer(t, vt.WithTCP(), vt.WithTLS(f.ca.ServerConfig()))
			client := server.Client(t, vehicle.WithTLSFiles(files(f)))
			if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestServerNameOverridesTheTargets(t *testing.T) {
	t.Parallel()
	ca := vt.NewCA(t)
	server := vt.NewServer(t, vt.WithTCP(), vt.WithMutualTLS(ca, vt.CertForNames("gateway.example")))
	files := ca.Files()
	files.ServerName = "gateway.example"
	client := server.Client(t, vehicle.WithTLSFiles(files))
	if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
		t.Fatal(err)
	}
	if got := server.Requests()[0].TLS.ServerName; got != files.ServerName {
		t.Errorf("the server was asked for %q, want %q", got, files.ServerName)
	}
}

// The environment goes the same way.
func TestNewFromEnvWithMutualTLS(t *testing.T) {
	ca := vt.NewCA(t)
	server := vt.NewServer(t, vt.WithTCP(), vt.WithMutualTLS(ca))
	t.Setenv("VEHICLE_ENDPOINT_URL", server.Target())
	t.Setenv("VEHICLE_USE_TLS", "true")
	t.Setenv("VEHICLE_TLS_CERT_DIR", ca.Dir())
	for _, want := range []string{"", "it expired on"} {
		client, err := vehicle.NewFromEnv()
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ca.Files().Cert) {
				t.Errorf("got error %v, want one with the file and %q", err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Execute(t.Context(), command("ReadDTC")); err != nil {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if err := ca.RenewClient(vt.CertExpired()); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("VEHICLE_USE_TLS", "false")
	client, err := vehicle.NewFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Execute(t.Context(), command("ReadDTC"), vehicle.WithoutRetry()); !errors.Is(err, vehicle.ErrUnavailable) {
		t.Errorf("plaintext to a server with TLS: got error %v, want ErrUnavailable", err)
	}
}

func TestAKeyThatEverybodyMayReadIsWarnedOf(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	t.Parallel()
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 1} {
		f := newFolder(t, vt.NewCA(t))
		if err := os.Chmod(f.files().Key, mode); err != nil {
			t.Fatal(err)
		}
		var log logged
		client, err := vehicle.New("localhost:50051", vehicle.WithTLSFiles(f.files()), vehicle.WithLogger(log.at(slog.LevelWarn)))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if got := strings.Count(log.text(), f.files().Key); got != want {
			t.Errorf("%v: got %d warnings, want %d:\n%s", mode, got, want, log.text())
		}
	}
}

// The three files are of one version, however often they are exchanged meanwhile.
func TestFilesExchangedTogetherAreReadTogether(t *testing.T) {
	t.Parallel()
	ca := vt.NewCA(t)
	var exchange sync.WaitGroup
	var over atomic.Bool
	exchange.Go(func() {
		defer over.Store(true)
		for range 100 {
			if err := ca.Replace(); err != nil {
				t.Error(err)
			}
		}
	})
	defer exchange.Wait()
	for !over.Load() {
		bundle, cert, key, err := vehicle.ReadTLSFiles(ca.Files())
		if err != nil {
			continue // gone at each of the moments, which the next look mends
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(bundle) {
			t.Fatal("no certificate in the bundle")
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Fatal(err)
		}
	}
}

// What is read of files that never hold the same twice may be a mix: it is an error.
func TestFilesThatDoNotSettleAreNotUsed(t *testing.T) {
	t.Parallel()
	const other = "/proc/sys/kernel/random/uuid" // another one each time
	if _, err := os.Stat(other); err != nil {
		t.Skip("only Linux has such a file")
	}
	files := vt.NewCA(t).Files()
	files.CA = other
	_, _, _, reading := vehicle.ReadTLSFiles(files)
	_, making := vehicle.New("localhost:50051", vehicle.WithTLSFiles(files))
	for what, err := range map[string]error{"reading them": reading, "New": making} {
		if err == nil || !strings.Contains(err.Error(), "the files change while they are read") {
			t.Errorf("%s: got error %v, want one that says that the files change", what, err)
		}
	}
}

func ecdsaKey(t *testing.T, key any) *ecdsa.PrivateKey {
	t.Helper()
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("got a key of type %T, want ECDSA", key)
	}
	return k
}
