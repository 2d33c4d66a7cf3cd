package redissink_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

func startCluster(t *testing.T) (*servers.RedisCluster, *redis.ClusterClient) {
	t.Helper()
	cluster, err := servers.StartRedisCluster(t.Context(), 3, "cluster-require-full-coverage no")
	must(t, err)
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Password: cluster.Password()})
	t.Cleanup(func() { _ = rdb.Close() })
	return cluster, rdb
}

// commandOn makes a command whose channel and stream are of the node at addr.
func commandOn(t *testing.T, rdb *redis.ClusterClient, addr string) vehicle.Command {
	t.Helper()
	for {
		cmd := newCommand()
		node, err := rdb.MasterForKey(t.Context(), redissink.ChannelOf(cmd.ID))
		must(t, err)
		if node.Options().Addr == addr {
			return cmd
		}
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	cluster, rdb := startCluster(t)
	t.Run("the sink conforms", func(t *testing.T) {
		vehicletest.TestSink(t, func(t *testing.T) vehicletest.Harness {
			return vehicletest.Harness{Sink: newSink(t, rdb, streams()), Read: reader{rdb}.read}
		})
	})
	t.Run("followers of concurrent commands", func(t *testing.T) {
		s := newSink(t, rdb, streams())
		var wg sync.WaitGroup
		for range 50 {
			cmd := newCommand()
			chunks := answer(cmd, 50)
			wg.Go(func() {
				got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
				wantEvents(t, got, err, events(cmd, chunks))
			})
			wg.Go(func() { play(t, s, cmd, chunks) })
		}
		wg.Wait()
	})
	// A subscriber may be connected to any node.
	t.Run("a command's events are published in order", func(t *testing.T) {
		s := newSink(t, rdb)
		for _, node := range cluster.Nodes {
			cmd := newCommand()
			chunks := answer(cmd, 1000)
			sub := connect(t, node.URL()).Subscribe(t.Context(), redissink.ChannelOf(cmd.ID))
			defer sub.Close()
			_, err := sub.Receive(t.Context())
			must(t, err)
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks))
			must(t, s.End(t.Context(), completed(cmd)))
			var got []redissink.Event
			for len(got) <= len(chunks) {
				msg, err := sub.ReceiveMessage(t.Context())
				must(t, err)
				var e redissink.Event
				must(t, e.UnmarshalJSON([]byte(msg.Payload)))
				got = append(got, e)
			}
			wantEvents(t, got, nil, events(cmd, chunks))
		}
	})
	t.Run("a node that hangs holds up only its own commands", func(t *testing.T) {
		hanging := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Password: cluster.Password()})
		defer hanging.Close()
		s, g := newSink(t, hanging), newGate(t)
		hanging.AddHook(g)
		var stuck sync.WaitGroup
		g.holds = make(map[string]bool)
		commands := make([]vehicle.Command, 8) // more than there are pipelines at once
		for i := range commands {
			commands[i] = commandOn(t, rdb, cluster.Nodes[0].Addr())
			g.holds[redissink.ChannelOf(commands[i].ID)] = true
		}
		for i, cmd := range commands { // one by one: those that come together share a pipeline, and then none may wait
			must(t, s.Begin(t.Context(), cmd))
			stuck.Go(func() {
				if err := s.Write(t.Context(), answer(cmd, 1)); err != nil {
					t.Error(err)
				}
			})
			hang := min(i+1, 2) // so many pipelines are under way at once
			eventually(t, "it hangs", func() bool { return g.hanging() == hang && redissink.Waiting(s) == i+1-hang })
		}
		if redissink.Waiting(s) == 0 {
			t.Error("none waits for a pipeline: the test shows nothing")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		other := commandOn(t, rdb, cluster.Nodes[1].Addr())
		must(t, s.Begin(ctx, other))
		if err := s.Write(ctx, answer(other, 1)); err != nil {
			t.Errorf("on another node: %v", err)
		}
		g.open()
		stuck.Wait()
	})
	t.Run("a command is run again while its slot is moved", func(t *testing.T) {
		s, cmd := newSink(t, rdb, streams()), commandOn(t, rdb, cluster.Nodes[0].Addr())
		play(t, s, cmd, answer(cmd, 3))
		from, to := connect(t, cluster.Nodes[0].URL()), connect(t, cluster.Nodes[1].URL())
		slot := from.ClusterKeySlot(t.Context(), redissink.StreamOf(cmd.ID)).Val()
		must(t, to.Do(t.Context(), "CLUSTER", "SETSLOT", slot, "IMPORTING", from.ClusterMyID(t.Context()).Val()).Err())
		must(t, from.Do(t.Context(), "CLUSTER", "SETSLOT", slot, "MIGRATING", to.ClusterMyID(t.Context()).Val()).Err())
		chunks := answer(cmd, 4)
		play(t, s, cmd, chunks)
		got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
		wantEvents(t, got, err, events(cmd, chunks))
		for _, node := range []*redis.Client{to, from} {
			must(t, node.Do(t.Context(), "CLUSTER", "SETSLOT", slot, "NODE", to.ClusterMyID(t.Context()).Val()).Err())
		}
		got, err = collect(redissink.Follow(t.Context(), rdb, cmd.ID))
		wantEvents(t, got, err, events(cmd, chunks))
	})
	t.Run("a node that is down does not fail its commands", func(t *testing.T) {
		down, up := cluster.Nodes[0], cluster.Nodes[1]
		s := newSink(t, rdb, streams(), redissink.WithRetryFor(time.Minute))
		stuck, others := commandOn(t, rdb, down.Addr()), commandOn(t, rdb, up.Addr())
		chunks := answer(stuck, 10)
		f := follow(t, t.Context(), rdb, stuck.ID)
		must(t, s.Begin(t.Context(), stuck))
		must(t, s.Write(t.Context(), chunks[:5]))
		got := make([]redissink.Event, 0, 11)
		for range 5 {
			got = append(got, <-f.seen)
		}
		must(t, down.Crash(t.Context()))
		written := make(chan error, 1)
		go func() { written <- s.Write(t.Context(), chunks[5:]) }()
		play(t, s, others, answer(others, 200))
		select {
		case err := <-written:
			t.Errorf("the node is down, and Write returned %v", err)
		default:
		}
		must(t, down.Start(t.Context()))
		must(t, <-written)
		must(t, s.End(t.Context(), completed(stuck)))
		rest, err := f.rest()
		wantEvents(t, append(got, rest...), err, events(stuck, chunks))
	})
}

func TestSentinelFailsOver(t *testing.T) {
	t.Parallel()
	s, err := servers.StartRedisSentinel(t.Context())
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: servers.SentinelMaster, SentinelAddrs: []string{s.SentinelAddr()}, SentinelPassword: s.Password(), Password: s.Password(),
	})
	t.Cleanup(func() { _ = rdb.Close() })
	sink, cmd := newSink(t, rdb, streams(), redissink.WithRetryFor(time.Minute)), newCommand()
	chunks := answer(cmd, 10)
	f := follow(t, t.Context(), rdb, cmd.ID)
	must(t, sink.Begin(t.Context(), cmd))
	must(t, sink.Write(t.Context(), chunks[:5]))
	got := make([]redissink.Event, 0, 11)
	for range 5 {
		got = append(got, <-f.seen)
	}
	replica := connect(t, s.Replica.URL())
	eventually(t, "the replica has what was written", func() bool {
		return replica.XLen(t.Context(), redissink.StreamOf(cmd.ID)).Val() == 6
	})
	must(t, s.Master.Crash(t.Context()))
	must(t, sink.Write(t.Context(), chunks[5:]))
	must(t, sink.End(t.Context(), completed(cmd)))
	rest, err := f.rest()
	wantEvents(t, append(got, rest...), err, events(cmd, chunks))
	if info := replica.Info(t.Context(), "replication").Val(); !strings.Contains(info, "role:master") {
		t.Error("the replica was not promoted")
	}
}
