package redissink_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// The connection has the deadline too, and might end first.
func TestFollowWithoutAStreamEndsByItsDeadline(t *testing.T) {
	t.Parallel()
	const followers = 50
	rdb, cmd := connect(t, sharedURL), newCommand()
	s := newSink(t, rdb)
	must(t, s.Begin(t.Context(), cmd))
	var all []*following
	for range followers {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		all = append(all, follows(t, redissink.Follow(ctx, rdb, cmd.ID)))
	}
	eventually(t, "all have subscribed", func() bool { return subscribers(t, rdb, cmd.ID) == followers })
	must(t, s.Write(t.Context(), answer(cmd, 2)[:1]))
	for _, f := range all {
		got, err := f.rest()
		if len(got) != 1 || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, redissink.ErrGap) {
			t.Errorf("got %d events and %v, want one and DeadlineExceeded", len(got), err)
		}
	}
}

// The connection is lost, Redis answers no dial, and the beat comes meanwhile.
func TestFollowEndsByCtxWhileItDials(t *testing.T) {
	t.Parallel()
	var dials atomic.Int32 // that hang
	var hangs atomic.Bool
	over := make(chan struct{})
	defer close(over)
	direct, cmd := connect(t, sharedURL), newCommand()
	p, url := newProxy(t, sharedURL, "nothing")
	rdb := connect(t, url, func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if hangs.Load() {
				dials.Add(1)
				select {
				case <-ctx.Done():
				case <-over: // for the pool's, which end later
				}
				return nil, errors.New("no answer")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const beat, followers = 300 * time.Millisecond, 8
	var all []*following
	for range followers {
		all = append(all, follows(t, redissink.FollowEvery(ctx, rdb, cmd.ID, beat, time.Minute)))
	}
	eventually(t, "all have subscribed", func() bool { return subscribers(t, direct, cmd.ID) == followers })
	hangs.Store(true)
	p.cut()
	eventually(t, "all dial", func() bool { return dials.Load() >= followers })
	pause(t.Context(), 2*beat)
	cancel()
	limit := time.After(10 * time.Second)
	for _, f := range all {
		select {
		case err := <-f.err:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want Canceled", err)
			}
		case <-limit:
			t.Fatal("ctx has ended, and a follower has not")
		}
	}
}

// A master that became a replica, and one that has lost its replicas, refuse writes until Redis has recovered. (What 6.2 says of
// that differs: see TestTransient.)
func TestAMasterThatRefusesWritesForAWhileIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refuse, recover []any
	}{
		"a replica that is read-only": {[]any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}},
		"too few replicas":            {[]any{"CONFIG", "SET", "min-replicas-to-write", "1"}, []any{"CONFIG", "SET", "min-replicas-to-write", "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := private(t)
			admin, rdb := connect(t, server.URL()), connect(t, server.URL(), func(o *redis.Options) { o.MaxRetries = -1 })
			s, cmd := newSink(t, rdb, streams(), redissink.WithRetryFor(time.Minute)), newCommand()
			chunks := answer(cmd, 4)
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks[:2]))
			must(t, admin.Do(t.Context(), test.refuse...).Err())
			must(t, admin.ConfigResetStat(t.Context()).Err())
			written := make(chan error, 1)
			go func() { written <- s.Write(t.Context(), chunks[2:]) }()
			eventually(t, "Redis has refused a write", func() bool {
				return len(written) > 0 || strings.Contains(admin.Info(t.Context(), "commandstats").Val(), "cmdstat_evalsha:")
			})
			must(t, admin.Do(t.Context(), test.recover...).Err())
			must(t, <-written)
			must(t, s.End(t.Context(), completed(cmd)))
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			wantEvents(t, got, err, events(cmd, chunks))
		})
	}
}

// Redis cuts those who ask for more at once than its limit, and the chunks have grown since it was decided how many to ask for.
func TestFollowReadsLessAtOnceWhereRedisCutsIt(t *testing.T) {
	t.Parallel()
	rdb := connect(t, private(t, "client-output-buffer-limit normal 8mb 0 0").URL())
	s, cmd := newSink(t, rdb, streams()), newCommand()
	chunks := answer(cmd, 1500)
	for i := 700; i < len(chunks); i++ {
		chunks[i].Payload = []byte(`"` + strings.Repeat("x", 32<<10) + `"`)
	}
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := collect(redissink.FollowEvery(t.Context(), rdb, cmd.ID, time.Second, 3*time.Second))
	if err != nil || numbers(got) != wantNumbers(len(chunks)) {
		t.Errorf("got %d events and %v, want %d and none", len(got), err, len(chunks)+1)
	}
}

func TestFollowOnARing(t *testing.T) {
	t.Parallel()
	nodes, addrs := []*servers.Redis{private(t), private(t)}, map[string]string{}
	for _, s := range nodes {
		addrs[s.Addr()] = s.Addr()
	}
	connected := func() *redis.Ring {
		ring := redis.NewRing(&redis.RingOptions{
			Addrs: addrs, HeartbeatFrequency: 10 * time.Millisecond,
			NewClient: func(o *redis.Options) *redis.Client {
				for _, s := range nodes {
					if s.Addr() == o.Addr {
						o.Password = s.Password()
					}
				}
				return redis.NewClient(o)
			},
		})
		t.Cleanup(func() { _ = ring.Close() })
		return ring
	}
	t.Run("whose shards are there", func(t *testing.T) {
		ring := connected()
		s := newSink(t, ring, streams())
		for range 10 { // commands on either shard
			cmd := newCommand()
			f := follows(t, redissink.Follow(t.Context(), ring, cmd.ID))
			play(t, s, cmd, answer(cmd, 3))
			got, err := f.rest()
			wantEvents(t, got, err, events(cmd, answer(cmd, 3)))
		}
	})
	t.Run("whose shards are down", func(t *testing.T) {
		ring := connected()
		for _, s := range nodes {
			must(t, s.Stop(t.Context()))
		}
		eventually(t, "the ring knows", func() bool { return ring.Len() == 0 })
		_, err := collect(redissink.FollowEvery(t.Context(), ring, newCommand().ID, time.Second, 100*time.Millisecond))
		if err == nil || !strings.HasSuffix(err.Error(), "all ring shards are down (retried for 100ms)") {
			t.Errorf("got %v, want what the ring says", err)
		}
	})
}
