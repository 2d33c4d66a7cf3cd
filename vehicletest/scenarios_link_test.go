package vehicletest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	. "github.com/sovd-go/vehicle/vehicletest" //nolint:revive // scripts read as they do in users' tests
)

// The scenarios that are about connections and about many vehicles at once.

func scenarioLimits(t *testing.T) {
	t.Run("MaxConcurrentStreams", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			s := NewServer(t, WithServerOptions(grpc.MaxConcurrentStreams(2)), On("ReadDTC", Script{Until(release), Answer("{}")}))
			client := stub(t, s)
			mustAsk(t, client, request("ClearDTC")) // the client knows the limit from here on
			var wait sync.WaitGroup
			for range 3 {
				wait.Go(func() {
					if _, err := ask(t.Context(), client, request("ReadDTC")); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			if got := len(s.Requests()); got != 3 {
				t.Errorf("got %d requests, want 1 and the 2 that the limit lets through", got)
			}
			close(release)
			wait.Wait()
			if got := len(s.Requests()); got != 4 {
				t.Errorf("got %d requests at the end, want 4", got)
			}
		})
	})
	t.Run("MaxConnectionAge", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t,
				WithServerOptions(grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: time.Minute, MaxConnectionAgeGrace: 10 * time.Second})),
				On("Monitor", Script{Send("{}"), Stall()}))
			client := stub(t, s)
			start := time.Now()
			_, err := ask(t.Context(), client, request("Monitor"))
			wantCode(t, err, codes.Unavailable)
			if age := time.Since(start); age < time.Minute || age > 90*time.Second {
				t.Errorf("the connection ended after %v, want about 70s", age)
			}
			mustAsk(t, client, request("ReadDTC"))
			if got := s.Requests()[1].Conn; got != 2 {
				t.Errorf("the next call came on connection %d, want 2", got)
			}
		})
	})
	t.Run("keepalive enforcement", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, On("Monitor", Script{Stall()})) // gRPC's default: a ping in 5 minutes
			client := stub(t, s, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second}))
			_, err := ask(t.Context(), client, request("Monitor"))
			wantCode(t, err, codes.Unavailable)
			if !strings.Contains(status.Convert(err).Message(), "too_many_pings") {
				t.Errorf("got error %v, want too_many_pings", err)
			}
		})
	})
}

func scenarioMutualTLS(t *testing.T) {
	ca, stranger := newTestCA(t), newTestCA(t)
	server := ca.serverConfig(t, "vehicles.example")
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool
	good := ca.issue(t, "backend-1", time.Hour)
	config := func(edit func(*tls.Config)) *tls.Config {
		c := ca.clientConfig("vehicles.example")
		c.Certificates = []tls.Certificate{good}
		edit(c)
		return c
	}
	for name, tt := range map[string]struct {
		client *tls.Config
		want   codes.Code
	}{
		"both sides trust each other":      {config(func(*tls.Config) {}), codes.OK},
		"the server is of another CA":      {config(func(c *tls.Config) { c.RootCAs = stranger.pool }), codes.Unavailable},
		"the server has another name":      {config(func(c *tls.Config) { c.ServerName = "other.example" }), codes.Unavailable},
		"the client has no certificate":    {config(func(c *tls.Config) { c.Certificates = nil }), codes.Unavailable},
		"the client's has expired":         {config(func(c *tls.Config) { c.Certificates[0] = ca.issue(t, "backend-1", -time.Hour) }), codes.Unavailable},
		"the client's is of another CA":    {config(func(c *tls.Config) { c.Certificates[0] = stranger.issue(t, "backend-1", time.Hour) }), codes.Unavailable},
		"the client does not speak TLS":    {nil, codes.Unavailable},
		"the server's clock is years late": {config(func(c *tls.Config) { c.Time = func() time.Time { return time.Now().AddDate(5, 0, 0) } }), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, opts ...Option) {
				s := NewServer(t, append(opts, WithTLS(server))...)
				var dial []grpc.DialOption
				if tt.client != nil {
					dial = append(dial, grpc.WithTransportCredentials(credentials.NewTLS(tt.client)))
				}
				_, err := ask(t.Context(), stub(t, s, dial...), request("ReadDTC"))
				wantCode(t, err, tt.want)
				if tt.want != codes.OK {
					return
				}
				if got := s.Requests()[0].TLS.PeerCertificates[0].Subject.CommonName; got != "backend-1" {
					t.Errorf("the server saw a client named %q, want backend-1", got)
				}
			})
		})
	}
	t.Run("the client's certificate is rotated while it runs", func(t *testing.T) {
		t.Parallel()
		s := NewServer(t, WithTCP(), WithTLS(server), On("ReadDTC", Script{GoAway(), Answer("{}")}))
		var current atomic.Pointer[tls.Certificate]
		current.Store(&good)
		client := stub(t, s, grpc.WithTransportCredentials(credentials.NewTLS(config(func(c *tls.Config) {
			c.Certificates = nil
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return current.Load(), nil }
		}))))
		mustAsk(t, client, request("ReadDTC"))
		rotated := ca.issue(t, "backend-2", time.Hour)
		current.Store(&rotated)
		mustAsk(t, client, request("ReadDTC"))
		for i, want := range []string{"backend-1", "backend-2"} {
			if got := s.Requests()[i].TLS.PeerCertificates[0].Subject.CommonName; got != want {
				t.Errorf("connection %d: the server saw a client named %q, want %q", i+1, got, want)
			}
		}
	})
}

// scenarioFleet has steps of its own: a vehicle that does one thing at a time, and a link whose latency
// and losses are drawn from a seed, by vehicle and try, so that they do not depend on who comes first.
func scenarioFleet(t *testing.T) {
	vehicles, workers := 10_000, 200
	if testing.Short() {
		vehicles = 1_000
	}
	draw := func(vehicle string, try int) *rand.Rand {
		h := fnv.New64a()
		_, _ = fmt.Fprintf(h, "%s/%d", vehicle, try) // never fails
		return rand.New(rand.NewPCG(18, h.Sum64()))
	}
	lost := func(vehicle string, try int) bool { return draw(vehicle, try).Float64() < 0.05 }

	synctest.Test(t, func(t *testing.T) {
		type queue struct {
			gate    chan struct{} // has room for one
			running atomic.Int32
		}
		var queues sync.Map // by vehicle id
		var overlaps atomic.Int64
		one := func(ctx context.Context, c *Call) error {
			entry, _ := queues.LoadOrStore(c.Request.Command.GetVehicleId(), &queue{gate: make(chan struct{}, 1)})
			q := entry.(*queue)
			select {
			case q.gate <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			defer func() { <-q.gate }()
			if q.running.Add(1) > 1 {
				overlaps.Add(1)
			}
			defer q.running.Add(-1)
			vehicle, try := c.Request.Command.GetVehicleId(), c.Request.Try
			latency := 20*time.Millisecond + time.Duration(draw(vehicle, try).ExpFloat64()*float64(200*time.Millisecond))
			script := Script{Delay(latency), Send(`{"status":"reading"}`)}
			if lost(vehicle, try) {
				return append(script, Fail(codes.Unavailable, "link lost")).Run(ctx, c)
			}
			return append(script, Delay(latency), Answer(`{"status":"complete"}`)).Run(ctx, c)
		}
		s := NewServer(t, On("ReadDTC", Script{one}))
		clients := []int{0, 1, 2, 3}
		next := make(chan string)
		var wait sync.WaitGroup
		var answered, retries atomic.Int64
		for range clients {
			client := stub(t, s)
			for range workers / len(clients) {
				wait.Go(func() {
					for vehicle := range next {
						req := requestWith("ReadDTC", vehicle, nil)
						for status.Code(mustEnd(ask(t.Context(), client, req))) == codes.Unavailable {
							retries.Add(1)
						}
						answered.Add(1)
					}
				})
			}
		}
		var wantAnswers, wantRetries int64
		for i := range vehicles {
			vehicle := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)).String()
			commands := 1
			if i%20 == 0 {
				commands = 3 // side by side, so that they meet at the vehicle's gate
			}
			for range commands {
				next <- vehicle
				wantAnswers++
				for try := 1; lost(vehicle, try); try++ {
					wantRetries++
				}
			}
		}
		close(next)
		wait.Wait()
		if got := answered.Load(); got != wantAnswers {
			t.Errorf("got %d answers, want %d", got, wantAnswers)
		}
		if got := retries.Load(); got != wantRetries || wantRetries == 0 {
			t.Errorf("got %d retries, want the %d that the seed says", got, wantRetries)
		}
		if got := overlaps.Load(); got > 0 {
			t.Errorf("%d commands began while their vehicle ran another", got)
		}
	})
}

func mustEnd[T any](_ T, err error) error { return err }

func scenarioSameBytes(t *testing.T) {
	run := func() (all []string) {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, WithSeed(19), On("Monitor", Script{Send("{}"), Delay(time.Minute), Answer("{}")}))
			client := stub(t, s)
			for _, name := range []string{"ReadDTC", "Monitor", "ClearDTC", "ReadDTC"} {
				req := request(name)
				req.CommandId = uuid.NewSHA1(uuid.Nil, []byte(name)).String()
				for _, c := range mustAsk(t, client, req) {
					all = append(all, fmt.Sprintf("%s %d %v %s %s", c.GetCommandId(), c.GetSequenceNumber(), c.GetIsFinal(), c.GetTimestamp(), c.GetResponsePayload()))
				}
			}
		})
		return all
	}
	first := run()
	if diff := cmp.Diff(first, run()); diff != "" || len(first) == 0 {
		t.Errorf("%d messages, the second run differs (-first +second):\n%s", len(first), diff)
	}
	if !slices.ContainsFunc(first, func(m string) bool { return strings.Contains(m, "2000-01-01T00:01:00.000000") }) {
		t.Error("no message carries the bubble's clock after a minute")
	}
}
