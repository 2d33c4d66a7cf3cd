package redissink_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovd-go/vehicle/sink/redissink"
)

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

// A failover, or a restart, loses the first part of a run: what is there is of the run before.
func TestFollowWhereAFailoverLostTheBeginningOfARun(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lost   int
		maxLen int64
	}{
		"before its first chunk": {0, 0}, "and its first chunks": {2, 0},
		"and its first chunks, of a stream that is trimmed": {2, 3}, "and its first chunks, of one shorter than that": {2, 10_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb, cmd := connect(t, sharedURL), newCommand()
			s, key := newSink(t, rdb, redissink.WithStream(test.maxLen, time.Hour)), redissink.StreamOf(cmd.ID)
			play(t, s, cmd, answer(cmd, 2))
			old, err := rdb.Dump(t.Context(), key).Result()
			must(t, err)
			chunks := answer(cmd, 4)
			must(t, s.Begin(t.Context(), cmd))
			must(t, s.Write(t.Context(), chunks[:test.lost]))
			must(t, rdb.RestoreReplace(t.Context(), key, 0, old).Err()) // the new master has not heard of it
			must(t, s.Write(t.Context(), chunks[test.lost:]))
			must(t, s.End(t.Context(), completed(cmd)))
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			if len(got) == 0 && errors.Is(err, redissink.ErrGap) {
				return
			}
			wantEvents(t, got, err, events(cmd, chunks))
		})
	}
}

// Redis does one thing at a time, and XINFO would give it the stream's first and last payload to copy for each write.
func TestAWriteDoesNotLookAtTheWholeStream(t *testing.T) {
	t.Parallel()
	for name, maxLen := range map[string]int64{"a stream that is not trimmed": 0, "one shorter than that": 10_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb, cmd := connect(t, private(t).URL()), newCommand()
			s, chunks := newSink(t, rdb, redissink.WithStream(maxLen, time.Hour)), answer(cmd, 20)
			must(t, s.Begin(t.Context(), cmd))
			must(t, rdb.ConfigResetStat(t.Context()).Err())
			for i := range chunks {
				must(t, s.Write(t.Context(), chunks[i:i+1]))
			}
			stats := rdb.Info(t.Context(), "commandstats").Val()
			if !strings.Contains(stats, "cmdstat_xadd:calls=20,") || strings.Contains(stats, "cmdstat_xinfo") {
				t.Errorf("got these calls, want 20 of XADD and none of XINFO:\n%s", stats)
			}
		})
	}
}

// The End of the first run hangs when the second begins.
func TestTheEndOfARunDoesNotEndTheNext(t *testing.T) {
	t.Parallel()
	rdb, cmd := connect(t, sharedURL), newCommand()
	s, g := newSink(t, rdb), newGate(t)
	must(t, s.Begin(t.Context(), cmd))
	rdb.AddHook(g)
	ended := make(chan error, 1)
	go func() { ended <- s.End(t.Context(), completed(cmd)) }()
	<-g.entered
	must(t, s.Begin(t.Context(), cmd))
	g.open()
	must(t, <-ended)
	must(t, s.Write(t.Context(), answer(cmd, 1)))
	must(t, s.End(t.Context(), completed(cmd)))
}

// The clocks of some systems stand still for milliseconds, as the bubble's does.
func TestRunsOfOneMomentAreDifferentRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rdb, cmd := connect(t, sharedURL), newCommand()
		s, start := newSink(t, rdb, streams()), time.Now()
		play(t, s, cmd, answer(cmd, 2))
		chunks := answer(cmd, 3)
		play(t, s, cmd, chunks)
		if took := time.Since(start); took > 0 {
			t.Fatalf("the clock went on by %v", took)
		}
		got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
		wantEvents(t, got, err, events(cmd, chunks))
	})
}
