package redissink_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

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
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
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
