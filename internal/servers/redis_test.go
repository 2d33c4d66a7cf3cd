package servers

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestRedisKeepsItsDataOverACrash(t *testing.T) {
	t.Parallel()
	r, err := StartRedis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	opt, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(opt)
	defer rdb.Close()
	if err := rdb.Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := rdb.Get(t.Context(), "key").Result(); err != nil || got != "value" {
		t.Errorf("after a crash: got %q, %v, want %q", got, err, "value")
	}
}

func TestRedisClusterServesEverySlot(t *testing.T) {
	t.Parallel()
	c, err := StartRedisCluster(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), Password: c.Password()})
	defer rdb.Close()
	for i := range 100 {
		if err := rdb.Set(t.Context(), fmt.Sprintf("key %d", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var keys atomic.Int64 // the masters are asked at once
	if err := rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
		n, err := node.DBSize(ctx).Result()
		if n == 0 {
			t.Error("a master has no keys")
		}
		keys.Add(n)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if keys.Load() != 100 {
		t.Errorf("got %d keys, want 100", keys.Load())
	}
}

func TestRedisSentinelPromotesTheReplica(t *testing.T) {
	t.Parallel()
	s, err := StartRedisSentinel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	rdb := redis.NewSentinelClient(&redis.Options{Addr: s.SentinelAddr(), Password: s.Password()})
	defer rdb.Close()
	sub := rdb.Subscribe(t.Context(), "+switch-master")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Master.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.ReceiveMessage(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, err := rdb.GetMasterAddrByName(t.Context(), SentinelMaster).Result()
	if err != nil {
		t.Fatal(err)
	}
	if got := addr[0] + ":" + addr[1]; got != s.Replica.Addr() {
		t.Errorf("the master is %s, want %s", got, s.Replica.Addr())
	}
}
