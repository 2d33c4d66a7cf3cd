package pgsink

import (
	"time"
)

// Option configures a [Sink] or [Migrate].
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

type config struct {
	claim    bool
	retryFor time.Duration
	schema   string
	writers  int
}

// Defaults of the options.
const (
	defaultRetryFor = time.Minute
	defaultWriters  = 2
)

func newConfig(opts []Option) config {
	c := config{retryFor: defaultRetryFor, writers: defaultWriters}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	return c
}

// WithClaim makes Begin succeed only for the one caller that moves the command's row away from pending, or
// that inserts it where there is none; for all others Begin returns [ErrClaimed]. It is for backends
// whose replicas may all be handed the same command. By default a command may be run again at any time.
//
// A claim outlives its process: a command that a crashed process had claimed can be claimed again when
// somebody has set its status back to pending, for example after [Sink.Recover].
func WithClaim() Option {
	return option(func(c *config) { c.claim = true })
}

// WithRetryFor bounds how long a call retries what fails for a reason that may pass (a lost connection, a server that
// restarts or fails over, a conflict with another transaction); the default is one minute. The
// call's ctx, which ends with the attempt's time or the caller's patience, bounds it too. Zero or less
// means no retries. What cannot pass (a read-only or full database, a missing table or
// privilege, a value that is refused) is never retried.
func WithRetryFor(d time.Duration) Option {
	return option(func(c *config) { c.retryFor = d })
}

// WithSchema names the schema of the tables, which is quoted and so may have any characters; by default the
// connections' search_path finds them.
func WithSchema(name string) Option {
	return option(func(c *config) { c.schema = name })
}

// WithWriters sets how many transactions a Sink may have under way, and so how many of the pool's
// connections it holds at most; the default is 2. Fewer than 1 means 1. Whichever is done first takes what waits. One that is idle stores
// the second half of another's large batch: 1.25 times the chunks/s of answers of 5,000, on two cores.
//
// More writers mean less waiting for the transaction before, and smaller transactions. On two cores, with the server
// and the client beside it and 256 commands at once, three, four and eight completed 0.9 of the commands that two did, one as
// many within the noise. Without a vehicle (BenchmarkWriters) four and eight were ahead, by a tenth to a fifth. Take 4 to 8 where a
// round trip takes milliseconds.
func WithWriters(n int) Option {
	return option(func(c *config) { c.writers = max(n, 1) })
}
