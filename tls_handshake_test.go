package vehicle

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func alert(number uint8) error { return &net.OpError{Op: "remote error", Err: tls.AlertError(number)} }

func TestIsPermanent(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err  error
		want bool
	}{
		"a certificate that is not trusted":  {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, true},
		"a server that speaks plaintext":     {tls.RecordHeaderError{Msg: "HTTP"}, true},
		"a refusal of the caller's":          {refuse(errors.New("not this one")), true},
		"one that is wrapped":                {fmt.Errorf("on the way: %w", alert(42)), true},
		"the end of the connection":          {io.EOF, false},
		"the end in the middle":              {io.ErrUnexpectedEOF, false},
		"a reset":                            {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, false},
		"a timeout":                          {errNoAnswer, false},
		"an alert of our own":                {&net.OpError{Op: "local error", Err: tls.AlertError(42)}, false},
		"a remote error that is no alert":    {&net.OpError{Op: "remote error", Err: errors.New("bad certificate")}, false},
		"an error of a GetClientCertificate": {errors.New("the token is busy"), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := isPermanent(test.err); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	// RFC 8446, section 6.2, and decryption_failed to no_renegotiation of before. What is not here may pass.
	permanent := []uint8{40, 42, 43, 44, 45, 46, 48, 49, 70, 71, 112, 116, 120}
	for n := range 256 {
		if number := uint8(n); isPermanent(alert(number)) != slices.Contains(permanent, number) {
			t.Errorf("%v: got permanent %v", alert(number), isPermanent(alert(number)))
		}
	}
}

// The server's refusal comes after the end of the handshake as the client sees it, and after the pipe has broken.
func TestWitness(t *testing.T) {
	t.Parallel()
	refused, broken := alert(116), errors.New("broken pipe")
	tests := map[string]struct {
		read      error
		readAfter time.Duration
		wrote     error // what Write returns
		verdicts  int
	}{
		"a refusal is the error of both":           {read: refused, readAfter: time.Millisecond, wrote: refused, verdicts: 1},
		"a refusal that is late":                   {read: refused, readAfter: time.Minute, wrote: broken, verdicts: 1},
		"a link that broke":                        {read: io.EOF, readAfter: time.Millisecond, wrote: broken},
		"a server that accepts before it all ends": {readAfter: time.Millisecond, wrote: broken, verdicts: 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var verdicts []error
				w := newWitness(brokenConn{read: test.read, readAfter: test.readAfter, write: broken}, func(err error) { verdicts = append(verdicts, err) })
				done := make(chan error)
				go func() {
					_, err := w.Read(make([]byte, 1))
					done <- err
				}()
				if _, err := w.Write([]byte("PRI")); !errors.Is(err, test.wrote) {
					t.Errorf("Write: got error %v, want %v", err, test.wrote)
				}
				if err := <-done; !errors.Is(err, test.read) {
					t.Errorf("Read: got error %v, want %v", err, test.read)
				}
				if _, err := w.Read(make([]byte, 1)); !errors.Is(err, test.read) {
					t.Errorf("a second Read: got error %v, want %v", err, test.read)
				}
				if len(verdicts) != test.verdicts || len(verdicts) > 0 && !errors.Is(verdicts[0], test.read) {
					t.Errorf("got verdicts %v, want %d with %v", verdicts, test.verdicts, test.read)
				}
			})
		})
	}
}

type brokenConn struct {
	net.Conn
	read, write error
	readAfter   time.Duration
}

func (c brokenConn) Read([]byte) (int, error) {
	<-time.NewTimer(c.readAfter).C
	return 0, c.read
}

func (c brokenConn) Write([]byte) (int, error) { return 0, c.write }
