package redissink_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
)

func TestFollowGivesEveryEventWheneverItJoins(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	for name, test := range map[string]struct {
		joinAfter int // chunks; -1: before Begin
		first     int32
		chunks    int
	}{
		"before the command":   {-1, 0, 5},
		"after Begin":          {0, 0, 5},
		"in the middle":        {3, 0, 5},
		"after the last chunk": {5, 0, 5},
		"after the command":    {6, 0, 5},
		"before a command that is numbered from one":   {-1, 1, 5},
		"in the middle of one numbered from one":       {3, 1, 5},
		"before a command without chunks":              {-1, 0, 0},
		"after a command without chunks":               {1, 0, 0},
		"after a command of more chunks than one page": {3001, 0, 3000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cmd := newSink(t, rdb, streams()), newCommand()
			chunks := answer(cmd, test.chunks)
			for i := range chunks {
				chunks[i].Seq += test.first
			}
			var f *following
			join := func(now int) {
				if now == test.joinAfter {
					f = follow(t, t.Context(), rdb, cmd.ID)
				}
			}
			join(-1)
			must(t, s.Begin(t.Context(), cmd))
			join(0)
			for i := range chunks {
				must(t, s.Write(t.Context(), chunks[i:i+1]))
				join(i + 1)
			}
			must(t, s.End(t.Context(), completed(cmd)))
			if f == nil {
				got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
				wantEvents(t, got, err, events(cmd, chunks))
				return
			}
			got, err := f.rest()
			wantEvents(t, got, err, events(cmd, chunks))
		})
	}
}

func TestFollowWithoutAStreamGivesWhatIsPublishedAfterItJoined(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	for name, joinAfter := range map[string]int{"before the command": 0, "in the middle": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cmd := newSink(t, rdb), newCommand()
			chunks := answer(cmd, 5)
			must(t, s.Begin(t.Context(), cmd))
			if joinAfter > 0 {
				must(t, s.Write(t.Context(), chunks[:joinAfter]))
			}
			f := follow(t, t.Context(), rdb, cmd.ID)
			must(t, s.Write(t.Context(), chunks[joinAfter:]))
			must(t, s.End(t.Context(), completed(cmd)))
			got, err := f.rest()
			wantEvents(t, got, err, events(cmd, chunks)[joinAfter:])
		})
	}
}

func TestFollowWithoutAStreamDropsWhatIsPublishedAgain(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	all := events(cmd, answer(cmd, 4))
	f := follow(t, t.Context(), rdb, cmd.ID)
	publish := func(events ...redissink.Event) {
		for _, e := range events {
			text, err := e.MarshalJSON()
			must(t, err)
			must(t, rdb.Publish(t.Context(), redissink.ChannelOf(cmd.ID), text).Err())
		}
	}
	publish(all[:3]...)
	must(t, rdb.Publish(t.Context(), redissink.ChannelOf(cmd.ID), `{"event":"progress","command_id":"`+cmd.ID.String()+`"}`).Err())
	publish(all[1:]...)
	publish(all[4])
	got, err := f.rest()
	wantEvents(t, got, err, all)
}

func TestFollowWithoutAStreamSaysWhatItMissed(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	all := events(cmd, answer(cmd, 6))
	f := follow(t, t.Context(), rdb, cmd.ID)
	for _, i := range []int{0, 1, 3} {
		text, err := all[i].MarshalJSON()
		must(t, err)
		must(t, rdb.Publish(t.Context(), redissink.ChannelOf(cmd.ID), text).Err())
	}
	got, err := f.rest()
	wantEvents(t, got, nil, all[:2])
	wantError(t, err, redissink.ErrGap, "redissink: following the events of command "+cmd.ID.String()+
		": events are missing: there is no stream, and the chunks 2 to 2 were not received")
}

func wantError(tb testing.TB, err, is error, text string) {
	tb.Helper()
	if !errors.Is(err, is) || err.Error() != text {
		tb.Errorf("got the error %q,\nwant %q", err, text)
	}
}

func TestFollowSaysWhatIsGone(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	const prefix = "redissink: following the events of command "
	for name, test := range map[string]struct {
		spoil func(t *testing.T, key string)
		given int // events before the error
		text  string
	}{
		"the beginning was trimmed": {
			func(t *testing.T, key string) { must(t, rdb.XTrimMaxLen(t.Context(), key, 3).Err()) },
			0, "events are missing: the stream no longer has the chunks up to 3: it was trimmed, or had to begin anew",
		},
		"one in the middle was lost": {
			func(t *testing.T, key string) {
				entries, err := rdb.XRange(t.Context(), key, "-", "+").Result()
				must(t, err)
				must(t, rdb.XDel(t.Context(), key, entries[3].ID, entries[4].ID).Err())
			},
			2, "events are missing: the stream no longer has the chunks 2 to 3: it was trimmed, or Redis lost them",
		},
		"the last chunk was lost": {
			func(t *testing.T, key string) {
				entries, err := rdb.XRange(t.Context(), key, "-", "+").Result()
				must(t, err)
				must(t, rdb.XDel(t.Context(), key, entries[len(entries)-2].ID).Err())
			},
			5, "events are missing: the stream no longer has the chunks 5 to 5: it was trimmed, or Redis lost them",
		},
	} {
		for how, batch := range map[string]int{"": 1, ", of chunks that came together": 6} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				s, cmd := newSink(t, rdb, streams()), newCommand()
				chunks := answer(cmd, 6)
				must(t, s.Begin(t.Context(), cmd))
				for some := range slices.Chunk(chunks, batch) {
					must(t, s.Write(t.Context(), some))
				}
				must(t, s.End(t.Context(), completed(cmd)))
				test.spoil(t, redissink.StreamOf(cmd.ID))
				got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
				wantEvents(t, got, nil, append([]redissink.Event(nil), events(cmd, chunks)[:test.given]...)[:test.given:test.given])
				wantError(t, err, redissink.ErrGap, prefix+cmd.ID.String()+": "+test.text)
			})
		}
	}
}

func TestFollowDoesNotMissTheMarkOfTheBeginning(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	chunks := answer(cmd, 3)
	play(t, newSink(t, rdb, streams()), cmd, chunks)
	must(t, rdb.XTrimMaxLen(t.Context(), redissink.StreamOf(cmd.ID), 4).Err())
	got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
	wantEvents(t, got, err, events(cmd, chunks))
}

func TestWithStreamTrims(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	s := newSink(t, rdb, redissink.WithStream(100, time.Hour))
	play(t, s, cmd, answer(cmd, 1000))
	n, err := rdb.XLen(t.Context(), redissink.StreamOf(cmd.ID)).Result()
	if err != nil || n < 100 || n > 200 {
		t.Errorf("got %d entries, %v, want about 100", n, err)
	}
	got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
	if len(got) > 0 || !errors.Is(err, redissink.ErrGap) {
		t.Errorf("got %d events and the error %v, want none and ErrGap", len(got), err)
	}
}

func TestWithStreamExpires(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	key := redissink.StreamOf(cmd.ID)
	s := newSink(t, rdb, redissink.WithStream(0, time.Minute))
	refreshed := func(call string) {
		ttl, err := rdb.PTTL(t.Context(), key).Result()
		if err != nil || ttl <= 30*time.Second || ttl > time.Minute {
			t.Errorf("after %s: the time to live is %v, %v, want about a minute", call, ttl, err)
		}
		must(t, rdb.PExpire(t.Context(), key, 30*time.Second).Err())
	}
	must(t, s.Begin(t.Context(), cmd))
	refreshed("Begin")
	must(t, s.Write(t.Context(), answer(cmd, 1)))
	refreshed("Write")
	must(t, s.End(t.Context(), completed(cmd)))
	refreshed("End")
	for call, ttl := range map[string]time.Duration{"zero": 0, "negative": -time.Second} {
		s, cmd := newSink(t, rdb, redissink.WithStream(-1, ttl)), newCommand()
		kept := func() {
			t.Helper()
			if got, err := rdb.PTTL(t.Context(), redissink.StreamOf(cmd.ID)).Result(); err != nil || got != -1 {
				t.Errorf("ttl %s: the time to live is %v, %v, want none", call, got, err)
			}
		}
		must(t, s.Begin(t.Context(), cmd))
		kept()
		must(t, s.Write(t.Context(), answer(cmd, 1)))
		kept()
		must(t, rdb.Del(t.Context(), redissink.StreamOf(cmd.ID)).Err())
	}
}

func TestFollowOfAnExpiredStreamWaitsUntilCtxEnds(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	play(t, newSink(t, rdb, redissink.WithStream(0, time.Millisecond)), cmd, answer(cmd, 1))
	eventually(t, "the stream has expired", func() bool { return rdb.Exists(t.Context(), redissink.StreamOf(cmd.ID)).Val() == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	f := follow(t, ctx, rdb, cmd.ID)
	cancel()
	got, err := f.rest()
	if len(got) > 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v and the error %v, want none and Canceled", got, err)
	}
}

func TestFollowOfAStreamThatExpiresUnderItEnds(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	s := newSink(t, rdb, streams())
	chunks := answer(cmd, 2)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks[:1]))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // or it would wait for ever
	defer cancel()
	var got []redissink.Event
	var err error
	for e, failed := range redissink.FollowEvery(ctx, rdb, cmd.ID, 50*time.Millisecond, time.Minute) {
		if failed != nil {
			err = failed
			break
		}
		got = append(got, e)
		// Not sooner: a follower that finds no stream waits for one.
		must(t, rdb.PExpire(t.Context(), redissink.StreamOf(cmd.ID), time.Millisecond).Err())
	}
	wantEvents(t, got, nil, events(cmd, chunks)[:1:1])
	wantError(t, err, redissink.ErrGap, "redissink: following the events of command "+cmd.ID.String()+
		": events are missing: the stream has expired or was deleted, and the command had not ended")
}

// What a follower has had is enough to go on, also in a stream that had to begin anew.
func TestFollowGoesOnInAStreamThatWasLostBehindIt(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	s, chunks := newSink(t, rdb, streams()), answer(cmd, 3)
	f := follow(t, t.Context(), rdb, cmd.ID)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks[:2]))
	got := []redissink.Event{<-f.seen, <-f.seen}
	must(t, rdb.Del(t.Context(), redissink.StreamOf(cmd.ID)).Err())
	must(t, s.Write(t.Context(), chunks[2:]))
	must(t, s.End(t.Context(), completed(cmd)))
	rest, err := f.rest()
	wantEvents(t, append(got, rest...), err, events(cmd, chunks))
	if _, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID)); !errors.Is(err, redissink.ErrGap) {
		t.Errorf("a follower that comes later: got %v, want ErrGap", err)
	}
}

func TestFollowOfACommandThatIsRunAgain(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	other := func(cmd vehicle.Command) []vehicle.Chunk {
		chunks := answer(cmd, 4)
		for i := range chunks {
			chunks[i].Payload = []byte(`"another answer"`)
		}
		return chunks
	}
	t.Run("after the first run, it gives the second", func(t *testing.T) {
		t.Parallel()
		cmd, s := newCommand(), newSink(t, rdb, streams())
		play(t, s, cmd, answer(cmd, 6))
		play(t, s, cmd, other(cmd))
		got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
		wantEvents(t, got, err, events(cmd, other(cmd)))
	})
	t.Run("after the first run, it gives the second, which is longer than the stream shall be", func(t *testing.T) {
		t.Parallel()
		cmd, s := newCommand(), newSink(t, rdb, redissink.WithStream(3, time.Hour))
		play(t, s, cmd, answer(cmd, 2))
		must(t, s.Begin(t.Context(), cmd))
		must(t, s.Write(t.Context(), other(cmd)))
		must(t, s.End(t.Context(), completed(cmd)))
		got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
		wantEvents(t, got, err, events(cmd, other(cmd)))
	})
	t.Run("before the first event, it goes on to the second run", func(t *testing.T) {
		t.Parallel()
		cmd, s := newCommand(), newSink(t, rdb, streams())
		must(t, s.Begin(t.Context(), cmd))
		f := follow(t, t.Context(), rdb, cmd.ID)
		play(t, s, cmd, other(cmd))
		got, err := f.rest()
		wantEvents(t, got, err, events(cmd, other(cmd)))
	})
	t.Run("in the middle of the first run, it ends", func(t *testing.T) {
		t.Parallel()
		cmd, s := newCommand(), newSink(t, rdb, streams())
		chunks := answer(cmd, 6)
		must(t, s.Begin(t.Context(), cmd))
		must(t, s.Write(t.Context(), chunks[:2]))
		f := follow(t, t.Context(), rdb, cmd.ID)
		got := []redissink.Event{<-f.seen, <-f.seen}
		play(t, s, cmd, other(cmd))
		rest, err := f.rest()
		wantEvents(t, append(got, rest...), nil, events(cmd, chunks)[:2:2])
		wantError(t, err, redissink.ErrRestarted, "redissink: following the events of command "+cmd.ID.String()+": the command was run again")
	})
	t.Run("by a clock that is behind, after the stream was lost", func(t *testing.T) {
		t.Parallel()
		cmd, key := newCommand(), ""
		key = redissink.StreamOf(cmd.ID)
		must(t, rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: key, ID: "9000000000000000-0", Values: []string{"p", "0", "e", ""}}).Err())
		f := follow(t, t.Context(), rdb, cmd.ID)
		must(t, rdb.Del(t.Context(), key).Err())
		play(t, newSink(t, rdb, streams()), cmd, other(cmd))
		got, err := f.rest()
		wantEvents(t, got, err, events(cmd, other(cmd)))
	})
}

// The caller of Begin leaves while the stream is being reset: nobody will call End.
func TestFollowOfACommandThatBeganInVainEnds(t *testing.T) {
	t.Parallel()
	direct, rdb, cmd := connect(t, sharedURL), connect(t, sharedURL), newCommand()
	play(t, newSink(t, direct, streams()), cmd, answer(cmd, 2)) // an earlier run, which is replaced
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left := make(chan struct{})
	rdb.AddHook(after(func([]redis.Cmder) {
		cancel()
		<-left
	}))
	s := redissink.New(rdb, streams())
	err := s.Begin(ctx, cmd)
	close(left)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	must(t, s.Close(t.Context()))
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	got, err := collect(redissink.Follow(ctx, direct, cmd.ID))
	must(t, err)
	if len(got) != 1 || got[0].Event != "error" || got[0].CommandID != cmd.ID {
		t.Errorf("got %+v, want an error event", got)
	}
}

// after is a hook that runs when a pipeline has come back.
type after func([]redis.Cmder)

func (after) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (after) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (a after) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		a(cmds)
		return err
	}
}

func TestFollowIsReleased(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	for name, opts := range map[string][]redissink.Option{"with a stream": {streams()}, "without": nil} {
		t.Run("by breaking out, "+name, func(t *testing.T) {
			t.Parallel()
			s, cmd := newSink(t, rdb, opts...), newCommand()
			must(t, s.Begin(t.Context(), cmd))
			done := make(chan struct{})
			go func() {
				defer close(done)
				for _, err := range redissink.Follow(t.Context(), rdb, cmd.ID) {
					if err != nil {
						t.Error(err)
					}
					break
				}
			}()
			eventually(t, "the follower has subscribed", func() bool { return subscribers(t, rdb, cmd.ID) == 1 })
			must(t, s.Write(t.Context(), answer(cmd, 3)))
			<-done
			eventually(t, "the follower has gone", func() bool { return subscribers(t, rdb, cmd.ID) == 0 })
		})
	}
	t.Run("by a panic in the loop", func(t *testing.T) {
		t.Parallel()
		s, cmd := newSink(t, rdb, streams()), newCommand()
		play(t, s, cmd, answer(cmd, 1))
		func() {
			defer func() { _ = recover() }()
			for _, err := range redissink.Follow(t.Context(), rdb, cmd.ID) {
				panic(err)
			}
		}()
		eventually(t, "the follower has gone", func() bool { return subscribers(t, rdb, cmd.ID) == 0 })
	})
	t.Run("by ctx, at once", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cmd := newCommand()
		f := follow(t, ctx, rdb, cmd.ID)
		start := time.Now()
		cancel()
		_, err := f.rest()
		if took := time.Since(start); !errors.Is(err, context.Canceled) || took > time.Second {
			t.Errorf("got %v after %v, want Canceled at once", err, took)
		}
	})
	t.Run("by ctx, without a stream", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		s, cmd := newSink(t, rdb), newCommand()
		f := follow(t, ctx, rdb, cmd.ID)
		must(t, s.Begin(t.Context(), cmd))
		must(t, s.Write(t.Context(), answer(cmd, 2)[:1]))
		<-f.seen
		cancel()
		if _, err := f.rest(); !errors.Is(err, context.Canceled) || errors.Is(err, redissink.ErrGap) {
			t.Errorf("got %v, want Canceled, and no gap", err)
		}
	})
	t.Run("by what Redis refuses", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := newCommand()
		must(t, rdb.Set(ctx, redissink.StreamOf(cmd.ID), "no stream", time.Minute).Err())
		_, err := collect(redissink.Follow(ctx, rdb, cmd.ID))
		if err == nil || !strings.Contains(err.Error(), ": WRONGTYPE Operation against a key holding the wrong kind of value") || ctx.Err() != nil {
			t.Errorf("got %v, want what Redis says, at once", err)
		}
	})
	t.Run("by a ctx that has ended, before anything else", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		if _, err := collect(redissink.Follow(ctx, rdb, newCommand().ID)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
	})
}

func TestFollowMayBeRunAgain(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	chunks := answer(cmd, 2)
	play(t, newSink(t, rdb, streams()), cmd, chunks)
	seq := redissink.Follow(t.Context(), rdb, cmd.ID)
	for range 2 {
		got, err := collect(seq)
		wantEvents(t, got, err, events(cmd, chunks))
	}
}

func TestAThousandFollowersShareASmallPool(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL, func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 2, time.Minute })
	s, cmd := newSink(t, connect(t, sharedURL), streams()), newCommand()
	chunks := answer(cmd, 20)
	const followers = 1000
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for range followers {
		wg.Go(func() {
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			if err != nil || len(got) != len(chunks)+1 {
				t.Errorf("got %d events, %v, want %d", len(got), err, len(chunks)+1)
			}
		})
	}
	eventually(t, "all followers have subscribed", func() bool { return subscribers(t, rdb, cmd.ID) == followers })
	play(t, s, cmd, chunks)
	wg.Wait() // before t's context ends
}
