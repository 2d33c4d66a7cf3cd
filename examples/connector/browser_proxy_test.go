//go:build browser

package main

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// proxy is what a browser has before the connector. It can go away and come back, or stay and say that the connector has.
type proxy struct {
	tb      testing.TB
	url     string
	address string
	forward *httputil.ReverseProxy
	server  *http.Server

	mu      sync.Mutex
	last    []string
	refuses bool // with 502
}

func startProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	to, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{tb: tb, address: "127.0.0.1:0", forward: httputil.NewSingleHostReverseProxy(to)}
	p.forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {} // the browser went away
	p.start()
	tb.Cleanup(p.stop)
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	refuses := p.refuses
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		p.last = append(p.last, id)
	}
	p.mu.Unlock()
	if refuses {
		http.Error(w, "Bad Gateway", http.StatusBadGateway)
		return
	}
	p.forward.ServeHTTP(w, r)
}

// refuse makes it answer 502 to whatever comes, or no more.
func (p *proxy) refuse(refuses bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = refuses
}

func (p *proxy) lastEventIDs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// start listens where it did before.
func (p *proxy) start() {
	listener, err := new(net.ListenConfig).Listen(p.tb.Context(), "tcp", p.address)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.address = listener.Addr().String()
	p.url = "http://" + p.address
	server := &http.Server{Handler: p}
	p.server = server
	go func() { _ = server.Serve(listener) }()
}

// stop cuts every connection and refuses new ones.
func (p *proxy) stop() { _ = p.server.Close() }
