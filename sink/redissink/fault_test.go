package redissink_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// proxy stands between a client and Redis. It can take requests and lose their answers.
type proxy struct {
	listener net.Listener
	target   string
	losing   atomic.Int32 // so many answers to requests that hold what loses says
	loses    []byte
	deaf     atomic.Bool // passes nothing on, and closes nothing
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

// newProxy stands before the server at url and gives the url to use instead.
func newProxy(t *testing.T, url, loses string) (*proxy, string) {
	t.Helper()
	opt, err := redis.ParseURL(url)
	must(t, err)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{listener: l, target: opt.Addr, loses: []byte(loses)}
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			p.serve(client, server)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p, strings.Replace(url, opt.Addr, l.Addr().String(), 1)
}

// cut ends the connections that there are.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) serve(client, server net.Conn) {
	var losing atomic.Bool
	p.wg.Go(func() {
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			if p.deaf.Load() {
				continue
			}
			if bytes.Contains(buf[:n], p.loses) && p.losing.Add(-1) >= 0 {
				losing.Store(true)
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	p.wg.Go(func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || losing.Load() { // Redis has done it, and the answer is lost
				return
			}
			if p.deaf.Load() {
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
}

func TestAnAnswerThatIsLostIsNoEventLost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts    []redissink.Option
		loses   string
		repeats bool // events on the channel
	}{
		"with a stream": {[]redissink.Option{streams()}, "evalsha", false},
		"without":       {nil, "publish", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct, cmd := connect(t, sharedURL), newCommand()
			p, url := newProxy(t, sharedURL, test.loses)
			s := newSink(t, connect(t, url), test.opts...)
			raw := direct.Subscribe(t.Context(), redissink.ChannelOf(cmd.ID))
			defer raw.Close()
			f := follow(t, t.Context(), direct, cmd.ID)
			chunks := answer(cmd, 20)
			must(t, s.Begin(t.Context(), cmd))
			for i := range chunks {
				if i%3 == 1 {
					p.losing.Store(1 + int32(i%2))
				}
				must(t, s.Write(t.Context(), chunks[i:i+1]))
			}
			p.losing.Store(2)
			must(t, s.End(t.Context(), completed(cmd)))
			got, err := f.rest()
			wantEvents(t, got, err, events(cmd, chunks))

			published, ends := 0, 0
			for ends == 0 {
				msg, err := raw.ReceiveMessage(t.Context())
				must(t, err)
				var e redissink.Event
				must(t, e.UnmarshalJSON([]byte(msg.Payload)))
				published++
				if e.Event == "status" {
					ends++
				}
			}
			if repeats := published > len(chunks)+1; repeats != test.repeats {
				t.Errorf("%d events were published of %d: repeats %t, want %t", published, len(chunks)+1, repeats, test.repeats)
			}
			if p.losing.Load() > 0 {
				t.Error("the proxy has lost nothing")
			}
		})
	}
}

func TestFollowLeavesASilentConnection(t *testing.T) {
	t.Parallel()
	direct, cmd := connect(t, sharedURL), newCommand()
	p, url := newProxy(t, sharedURL, "nothing")
	rdb := connect(t, url, func(o *redis.Options) { o.ReadTimeout = 100 * time.Millisecond })
	s, chunks := newSink(t, direct, streams()), answer(cmd, 4)
	must(t, s.Begin(t.Context(), cmd))
	f := follows(t, redissink.FollowEvery(t.Context(), rdb, cmd.ID, 100*time.Millisecond, time.Minute))
	must(t, s.Write(t.Context(), chunks[:2]))
	got := []redissink.Event{<-f.seen, <-f.seen}
	p.deaf.Store(true)
	must(t, s.Write(t.Context(), chunks[2:]))
	must(t, s.End(t.Context(), completed(cmd)))
	eventually(t, "the follower has connected again", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.conns) >= 8
	})
	p.deaf.Store(false)
	rest, err := f.rest()
	wantEvents(t, append(got, rest...), err, events(cmd, chunks))
}

func TestFollowSurvivesItsConnections(t *testing.T) {
	t.Parallel()
	server := private(t)
	rdb, cmd := connect(t, server.URL()), newCommand()
	s, chunks := newSink(t, connect(t, server.URL()), streams()), answer(cmd, 30)
	f := follow(t, t.Context(), rdb, cmd.ID)
	must(t, s.Begin(t.Context(), cmd))
	var got []redissink.Event
	for i := range chunks {
		if i%5 == 2 {
			must(t, connect(t, server.URL()).ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
			must(t, connect(t, server.URL()).ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err())
		}
		must(t, s.Write(t.Context(), chunks[i:i+1]))
		got = append(got, <-f.seen)
	}
	must(t, s.End(t.Context(), completed(cmd)))
	rest, err := f.rest()
	wantEvents(t, append(got, rest...), err, events(cmd, chunks))
}

func TestTheTimeThatALoopTakesIsNoTimeWithoutRedis(t *testing.T) {
	t.Parallel()
	const patience = 500 * time.Millisecond
	p, url := newProxy(t, sharedURL, "xrange")
	rdb := connect(t, url, func(o *redis.Options) { o.MaxRetries = -1 })
	cmd := newCommand()
	chunks := answer(cmd, 8)
	play(t, newSink(t, connect(t, sharedURL), streams()), cmd, chunks)
	var got []redissink.Event
	for e, err := range redissink.FollowEvery(t.Context(), rdb, cmd.ID, 15*time.Second, patience) {
		must(t, err)
		if got = append(got, e); len(got) == 3 { // the last of the first page: Redis is read again when the loop goes on
			time.Sleep(patience)
			p.losing.Store(1)
		}
	}
	if p.losing.Load() > 0 {
		t.Error("the proxy has lost nothing")
	}
	wantEvents(t, got, nil, events(cmd, chunks))
}

func TestFollowWithoutAStreamEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	server := private(t)
	rdb, cmd := connect(t, server.URL()), newCommand()
	s, chunks := newSink(t, rdb), answer(cmd, 3)
	f := follow(t, t.Context(), rdb, cmd.ID)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks[:1]))
	got := []redissink.Event{<-f.seen}
	must(t, connect(t, server.URL()).ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
	_, err := f.rest()
	wantEvents(t, got, nil, events(cmd, chunks)[:1])
	if !errors.Is(err, redissink.ErrGap) || !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "there is no stream and the subscription was lost") {
		t.Errorf("got %v, want ErrGap and what became of the connection", err)
	}
}

func TestRedisIsRestartedInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*servers.Redis, context.Context) error{
		"stopped": (*servers.Redis).Stop,
		"killed":  (*servers.Redis).Crash,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := private(t)
			rdb, cmd := connect(t, server.URL()), newCommand()
			s, chunks := newSink(t, rdb, streams()), answer(cmd, 9)
			before := follow(t, t.Context(), rdb, cmd.ID)
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks[:3]))
			got := []redissink.Event{<-before.seen, <-before.seen, <-before.seen}
			must(t, stop(server, t.Context()))
			written := make(chan error, 1)
			go func() { written <- s.Write(t.Context(), chunks[3:6]) }()
			during := follows(t, redissink.Follow(t.Context(), rdb, cmd.ID))
			must(t, server.Start(t.Context()))
			must(t, <-written)
			must(t, s.Write(t.Context(), chunks[6:]))
			must(t, s.End(t.Context(), completed(cmd)))
			rest, err := before.rest()
			wantEvents(t, append(got, rest...), err, events(cmd, chunks))
			got, err = during.rest()
			wantEvents(t, got, err, events(cmd, chunks))
			got, err = collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			wantEvents(t, got, err, events(cmd, chunks))
		})
	}
}

// Redis cuts subscribers that do not keep up. Its limit is low here; by default it is 32 MiB.
func TestASlowSubscriberIsCut(t *testing.T) {
	t.Parallel()
	server := private(t, "client-output-buffer-limit pubsub 256kb 0 0")
	rdb := connect(t, server.URL())
	payload := []byte(`"` + strings.Repeat("x", 64<<10) + `"`)
	large := func(cmd vehicle.Command) []vehicle.Chunk {
		chunks := answer(cmd, 400) // 25 MiB: more than the kernel takes for it
		for i := range chunks {
			chunks[i].Payload = payload
		}
		return chunks
	}
	t.Run("and says so without a stream", func(t *testing.T) {
		t.Parallel()
		s, cmd := newSink(t, rdb), newCommand()
		f := follow(t, t.Context(), rdb, cmd.ID)
		play(t, s, cmd, large(cmd)) // the loop waits with its first event
		got, err := f.rest()
		if len(got) == 0 || len(got) > 400 || !errors.Is(err, redissink.ErrGap) {
			t.Errorf("got %d events and the error %v, want some and ErrGap", len(got), err)
		}
	})
	t.Run("and loses nothing with one", func(t *testing.T) {
		t.Parallel()
		s, cmd := newSink(t, rdb, streams()), newCommand()
		f := follow(t, t.Context(), rdb, cmd.ID)
		chunks := large(cmd)
		play(t, s, cmd, chunks)
		got, err := f.rest()
		wantEvents(t, got, err, events(cmd, chunks))
	})
}

func TestWhatRedisRefusesIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	server := private(t, `rename-command PUBLISH ""`)
	full := private(t, "maxmemory 1mb", "maxmemory-policy noeviction")
	const secret = "1FTFW1ET5DFC10312"
	for name, test := range map[string]struct {
		url     string
		opts    []redissink.Option
		prepare func(t *testing.T, cmd vehicle.Command)
		text    string
	}{
		"a command that is not allowed": {
			url: server.URL(), text: "redissink: publishing the answer of command ID: ERR unknown command 'publish'",
		},
		"no memory": {
			url: full.URL(), opts: []redissink.Option{streams()},
			text: "redissink: publishing the answer of command ID: OOM command not allowed when used memory > 'maxmemory'",
		},
		"a key of another type": {
			url: sharedURL, opts: []redissink.Option{streams()},
			prepare: func(t *testing.T, cmd vehicle.Command) {
				must(t, connect(t, sharedURL).Set(t.Context(), redissink.StreamOf(cmd.ID), secret, time.Minute).Err())
			},
			text: "redissink: resetting the stream of command ID: WRONGTYPE Operation against a key holding the wrong kind of value",
		},
		"a wrong password": {
			url:  strings.Replace(server.URL(), "redis://:", "redis://:x", 1),
			text: "redissink: publishing the answer of command ID: WRONGPASS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := newCommand()
			s := newSink(t, connect(t, test.url), append(test.opts, redissink.WithRetryFor(time.Hour))...)
			if test.prepare != nil {
				test.prepare(t, cmd)
			}
			err := s.Begin(t.Context(), cmd)
			if err == nil {
				chunks := answer(cmd, 1)
				chunks[0].Payload = []byte(`"` + secret + `"`)
				err = s.Write(t.Context(), chunks)
			}
			want := strings.Replace(test.text, "ID", cmd.ID.String(), 1)
			if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "with args") {
				t.Errorf("got the error %v,\nwant %s… without the payload", err, want)
			}
			if err = s.End(t.Context(), completed(cmd)); err == nil {
				t.Error("End succeeded where nothing can be published")
			}
		})
	}
}

func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	server := private(t)
	must(t, server.Stop(t.Context()))
	rdb := connect(t, server.URL(), func(o *redis.Options) { o.MaxRetries, o.DialerRetries = -1, 1 })
	cmd := newCommand()
	t.Run("by WithRetryFor", func(t *testing.T) {
		t.Parallel()
		s := newSink(t, rdb, streams(), redissink.WithRetryFor(300*time.Millisecond))
		start := time.Now()
		err := s.Begin(t.Context(), cmd)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.HasSuffix(err.Error(), "(retried for 300ms)") {
			t.Errorf("got %v, want the reason and how long it was tried", err)
		}
	})
	t.Run("by ctx", func(t *testing.T) {
		t.Parallel()
		s := newSink(t, rdb, streams(), redissink.WithRetryFor(time.Hour))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		err := s.Begin(ctx, cmd)
		var refused *net.OpError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &refused) {
			t.Errorf("got %v, want DeadlineExceeded and what Redis was suffering from", err)
		}
	})
	t.Run("by Close", func(t *testing.T) {
		t.Parallel()
		s := redissink.New(rdb, streams(), redissink.WithRetryFor(time.Hour))
		err := make(chan error, 1)
		go func() { err <- s.Begin(t.Context(), newCommand()) }()
		must(t, s.Close(t.Context()))
		if err := <-err; !errors.Is(err, redissink.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
	t.Run("by none", func(t *testing.T) {
		t.Parallel()
		s := newSink(t, rdb, streams(), redissink.WithRetryFor(0))
		if err := s.Begin(t.Context(), cmd); err == nil {
			t.Error("got no error")
		}
	})
	t.Run("of a follower, by its patience", func(t *testing.T) {
		t.Parallel()
		_, err := collect(redissink.FollowEvery(t.Context(), rdb, cmd.ID, time.Second, 100*time.Millisecond))
		if err == nil || !strings.HasSuffix(err.Error(), "connection refused (retried for 100ms)") {
			t.Errorf("got %v, want the reason and how long it was tried", err)
		}
	})
}

func TestHowLongItIsTried(t *testing.T) {
	t.Parallel()
	refused := func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("no route")}
	}
	silent := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
	}
	for name, test := range map[string]struct {
		dial func(context.Context, string, string) (net.Conn, error)
		call func(t *testing.T, rdb *redis.Client) error
		want string
	}{
		"by a sink, by default": {refused, func(t *testing.T, rdb *redis.Client) error {
			return newSink(t, rdb, streams()).Begin(t.Context(), newCommand())
		}, "(retried for 10s)"},
		"by a sink whose packets are dropped": {silent, func(t *testing.T, rdb *redis.Client) error {
			return newSink(t, rdb, streams(), redissink.WithRetryFor(time.Minute)).Begin(t.Context(), newCommand())
		}, "(retried for 1m0s)"},
		"by a follower": {refused, func(t *testing.T, rdb *redis.Client) error {
			_, err := collect(redissink.Follow(t.Context(), rdb, newCommand().ID))
			return err
		}, "(retried for 1m0s)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, Dialer: test.dial})
				err := test.call(t, rdb)
				if err == nil || !strings.HasSuffix(err.Error(), test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				must(t, rdb.Close())
				time.Sleep(time.Minute) // its own goroutines look once a second
			})
		})
	}
}

func TestTransient(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"LOADING Redis is loading the dataset in memory":                                                                     true,
		"READONLY You can't write against a read only replica.":                                                              true,
		"READONLY You can't write against a read only replica. script: 0f, on @user_script:20.":                              true,
		"ERR Error running script (call to f_0f): @user_script:20: -READONLY You can't write against a read only replica.":   true,
		"ERR Error running script (call to f_0f): @user_script:20: -OOM command not allowed when used memory > 'maxmemory'.": false,
		"@user_script: 23: -READONLY You can't write against a read only replica.":                                           true, // 6.2's, of what the script returns
		"@user_script: 23: -NOREPLICAS Not enough good replicas to write.":                                                   true,
		"@user_script: 23: -OOM command not allowed when used memory > 'maxmemory'.":                                         false,
		"CLUSTERDOWN The cluster is down":                                                                                    true,
		"MASTERDOWN Link with MASTER is down":                                                                                true,
		"ERR max number of clients reached":                                                                                  true,
		"ERR max number of clients + cluster connections reached":                                                            true,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                                            true,
		"MOVED 3999 127.0.0.1:6381":                                                                                          true, // go-redis follows only so many of them
		"ASK 3999 127.0.0.1:6381":                                                                                            true,
		"ERR Script attempted to access a non local key in a cluster node script: 0f, on @user_script:20.":                   true,
		"BUSY Redis is busy running a script.":                                                                               true,
		"OOM command not allowed when used memory > 'maxmemory'.":                                                            false,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                                                  false,
		"NOPERM this user has no permissions":                                                                                false,
		"NOAUTH Authentication required.":                                                                                    false,
		"MISCONF Redis is configured to save RDB snapshots":                                                                  false,
	} {
		if got := redissink.Transient(redisError(text)); got != want {
			t.Errorf("%s: got %t, want %t", text, got, want)
		}
	}
	for _, err := range []error{
		redis.ErrClosed, redissink.ErrClosed, redissink.ErrSuperseded,
		&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: new(x509.Certificate), Host: "redis"}},
		x509.UnknownAuthorityError{}, // of a VerifyConnection of the user's
		&net.DNSError{Err: "no such host", Name: "redis", IsNotFound: true},
	} {
		if redissink.Transient(err) {
			t.Errorf("%v: got true, want false", err)
		}
	}
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, &net.OpError{Op: "dial", Err: errors.New("refused")}, redis.ErrPoolTimeout, &net.DNSError{Err: "server misbehaving", Name: "redis"}} {
		if !redissink.Transient(err) {
			t.Errorf("%v: got false, want true", err)
		}
	}
}

// redisError is an error reply.
type redisError string

func (e redisError) Error() string { return string(e) }
func (redisError) RedisError()     {}

// Where the client refuses a pipeline as a whole, no command says so: nothing of it was published.
func TestWhatAHookRefusesIsPublishedAgain(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		for how, refuse := range map[string]func() error{
			"an error": func() error { return errors.New("the circuit is open") },
			"a panic":  func() error { panic("a bug") },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				direct, rdb, cmd := connect(t, sharedURL), connect(t, sharedURL), newCommand()
				hook := &refuses{with: refuse}
				rdb.AddHook(hook)
				s := newSink(t, rdb, opts...)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				f := follows(t, redissink.Follow(ctx, direct, cmd.ID))
				eventually(t, "the follower has subscribed", func() bool { return subscribers(t, direct, cmd.ID) == 1 })
				must(t, s.Begin(t.Context(), cmd))
				chunks := answer(cmd, 2)
				for i := range chunks {
					hook.left.Store(2)
					must(t, s.Write(t.Context(), chunks[i:i+1]))
				}
				hook.left.Store(1)
				must(t, s.End(t.Context(), completed(cmd)))
				got, err := f.rest()
				wantEvents(t, got, err, events(cmd, chunks))
			})
		}
	}
}

// refuses is a hook that refuses the next pipelines.
type refuses struct {
	left atomic.Int32
	with func() error
}

func (*refuses) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*refuses) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (r *refuses) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if r.left.Add(-1) >= 0 {
			return r.with()
		}
		return next(ctx, cmds)
	}
}
