package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// service is the connector's HTTP server and what it runs beside it.
type service struct {
	*backends
	set       settings
	log       *slog.Logger
	commands  *runner
	store     store
	followers chan struct{} // a stream of events has a place
	ending    atomic.Bool
}

func newService(b *backends, set settings, log *slog.Logger) *service {
	return &service{
		backends: b, set: set, log: log,
		commands:  newRunner(b, set, log),
		store:     store{pool: b.pool, page: set.page, timeout: set.readTimeout},
		followers: make(chan struct{}, set.maxFollowers),
	}
}

// handler routes. The patterns without a method are for the methods that the others do not take.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /commands", s.postCommand)
	mux.HandleFunc("/commands", notAllowed(http.MethodPost))
	mux.HandleFunc("GET /commands/{id}", s.getCommand)
	mux.HandleFunc("/commands/{id}", notAllowed(http.MethodGet))
	mux.HandleFunc("GET /commands/{id}/events", s.getEvents)
	mux.HandleFunc("/commands/{id}/events", notAllowed(http.MethodGet))
	mux.HandleFunc("GET /commands/{id}/attempts", s.getAttempts)
	mux.HandleFunc("/commands/{id}/attempts", notAllowed(http.MethodGet))
	s.routePage(mux)
	mux.HandleFunc("GET /healthz", s.getHealth)
	mux.HandleFunc("GET /readyz", s.getReady)
	mux.HandleFunc("GET /stats", s.getStats)
	mux.Handle("GET /metrics", s.getMetrics())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { notFound.write(w) })
	// Pages of other sites must not run commands in a visitor's browser.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { crossOrigin.write(w) }))
	return protection.Handler(mux)
}

// serve serves until ctx ends. Then it takes no more requests, lets the running commands end or ends them, gives
// their followers the last events, and returns when nothing runs any more.
func (s *service) serve(ctx context.Context, listener net.Listener) error {
	requests, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	server := s.server(requests)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { s.recoverCommands(ctx) })

	failed := make(chan error, 1)
	beside.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
			cancel()
		}
	})
	<-ctx.Done()
	err := s.shutDown(server, hangUp)
	select {
	case broken := <-failed:
		return broken
	default:
		return err
	}
}

// server is not started. Its requests end when ctx does.
func (s *service) server(ctx context.Context) *http.Server {
	server := &http.Server{
		Handler:           s.handler(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // streams of events set their own
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	// Browsers open connections ahead. One that has brought no request would hold Shutdown for 5 s.
	var unused sync.Map
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew {
			unused.Store(conn, nil)
		} else {
			unused.Delete(conn)
		}
	}
	server.RegisterOnShutdown(func() {
		unused.Range(func(key, _ any) bool {
			if conn, ok := key.(net.Conn); ok {
				_ = conn.Close()
			}
			return true
		})
	})
	return server
}

// Bounds of the end, after the running commands have ended.
const (
	lastEvents = 2 * time.Second // for followers to get the events that are there
	lastWrites = 3 * time.Second // for requests that were hung up on
)

func (s *service) shutDown(server *http.Server, hangUp context.CancelFunc) error {
	s.log.Info("shutting down")
	s.ending.Store(true)
	answered := make(chan error, 1)
	bound, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { answered <- server.Shutdown(bound) }() // the listener closes now
	s.commands.close()
	timer := time.NewTimer(lastEvents)
	defer timer.Stop()
	select {
	case err := <-answered:
		return err
	case <-timer.C:
	}
	hangUp()
	defer time.AfterFunc(lastWrites, cancel).Stop()
	if err := <-answered; err != nil {
		return errors.Join(errors.New("requests that did not end were cut off"), server.Close())
	}
	return nil
}

// recoverCommands ends the commands that a process that crashed left in progress, now and from time to time.
func (s *service) recoverCommands(ctx context.Context) {
	tick := time.NewTicker(s.set.recoverEvery)
	defer tick.Stop()
	for {
		n, err := s.stored.Recover(ctx, s.set.recoverAfter)
		s.stats.recovered.Add(n)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("looking for commands of crashed processes", "error", err)
		}
		if n > 0 {
			s.log.Warn("commands of a crashed process have been ended as failed", "commands", n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
