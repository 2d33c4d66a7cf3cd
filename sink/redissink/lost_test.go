package redissink_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle/sink/redissink"
)

// The reset of the stream was done, its answer lost, and the caller of Begin left: nobody will call End.
func TestFollowOfACommandThatBeganInVainEndsWhereTheAnswerWasLost(t *testing.T) {
	t.Parallel()
	for name, retries := range map[string]time.Duration{"the caller leaves": time.Hour, "the retries end": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct, cmd := connect(t, sharedURL), newCommand()
			play(t, newSink(t, direct, streams()), cmd, answer(cmd, 2)) // an earlier run, which is replaced
			p, url := newProxy(t, sharedURL, "evalsha")
			rdb := connect(t, url, func(o *redis.Options) { o.MaxRetries = -1 })
			s := redissink.New(rdb, streams(), redissink.WithRetryFor(retries))
			p.losing.Store(1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if retries == time.Hour {
				rdb.AddHook(lost(cancel))
			} else {
				p.losing.Store(1 << 30)
			}
			if err := s.Begin(ctx, cmd); err == nil {
				t.Fatal("got no error from Begin")
			}
			p.losing.Store(0)
			must(t, s.Close(t.Context()))
			ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			got, err := collect(redissink.Follow(ctx, direct, cmd.ID))
			if err != nil || len(got) != 1 || got[0].Event != "error" {
				t.Errorf("got %+v, %v, want an error event", got, err)
			}
		})
	}
}

func TestTheFirstRunGoesOnBeforeTheSecondHasWritten(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := connect(t, sharedURL)
			s, cmd := newSink(t, rdb, opts...), newCommand()
			chunks := answer(cmd, 4)
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks[:2]))
			must(t, s.Begin(t.Context(), cmd))
			if err := s.Write(t.Context(), chunks[2:]); !errors.Is(err, redissink.ErrSuperseded) {
				t.Errorf("the first run goes on: got %v, want ErrSuperseded", err)
			}
			if err := s.Write(t.Context(), chunks); err != nil {
				t.Errorf("the second run: %v", err)
			}
			must(t, s.End(t.Context(), completed(cmd)))
			if opts == nil {
				return
			}
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			wantEvents(t, got, err, events(cmd, chunks))
		})
	}
}

func TestATinyTimeToLiveIsNotForEver(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	play(t, newSink(t, rdb, redissink.WithStream(0, 500*time.Microsecond)), cmd, answer(cmd, 1))
	if got, err := rdb.PTTL(t.Context(), redissink.StreamOf(cmd.ID)).Result(); err != nil || got == -1 {
		t.Errorf("the time to live is %v, %v, want about a millisecond", got, err)
	}
}

// A failover loses the beginning of a run: what is there is of the run before.
func TestFollowWhereAFailoverLostTheBeginningOfARun(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	s, key := newSink(t, rdb, streams()), redissink.StreamOf(cmd.ID)
	play(t, s, cmd, answer(cmd, 2))
	old, err := rdb.Dump(t.Context(), key).Result()
	must(t, err)
	chunks := answer(cmd, 4)
	must(t, s.Begin(t.Context(), cmd))
	must(t, rdb.RestoreReplace(t.Context(), key, 0, old).Err()) // the new master has not heard of it
	must(t, s.Write(t.Context(), chunks))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
	if errors.Is(err, redissink.ErrGap) {
		return
	}
	wantEvents(t, got, err, events(cmd, chunks))
}

// lost is a hook that runs when a call of a script has failed.
type lost func()

func (lost) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (lost) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (l lost) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if err != nil && cmds[0].Name() == "evalsha" {
			l()
		}
		return err
	}
}
