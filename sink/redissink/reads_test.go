package redissink_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle/sink/redissink"
)

// called is a hook that is told of each command outside of pipelines, and may have it fail.
type called func(cmd redis.Cmder) error

func (called) DialHook(next redis.DialHook) redis.DialHook { return next }
func (called) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (c called) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if failed := c(cmd); failed != nil {
			if read, ok := cmd.(*redis.XMessageSliceCmd); ok {
				read.SetVal(nil)
			}
			cmd.SetErr(failed)
			return failed
		}
		return err
	}
}

// A follower holds what it reads at once in memory, and Redis serves nobody else meanwhile.
func TestFollowReadsAboutAMegabyteAtOnce(t *testing.T) {
	t.Parallel()
	const mega = 1 << 20
	for name, test := range map[string]struct {
		sizes                 []int // of payloads
		fail                  int   // so many reads, at first
		reads, entries, bytes int   // at most
	}{
		"of small chunks, a thousand":                   {slices.Repeat([]int{10}, 5000), 0, 10, 1000, mega},
		"of chunks that grow, little more than before":  {append([]int{10, 10, 10}, slices.Repeat([]int{64 << 10}, 57)...), 0, 7, 16, mega + mega/8},
		"of chunks that are larger, one":                {slices.Repeat([]int{mega + mega/4}, 6), 0, 6, 4, 4 * mega},
		"and goes on behind a mark that it read alone":  {[]int{10, 10}, 1, 5, 4, mega},
		"and goes on when the smallest read has failed": {[]int{10, 10}, 2, 6, 4, mega},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			direct, rdb, cmd := connect(t, sharedURL), connect(t, sharedURL), newCommand()
			s, chunks := newSink(t, direct, streams()), answer(cmd, len(test.sizes))
			for i, size := range test.sizes {
				chunks[i].Payload = []byte(`"` + strings.Repeat("x", size-2) + `"`)
			}
			must(t, s.Begin(ctx, cmd))
			must(t, s.Write(ctx, chunks))
			must(t, s.End(ctx, completed(cmd)))
			reads, entries, bytes := 0, 0, 0
			rdb.AddHook(called(func(cmd redis.Cmder) error {
				read, ok := cmd.(*redis.XMessageSliceCmd)
				if !ok {
					return nil
				}
				if reads++; reads <= test.fail {
					return io.EOF
				}
				size := 0
				for _, x := range read.Val() {
					text, _ := x.Values["e"].(string)
					size += len(text)
				}
				entries, bytes = max(entries, len(read.Val())), max(bytes, size)
				return nil
			}))
			got, err := collect(redissink.Follow(ctx, rdb, cmd.ID))
			if err != nil || numbers(got) != wantNumbers(len(chunks)) {
				t.Errorf("got %d events and %v, want %d and none", len(got), err, len(chunks)+1)
			}
			if reads > test.reads || entries > test.entries || bytes > test.bytes {
				t.Errorf("got %d reads of up to %d entries and %d bytes, want at most %d, %d, %d", reads, entries, bytes, test.reads, test.entries, test.bytes)
			}
		})
	}
}

func TestFollowEndsAtOnceWithWhatItCannotRead(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	const foreign = "the stream has an entry that is not of a Sink"
	for name, test := range map[string]struct {
		values []string
		text   string
	}{
		"an entry without an event":         {[]string{"p", "0"}, foreign},
		"an entry without a predecessor":    {[]string{"e", "{}"}, foreign},
		"an entry with an event of no kind": {[]string{"p", "0", "e", "{}"}, foreign + ": redissink: the event has no command_id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // it would be tried for a minute
			defer cancel()
			cmd := newCommand()
			must(t, rdb.XAdd(ctx, &redis.XAddArgs{Stream: redissink.StreamOf(cmd.ID), ID: "1-1", Values: test.values}).Err())
			got, err := collect(redissink.Follow(ctx, rdb, cmd.ID))
			if len(got) > 0 || err == nil || !strings.HasSuffix(err.Error(), test.text) {
				t.Errorf("got %v and the error %v, want none and that %s", got, err, test.text)
			}
		})
	}
}

func TestFollowWithoutAStreamEndsWithWhatItCannotRead(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	f := follow(t, t.Context(), rdb, cmd.ID)
	must(t, rdb.Publish(t.Context(), redissink.ChannelOf(cmd.ID), `{"event":"status"}`).Err())
	if got, err := f.rest(); len(got) > 0 || !errors.Is(err, redissink.ErrGap) {
		t.Errorf("got %v and the error %v, want none and ErrGap", got, err)
	}
}

func TestFollowWithoutAStreamBearsSilence(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, private(t).URL()), newCommand()
	s, chunks := newSink(t, rdb), answer(cmd, 2)
	must(t, s.Begin(t.Context(), cmd))
	must(t, rdb.ConfigResetStat(t.Context()).Err())
	f := follows(t, redissink.FollowEvery(t.Context(), rdb, cmd.ID, 300*time.Millisecond, time.Minute))
	eventually(t, "the follower has subscribed", func() bool { return subscribers(t, rdb, cmd.ID) == 1 })
	must(t, s.Write(t.Context(), chunks[:1]))
	seen := <-f.seen
	eventually(t, "the connection was probed again", func() bool {
		return len(f.err) > 0 || strings.Contains(rdb.Info(t.Context(), "commandstats").Val(), "cmdstat_ping:calls=2,")
	})
	must(t, s.Write(t.Context(), chunks[1:]))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := f.rest()
	wantEvents(t, append([]redissink.Event{seen}, got...), err, events(cmd, chunks))
}

// Only what Redis says of a stream tells that it is gone.
func TestFollowDoesNotTakeAReadThatFailedForALoss(t *testing.T) {
	t.Parallel()
	direct, rdb, cmd := connect(t, sharedURL), connect(t, sharedURL), newCommand()
	s, chunks := newSink(t, direct, streams()), answer(cmd, 2)
	must(t, s.Begin(t.Context(), cmd))
	failed := make(chan struct{})
	var looks atomic.Int32
	rdb.AddHook(called(func(cmd redis.Cmder) error {
		if cmd.Name() == "xrevrange" && looks.Add(1) == 1 {
			close(failed)
			return io.EOF
		}
		return nil
	}))
	f := follows(t, redissink.FollowEvery(t.Context(), rdb, cmd.ID, 20*time.Millisecond, time.Minute))
	<-failed
	must(t, s.Write(t.Context(), chunks))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := f.rest()
	wantEvents(t, got, err, events(cmd, chunks))
}

// A replica may be behind what is announced; or the stream is gone.
func TestFollowDoesNotLookForWhatIsAnnouncedForEver(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	s, chunks, key := newSink(t, rdb, streams()), answer(cmd, 2), redissink.StreamOf(cmd.ID)
	must(t, s.Begin(t.Context(), cmd))
	must(t, s.Write(t.Context(), chunks[:1]))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := follows(t, redissink.FollowEvery(ctx, rdb, cmd.ID, time.Hour, time.Minute))
	<-f.seen
	must(t, rdb.Del(ctx, key).Err())
	must(t, rdb.Publish(ctx, key, "9000000000000000-1").Err())
	if got, err := f.rest(); len(got) > 0 || !errors.Is(err, redissink.ErrGap) {
		t.Errorf("got %v and the error %v, want none and ErrGap", got, err)
	}
}

func TestTheTimeThatACommandIsSilentIsNoTimeWithoutRedis(t *testing.T) {
	t.Parallel()
	const beat, patience = 20 * time.Millisecond, time.Second
	direct, cmd := connect(t, sharedURL), newCommand()
	p, url := newProxy(t, sharedURL, "nothing")
	rdb := connect(t, url)
	s, chunks := newSink(t, direct, streams()), answer(cmd, 2)
	var silent atomic.Int32
	rdb.AddHook(called(func(cmd redis.Cmder) error {
		if cmd.Name() == "xrange" {
			silent.Add(1)
		}
		return nil
	}))
	must(t, s.Begin(t.Context(), cmd))
	f := follows(t, redissink.FollowEvery(t.Context(), rdb, cmd.ID, beat, patience))
	eventually(t, "it was silent for long", func() bool { return silent.Load() > int32(patience/beat)+10 })
	p.cut()
	must(t, s.Write(t.Context(), chunks))
	must(t, s.End(t.Context(), completed(cmd)))
	got, err := f.rest()
	wantEvents(t, got, err, events(cmd, chunks))
}
