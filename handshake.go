package vehicle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// handshakeTimeout is how long a server may take for its part of a TLS handshake; net/http allows as much. It
// is less than the default of WithAttemptTimeout, so that a server that says nothing is named as the reason.
const handshakeTimeout = 10 * time.Second

var (
	errNoAnswer = errors.New("no answer from the server within " + handshakeTimeout.String())
	errUnderWay = errors.New("no answer from the server yet")
)

// handshakeError is a TLS handshake that failed. gRPC has made a status of it, and with that lost what it was;
// this is both: errors.As finds the status and the types of crypto/x509.
type handshakeError struct {
	status    error // gRPC's
	reason    error
	permanent bool // the next handshake will fail as well
	at        time.Time
}

// isFinal says whether the failure is that of whoever began to ask at that time. gRPC tells streams of the last failure until it
// has connected again, for up to two minutes, and meanwhile the server may have been mended.
func (e *handshakeError) isFinal(began time.Time) bool {
	return e.permanent && began.Sub(e.at) <= redialInterval
}

func (e *handshakeError) Error() string   { return "TLS handshake: " + e.reason.Error() }
func (e *handshakeError) Unwrap() []error { return []error{e.status, e.reason} }

// isPermanent says whether a handshake that failed with err would fail again: what the peers found wrong with each
// other stays wrong, and what the network did (EOF, reset, timeout) does not.
func isPermanent(err error) bool {
	var (
		unverified *tls.CertificateVerificationError
		notTLS     tls.RecordHeaderError // the server speaks plaintext
		refused    *refusal
	)
	if errors.As(err, &unverified) || errors.As(err, &notTLS) || errors.As(err, &refused) {
		return true
	}
	if strings.Contains(err.Error(), "missing selected ALPN property") { // gRPC's: the server speaks no HTTP/2
		return true
	}
	switch alert, _ := alertOf(err); alert {
	case 40, // handshake_failure
		42, 43, 44, 45, 46, // bad, unsupported, revoked, expired, unknown certificate
		48, 49, // unknown_ca, access_denied
		70, 71, // protocol_version, insufficient_security
		112, 116, 120: // unrecognized_name, certificate_required, no_application_protocol
		return true
	default:
		return false
	}
}

// alertOf gives the number of the alert (RFC 8446, section 6) with which the server ended the connection. Package
// crypto/tls keeps the type to itself; its kind is that of the number.
func alertOf(err error) (number uint64, ok bool) {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return 0, false
	}
	if alert := reflect.ValueOf(remote.Err); alert.Kind() == reflect.Uint8 {
		return alert.Uint(), true
	}
	return 0, false
}

// refusal is an error of the caller's VerifyConnection or VerifyPeerCertificate.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refuse(err error) error {
	if err == nil {
		return nil
	}
	return &refusal{err}
}

func verifying(verify func([][]byte, [][]*x509.Certificate) error) func([][]byte, [][]*x509.Certificate) error {
	return func(raw [][]byte, chains [][]*x509.Certificate) error { return refuse(verify(raw, chains)) }
}

// handshakes is the TransportCredentials of one connection of the pool. Each handshake uses what the keyring has at
// the time, and why the last one failed is remembered for the streams that fail because of it.
type handshakes struct {
	keys    keyring
	info    credentials.ProtocolInfo
	last    atomic.Pointer[failedHandshake] // nil: none has failed since one succeeded
	running atomic.Int32
}

type failedHandshake struct {
	reason    error
	permanent bool
	at        time.Time
}

var _ credentials.TransportCredentials = (*handshakes)(nil)

// dialOptions makes a connection use h, limit know what its server says, and messages come in bundles of so many bytes.
func (h *handshakes) dialOptions(limit *streamLimit, bundle int) []grpc.DialOption {
	if h.info.SecurityProtocol != "tls" {
		return []grpc.DialOption{grpc.WithTransportCredentials(merging{h.keys.current(), limit, bundle})}
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(merging{h, limit, bundle}), grpc.WithChainStreamInterceptor(h.explain)}
}

// ClientHandshake implements credentials.TransportCredentials.
func (h *handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	h.running.Add(1)
	defer h.running.Add(-1)
	with := h.keys.current()
	limited, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errNoAnswer)
	defer cancel()
	conn, info, err := with.ClientHandshake(limited, authority, raw)
	if err == nil {
		return newWitness(conn, func(err error) { h.ended(with, err) }), info, nil
	}
	if ctx.Err() == nil && limited.Err() != nil {
		err = errNoAnswer
	}
	h.ended(with, err)
	return nil, nil, err
}

// ended notes how a handshake with these credentials ended. Where others have taken their place meanwhile, the next
// handshake is another matter.
func (h *handshakes) ended(with credentials.TransportCredentials, err error) {
	if err == nil {
		h.last.Store(nil)
		return
	}
	h.last.Store(&failedHandshake{reason: err, permanent: isPermanent(err) && h.keys.current() == with, at: time.Now()})
}

// explain is an interceptor. It gives a stream that was not opened because of a handshake the reason for its error.
func (h *handshakes) explain(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	if err == nil {
		return stream, nil
	}
	st, last := status.Convert(err), h.last.Load()
	switch {
	// The connection may have failed for something else by now: gRPC's text has the reason.
	case st.Code() == codes.Unavailable && last != nil && strings.Contains(st.Message(), last.reason.Error()):
		return nil, &handshakeError{status: err, reason: last.reason, permanent: last.permanent, at: last.at}
	case st.Code() == codes.DeadlineExceeded && h.running.Load() > 0:
		return nil, &handshakeError{status: err, reason: errUnderWay}
	default:
		return nil, err
	}
}

// ServerHandshake implements credentials.TransportCredentials.
func (h *handshakes) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("vehicle: these are a client's credentials")
}

// Info implements credentials.TransportCredentials.
func (h *handshakes) Info() credentials.ProtocolInfo { return h.info }

// Clone implements credentials.TransportCredentials. Nothing of h can be changed, so it is its own clone.
func (h *handshakes) Clone() credentials.TransportCredentials { return h }

// OverrideServerName implements credentials.TransportCredentials, which deprecates it.
func (h *handshakes) OverrideServerName(string) error {
	return errors.New("vehicle: the server's name is TLSFiles.ServerName or the target's host")
}

// witness sees how the server takes a handshake that has succeeded on this side. In TLS 1.3 the client is done
// before the server has looked at its certificate: a refusal is what the first Read gets.
type witness struct {
	net.Conn
	once    sync.Once
	verdict func(error)
	done    chan struct{} // closed after the first Read; err is then set
	err     error         // the server's refusal, if it did refuse
}

func newWitness(conn net.Conn, verdict func(error)) net.Conn {
	w := &witness{Conn: conn, verdict: verdict, done: make(chan struct{})}
	if sys, ok := conn.(syscall.Conn); ok { // channelz shows socket options through it
		return struct {
			*witness
			syscall.Conn
		}{w, sys}
	}
	return w
}

// Read implements net.Conn.
func (w *witness) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.once.Do(func() {
		if _, refused := alertOf(err); refused {
			w.err = err
		}
		if w.err != nil || err == nil {
			w.verdict(w.err)
		}
		close(w.done)
	})
	return n, err
}

// Write implements net.Conn. A server that refuses the client closes the connection, which may break a Write
// before the Read that gets the reason, and gRPC keeps the first error: so a broken Write waits for that Read,
// which is under way.
func (w *witness) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err == nil {
		return n, nil
	}
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	select {
	case <-w.done:
		if w.err != nil {
			return n, w.err
		}
	case <-limit.C:
	}
	return n, err
}
