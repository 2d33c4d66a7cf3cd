package pgsink_test

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a sink and the server and breaks connections.
type proxy struct {
	url      string
	target   string
	listener net.Listener
	conns    sync.WaitGroup

	// cut looks at what comes from one side and says how much of it to pass on before the connection is cut; all of it
	// means that it is not.
	cut atomic.Pointer[func(fromServer bool, data []byte) int]
}

func newProxy(tb testing.TB, databaseURL string) *proxy {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{target: u.Host, listener: l}
	u.Host = l.Addr().String()
	p.url = u.String()
	p.conns.Go(p.accept)
	tb.Cleanup(func() {
		_ = l.Close()
		p.conns.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.conns.Go(func() { p.pass(client, server, false) })
		p.conns.Go(func() { p.pass(server, client, true) })
	}
}

func (p *proxy) pass(from, to net.Conn, fromServer bool) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		pass := n
		if cut := p.cut.Load(); cut != nil && n > 0 {
			pass = (*cut)(fromServer, buf[:n])
		}
		if _, werr := to.Write(buf[:pass]); err != nil || werr != nil || pass < n {
			return
		}
	}
}

// committed is the server's answer to COMMIT.
var committed = []byte("COMMIT\x00")

// loseAnswerToCommit cuts the next n connections right when the server says that a transaction is committed. It
// returns how many it has cut.
func (p *proxy) loseAnswerToCommit(n int32) *atomic.Int32 {
	var done atomic.Int32
	cut := func(fromServer bool, data []byte) int {
		if i := bytes.Index(data, committed); fromServer && i >= 0 && done.Load() < n {
			done.Add(1)
			return i
		}
		return len(data)
	}
	p.cut.Store(&cut)
	return &done
}

// loseRequest cuts the next n connections in the middle of what a client sends.
func (p *proxy) loseRequest(n int32) *atomic.Int32 {
	var done atomic.Int32
	cut := func(fromServer bool, data []byte) int {
		if !fromServer && done.Load() < n && bytes.Contains(data, []byte("NOWAIT")) {
			done.Add(1)
			return len(data) / 2
		}
		return len(data)
	}
	p.cut.Store(&cut)
	return &done
}
