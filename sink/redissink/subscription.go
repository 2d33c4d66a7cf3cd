package redissink

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// subscription receives from channels over a connection of its own, until that is lost: go-redis would
// connect again behind our back, and what was published meanwhile would be missing without a word.
//
// Its receiving has no timeout, since one that strikes in the middle of a message leaves the rest of it
// to be read as the next. A timer probes the connection instead, and closes it if it is dead.
type subscription struct {
	pubsub *redis.PubSub
	beat   time.Duration
	stop   func() bool // following ctx

	// What is done over the connection ends with ctx, and not at its deadline: the connection's own would strike before ctx says
	// that it has ended, and look like a connection that was lost.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	timer   *time.Timer
	waiting bool // in next
	probed  bool // and nothing has come since
	dead    bool
}

// subscribe returns when the subscription holds.
func subscribe(ctx context.Context, rdb redis.UniversalClient, beat time.Duration, channels ...string) (*subscription, error) {
	if ring, ok := rdb.(*redis.Ring); ok { // which panics where it has no shard, and without a channel
		shard, err := ring.GetShardClientForKey(channels[0])
		if err != nil {
			return nil, err
		}
		rdb = shard
	}
	s := &subscription{pubsub: rdb.Subscribe(ctx), beat: beat}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.stop = context.AfterFunc(ctx, func() {
		s.cancel() // a dial, which Close would wait for
		_ = s.pubsub.Close()
	})
	s.timer = time.AfterFunc(beat, s.probe)
	if err := s.pubsub.Subscribe(s.ctx, channels...); err != nil {
		s.close()
		return nil, err
	}
	for confirmed := 0; confirmed < len(channels); {
		received, err := s.receive()
		if err != nil {
			s.close()
			return nil, err
		}
		if _, ok := received.(*redis.Subscription); ok {
			confirmed++
		}
	}
	return s, nil
}

// next waits for a message. It returns nil when there was none for a while and the connection lives.
func (s *subscription) next() (*redis.Message, error) {
	for {
		received, err := s.receive()
		if err != nil {
			return nil, err
		}
		switch received := received.(type) {
		case *redis.Message:
			return received, nil
		case *redis.Pong:
			return nil, nil
		}
	}
}

func (s *subscription) receive() (any, error) {
	s.wait(true)
	received, err := s.pubsub.Receive(s.ctx)
	s.wait(false)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dead {
			return nil, fmt.Errorf("%w: nothing was received for %v", errSilent, 2*s.beat)
		}
		return nil, err
	}
	return received, nil
}

// wait lets the timer run while something is waited for: a caller may take its time over an event.
func (s *subscription) wait(waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting, s.probed = waiting, false
	if waiting {
		s.timer.Reset(s.beat)
	} else {
		s.timer.Stop()
	}
}

// probe runs when nothing has come for a beat: it asks for an answer, and the next time, closes the
// connection.
func (s *subscription) probe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.waiting || s.dead:
	case s.probed:
		s.dead = true
		_ = s.pubsub.Close()
	default:
		s.probed = true
		s.timer.Reset(s.beat)
		_ = s.pubsub.Ping(s.ctx) // if it fails, nothing comes
	}
}

// leave unsubscribes. What the channel had sent before may still come.
func (s *subscription) leave(channel string) error {
	return s.pubsub.Unsubscribe(s.ctx, channel)
}

func (s *subscription) close() {
	s.stop()
	s.cancel()
	s.wait(false)
	_ = s.pubsub.Close()
}
