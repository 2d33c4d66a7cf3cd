package main

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a listener that needs no network, for tests in which time passes at once.
type memory struct {
	conns chan net.Conn
	ended chan struct{}
	close func()
}

func (m memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case <-m.ended:
		return nil, net.ErrClosed
	}
}

func (m memory) Addr() net.Addr { return &net.IPAddr{} }

func (m memory) Close() error {
	m.close()
	return nil
}

// dial gives the client's end of a connection, and a channel that is closed when the server lets go of its own.
func (m memory) dial() (net.Conn, <-chan struct{}) {
	client, server := net.Pipe()
	gone := make(chan struct{})
	m.conns <- &watched{Conn: server, closed: sync.OnceFunc(func() { close(gone) })}
	return client, gone
}

// watched says when it is closed.
type watched struct {
	net.Conn
	closed func()
}

func (w *watched) Close() error {
	w.closed()
	return w.Conn.Close()
}

// inMemory is a connector without backends.
type inMemory struct {
	memory
	*service
	server *http.Server
	log    *buffer
}

// serveInMemory serves until the bubble's test ends. handler may be nil: it is the connector's then.
func serveInMemory(t *testing.T, handler http.Handler, cut func()) inMemory {
	t.Helper()
	log := new(buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	s := newService(&backends{registry: newRegistry(), cut: cut}, defaults(), logger)
	server := s.server(t.Context())
	if handler != nil {
		server.Handler = handler
	}
	m := memory{conns: make(chan net.Conn), ended: make(chan struct{})}
	m.close = sync.OnceFunc(func() { close(m.ended) })
	served := make(chan error)
	go func() { served <- server.Serve(m) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
		time.Sleep(time.Second) // net/http gives its last answers half of one, to arrive
	})
	return inMemory{m, s, server, log}
}

func TestClientsThatStandStillAreLetGo(t *testing.T) {
	t.Parallel()
	endless := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for out := (eventWriter{w: w, control: http.NewResponseController(w)}); out.beat() == nil; {
			time.Sleep(defaults().heartbeat)
		}
	})
	tests := map[string]struct {
		handler http.Handler
		sends   string
		reads   bool
		want    time.Duration
	}{
		"in the middle of a header":             {nil, "GET /healthz HTTP/1.1\r\nHost: x\r\n", true, 5 * time.Second},
		"in the middle of a body":               {nil, "POST /commands HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", true, 10 * time.Second},
		"in the middle of an answer":            {nil, "GET /page/page.js HTTP/1.1\r\nHost: x\r\n\r\n", false, 30 * time.Second},
		"in the middle of a stream of events":   {endless, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", false, eventWriteTime},
		"between a request and one that is not": {nil, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", true, 2 * time.Minute},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := serveInMemory(t, test.handler, nil)
				conn, gone := m.dial()
				defer conn.Close()
				if test.reads {
					go func() { _, _ = io.Copy(io.Discard, conn) }()
				}
				started := time.Now()
				if _, err := io.WriteString(conn, test.sends); err != nil {
					t.Fatal(err)
				}
				select {
				case <-gone:
				case <-time.After(time.Hour):
				}
				if got := time.Since(started).Truncate(time.Second); got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		})
	}
}

// The timeouts are those of requests and answers, which a stream of events would outlast.
func TestAFollowerWhoReadsStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const beats = 1000
		ended := make(chan error, 1)
		m := serveInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out := eventWriter{w: w, control: http.NewResponseController(w)}
			err := out.open()
			for i := 0; i < beats && err == nil; i++ {
				time.Sleep(defaults().heartbeat)
				if err = out.beat(); err == nil {
					err = r.Context().Err()
				}
			}
			ended <- err
		}), nil)
		conn, _ := m.dial()
		defer conn.Close()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("got %v after %v, want the client to hear %d heartbeats", err, time.Since(started), beats)
		}
	})
}

func TestAHeaderThatIsLargeIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := serveInMemory(t, nil, nil)
		for size, want := range map[int]int{8 << 10: http.StatusOK, 32 << 10: http.StatusRequestHeaderFieldsTooLarge} {
			conn, _ := m.dial()
			go func() {
				_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", size)+"\r\n\r\n")
			}()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("a header of %d bytes: got %s, want %d", size, res.Status, want)
			}
			_ = conn.Close()
		}
	})
}

// Nothing else would tell whoever runs the connector.
func TestAPanicThatARequestCausedIsInTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := serveInMemory(t, nil, func() { panic("the cutter is broken") })
		conn, gone := m.dial()
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /link/cut HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-gone
		if got := m.log.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "the cutter is broken") {
			t.Errorf("got the log %q, want a warning with the panic", got)
		}
	})
}

// Such a client could hold the connector's end up for as long as it likes.
func TestShutdownCutsOffARequestThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := serveInMemory(t, nil, nil)
		m.server.ReadTimeout = 0
		conn, gone := m.dial()
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /commands HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		started := time.Now()
		if err := m.shutDown(m.server, func() {}); err == nil {
			t.Error("got no error")
		}
		if got, want := time.Since(started), lastEvents+lastWrites; got != want {
			t.Errorf("it took %v, want %v", got, want)
		}
		<-gone
	})
}
