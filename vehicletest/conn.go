package vehicletest

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// conn is the server's end of one connection, with the ways in which a link dies. It is above TLS: what
// gRPC writes to it are HTTP/2 frames in the clear.
type conn struct {
	net.Conn
	raw    net.Conn // below TLS; the same as Conn where there is none
	number int      // from 1, in the order of arrival

	closeOnce sync.Once
	closed    chan struct{}
	leaveOnce sync.Once
	leave     chan struct{} // closed when the connection shall end with GOAWAY
	hole      atomic.Bool
	frames    frameScanner // of Write, which one goroutine calls
}

func newConn(raw net.Conn, config *tls.Config, number int) *conn {
	c := &conn{
		Conn:   raw,
		raw:    raw,
		number: number,
		closed: make(chan struct{}),
		leave:  make(chan struct{}),
		frames: frameScanner{goAway: make(chan struct{})},
	}
	if config != nil {
		c.Conn = tls.Server(raw, config) // the handshake is part of the first Read
	}
	return c
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		switch {
		case !c.hole.Load():
			return n, err
		case err != nil: // nor does the other side's FIN come through
			<-c.closed
			return 0, io.EOF
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	if c.hole.Load() {
		return len(b), nil
	}
	n, err := c.Conn.Write(b)
	c.frames.scan(b[:n])
	return n, err
}

func (c *conn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// drain waits until the kernel has sent what was written: congestion control holds back the last of many
// small writes until the first ones are acknowledged.
func (c *conn) drain(ctx context.Context) error {
	tcp, ok := c.raw.(*net.TCPConn)
	if !ok {
		return nil
	}
	tick := time.NewTicker(time.Millisecond) // there is no signal for it
	defer tick.Stop()
	for unsent(tcp) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// cut closes without a word: over TCP the client gets a reset.
func (c *conn) cut() {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails on a closed connection only
	}
	_ = c.raw.Close() // first: TLS would say goodbye
	_ = c.Close()
}

// hangUp closes after a FIN that the kernel has sent. A close alone becomes a reset where the client has sent what
// was not read, and takes with it what was not sent.
func (c *conn) hangUp(ctx context.Context) error {
	if err := c.drain(ctx); err != nil { // first: gRPC closes when it cannot write any more
		return err
	}
	if secured, ok := c.Conn.(*tls.Conn); ok {
		_ = secured.CloseWrite()
	}
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	if err := c.drain(ctx); err != nil {
		return err
	}
	_ = c.Close()
	return nil
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

func (c *conn) sendGoAway() { c.leaveOnce.Do(func() { close(c.leave) }) }

func (c *conn) leaving() bool {
	select {
	case <-c.leave:
		return true
	default:
		return false
	}
}

// single is a listener with one connection. Its second Accept lasts until that one is done with.
type single struct {
	conn     *conn
	accepted bool // Accept is called by one goroutine
}

func (l *single) Accept() (net.Conn, error) {
	if !l.accepted {
		l.accepted = true
		return l.conn, nil
	}
	select {
	case <-l.conn.closed:
	case <-l.conn.leave:
	}
	return nil, io.EOF
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return l.conn.LocalAddr() }

// frameScanner follows HTTP/2 frames (RFC 9113, section 4.1) and reports the first GOAWAY.
type frameScanner struct {
	goAway chan struct{} // closed when it was written
	seen   bool
	header []byte // of the frame that is beginning, up to 9 bytes
	skip   int    // payload bytes still to come
}

func (s *frameScanner) scan(b []byte) {
	const headerLen = 9
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(b))
			s.skip -= n
			b = b[n:]
			continue
		}
		n := min(headerLen-len(s.header), len(b))
		s.header = append(s.header, b[:n]...)
		b = b[n:]
		if len(s.header) < headerLen {
			return
		}
		s.skip = int(binary.BigEndian.Uint32(s.header) >> 8)
		if http2.FrameType(s.header[3]) == http2.FrameGoAway && !s.seen {
			s.seen = true
			close(s.goAway)
		}
		s.header = s.header[:0]
	}
}
