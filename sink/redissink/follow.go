package redissink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// Follow iterates a command's events, each once and in order, and ends after the last, which is a status
// or an error event. An error is yielded once, beside a zero Event, and is the last thing: ctx's error,
// [ErrGap], [ErrRestarted], or Redis' own. Breaking out of the loop releases everything. The loop may be
// run several times, and each starts from the beginning.
//
// Where the publisher keeps streams ([WithStream]), Follow gives every event from the first one on, may
// join before, during or after the command, and survives restarts of Redis, if they keep the stream. A
// loop that is slow loses nothing, as long as the stream is not trimmed or expired under it. A command
// that was run again has the events of its last run.
//
// Where it does not, Follow gives what is published after it joined, drops what is published twice, and
// ends with ErrGap when its connection is lost, or a sequence number is missing: nothing tells what came
// meanwhile. In such events two runs of a command cannot be told apart.
//
// Where there is nothing to see, Follow waits until ctx ends: the command has not begun, its stream has
// expired, or it ended before Follow joined and there was no stream.
//
// While Redis cannot be reached Follow tries again, for a minute at most without success. A follower
// holds one connection of its own, outside the client's pool, and borrows one from the pool for each
// read of a stream, which does not block. It has no goroutine. Redis counts connections (maxclients,
// 10,000 by default); so should who serves that many followers.
func Follow(ctx context.Context, rdb redis.UniversalClient, commandID uuid.UUID) iter.Seq2[Event, error] {
	return followEvery(ctx, rdb, commandID, followBeat, followPatience)
}

const (
	// followBeat is how long a connection may be silent before it is probed; after another it is dead.
	// The stream is looked at as often, whether or not something was announced.
	followBeat = 15 * time.Second
	// followPatience is how long Follow goes on without reaching Redis.
	followPatience = time.Minute
)

func followEvery(ctx context.Context, rdb redis.UniversalClient, commandID uuid.UUID, beat, patience time.Duration) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := &follower{
			rdb: rdb, channel: channelOf(commandID), stream: streamOf(commandID), yield: yield,
			beat: beat, patience: patience, page: 4, seq: -1, reached: time.Now(),
		}
		if err := f.run(ctx); err != nil && !errors.Is(err, errDone) {
			yield(Event{}, &opError{op: "following the events", commandID: commandID, err: err})
		}
	}
}

// errDone ends a follower without an error: the last event was given, or the caller wants no more.
var errDone = errors.New("done")

// follower is one loop over a command's events. It subscribes first and reads the stream then, so
// that nothing falls between the two.
type follower struct {
	rdb             redis.UniversalClient
	channel, stream string
	yield           func(Event, error) bool
	beat, patience  time.Duration

	source  source
	given   bool      // at least one event
	reached time.Time // Redis, last
	// Of a stream.
	at   entryID // the last entry that was read; run 0: none
	page int64   // entries to read at once
	// Of a live follower.
	seq int64 // of the last response that was given; -1: none
}

// source is where the events come from. The publisher decides, and the first that comes of it tells.
type source int

const (
	unknown source = iota
	streamed
	live
)

// run follows over one subscription after the other.
func (f *follower) run(ctx context.Context) error {
	delays := newDelays()
	for {
		before := f.reached
		err := f.follow(ctx)
		if f.reached.After(before) {
			delays.Reset()
		}
		switch {
		case errors.Is(err, errDone), errors.Is(err, ErrGap), errors.Is(err, ErrRestarted):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case !transient(err):
			return err
		case f.source == live:
			return fmt.Errorf("%w: there is no stream and the subscription was lost: %w", ErrGap, err)
		case time.Since(f.reached) > f.patience:
			return fmt.Errorf("%w (retried for %v)", err, f.patience)
		}
		if err := sleep(ctx, delays.NextBackOff()); err != nil {
			return err
		}
	}
}

// sleep waits for d, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// channels are those to subscribe to. Once a stream is there, the events' own channel brings nothing.
func (f *follower) channels() []string {
	if f.source == streamed {
		return []string{f.stream}
	}
	return []string{f.channel, f.stream}
}

// follow subscribes and gives events until the subscription is lost.
func (f *follower) follow(ctx context.Context) error {
	sub, err := subscribe(ctx, f.rdb, f.beat, f.channels()...)
	if err != nil {
		return err
	}
	defer sub.close()
	if err := f.poll(ctx, sub); err != nil {
		return err
	}
	for {
		f.reached = time.Now()
		msg, err := sub.next()
		if err != nil {
			return err
		}
		switch {
		case msg == nil: // a beat
			err = f.poll(ctx, sub)
		case msg.Channel == f.stream && f.source != live:
			err = f.announced(ctx, sub, msg.Payload)
		case msg.Channel == f.channel && f.source != streamed:
			f.source = live // the announcement would have come first
			err = f.message(msg.Payload)
		}
		if err != nil {
			return err
		}
	}
}

// poll reads the stream unasked, and finds out if it is gone.
func (f *follower) poll(ctx context.Context, sub *subscription) error {
	if f.source == live {
		return nil
	}
	n, err := f.read(ctx)
	if err == nil && n == 0 && f.at.run != 0 {
		if err = f.stillThere(ctx); err == nil && f.at.run == 0 {
			n, err = f.read(ctx)
		}
	}
	if err != nil || n == 0 {
		return err
	}
	return f.foundStream(sub)
}

// foundStream leaves the events' own channel to others.
func (f *follower) foundStream(sub *subscription) error {
	if f.source == streamed {
		return nil
	}
	f.source = streamed
	return sub.leave(f.channel)
}

// stillThere fails where a stream that had entries has none, or those of an older clock's run.
func (f *follower) stillThere(ctx context.Context) error {
	last, err := f.rdb.XRevRangeN(ctx, f.stream, "+", "-", 1).Result()
	if err != nil {
		return err
	}
	if len(last) == 0 {
		return fmt.Errorf("%w: the stream has expired or was deleted, and the command had not ended", ErrGap)
	}
	if id, ok := parseEntryID(last[0].ID); ok && id.run < f.at.run {
		return f.restart()
	}
	return nil
}

// restart turns to another run, unless the caller has had events of this one.
func (f *follower) restart() error {
	if f.given {
		return ErrRestarted
	}
	f.at = entryID{}
	return nil
}

// announced reads what an announcement says is there.
func (f *follower) announced(ctx context.Context, sub *subscription, text string) error {
	if err := f.foundStream(sub); err != nil {
		return err
	}
	top, ok := parseEntryID(text)
	if !ok || top.run < f.at.run { // not ours, or of a run that has been replaced
		return f.poll(ctx, sub)
	}
	// A client that reads from replicas may ask one that is behind.
	for delay := time.Millisecond; f.at.before(top); delay *= 2 {
		if _, err := f.read(ctx); err != nil {
			return err
		}
		if !f.at.before(top) {
			return nil
		}
		if delay > time.Second {
			return f.stillThere(ctx)
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
	}
	return nil
}

// read gives what the stream has beyond f.at, and says how many entries that were.
func (f *follower) read(ctx context.Context) (int, error) {
	for total := 0; ; {
		from := "-"
		if f.at.run != 0 {
			from = "(" + f.at.String()
		}
		entries, err := f.rdb.XRangeN(ctx, f.stream, from, "+", f.page).Result()
		if err != nil {
			f.page = max(f.page/4, 1) // it may be more than Redis' limits for a client, or the time to read it, allow
			return total, err
		}
		total += len(entries)
		bytes := 0
		for _, entry := range entries {
			n, err := f.entry(entry)
			if err != nil {
				return total, err
			}
			bytes += n
		}
		if int64(len(entries)) < f.page {
			return total, nil
		}
		f.page = nextPage(f.page, bytes)
	}
}

// nextPage keeps what is read at once, and is held in memory, at about pageBytes.
func nextPage(page int64, bytes int) int64 {
	fitting := page * pageBytes / int64(max(bytes, 1))
	return min(max(fitting, 1), 4*page, maxPage)
}

const (
	pageBytes = 1 << 20
	maxPage   = 1000
)

// entry gives the event of one entry of the stream, if it is the one that follows, and returns its size.
func (f *follower) entry(x redis.XMessage) (int, error) {
	id, ok := parseEntryID(x.ID)
	p, _ := x.Values["p"].(string)
	before, err := strconv.ParseUint(p, 10, 64)
	text, okText := x.Values["e"].(string)
	if !ok || err != nil || !okText {
		return 0, errForeign
	}
	if f.at.run != 0 && id.run != f.at.run {
		if err := f.restart(); err != nil {
			return 0, err
		}
	}
	if f.at.run == 0 {
		f.at = entryID{run: id.run}
	}
	if before > f.at.n {
		return 0, missing(f.at.n, before)
	}
	f.at = id
	if id.n == beginEntry {
		return len(text), nil
	}
	var e Event
	if err := e.UnmarshalJSON([]byte(text)); err != nil {
		return 0, fmt.Errorf("%w: %w", errForeign, err)
	}
	return len(text), f.give(e)
}

// missing says what is missing: had is the last entry that the follower has had, before the one that
// precedes the next it could get.
func missing(had, before uint64) error {
	if had == beginEntry {
		return fmt.Errorf("%w: the stream no longer has the chunks up to %d: it was trimmed, or had to begin anew", ErrGap, before-1)
	}
	return fmt.Errorf("%w: the stream no longer has the chunks %d to %d: it was trimmed, or Redis lost them", ErrGap, had, before-1)
}

// message gives an event that was published and is kept nowhere.
func (f *follower) message(text string) error {
	var e Event
	switch err := e.UnmarshalJSON([]byte(text)); {
	case errors.Is(err, errUnknownKind):
		return nil // others may publish more
	case err != nil:
		return err
	}
	if !e.terminal() {
		seq := int64(e.Seq)
		switch {
		case f.seq >= 0 && seq <= f.seq:
			return nil // published again
		case f.seq >= 0 && seq > f.seq+1:
			return fmt.Errorf("%w: there is no stream, and the chunks %d to %d were not received", ErrGap, f.seq+1, seq-1)
		}
		f.seq = seq
	}
	return f.give(e)
}

func (f *follower) give(e Event) error {
	f.given = true
	if !f.yield(e, nil) || e.terminal() {
		return errDone
	}
	f.reached = time.Now() // the time that the loop took is its own
	return nil
}
