package redissink

import "time"

// Option changes how a Sink works.
type Option interface{ apply(*config) }

type config struct {
	streams  bool
	maxLen   int64
	ttl      time.Duration
	retryFor time.Duration
}

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithStream also appends each event to a Redis Stream, one for each command, so that [Follow] gives a
// command's events whenever the follower joins. Without it nothing is kept.
//
// The stream is trimmed to about maxLen events; Redis trims whole nodes, so that up to a hundred more
// may stay. A follower that comes when the first ones are gone gets [ErrGap]. Let maxLen be more than
// the longest answer has chunks; zero or less does not trim.
//
// The stream expires ttl after its last event, Redis taking milliseconds; zero or less keeps it for
// ever, which fills Redis' memory. While a command is silent for longer than ttl, its stream is lost
// and its followers get ErrGap. Let ttl be longer than the longest command.
//
// A command that is run again under the same id replaces its stream. A run that has been replaced,
// by another process say, can no longer write: it gets [ErrSuperseded].
func WithStream(maxLen int64, ttl time.Duration) Option {
	return option(func(c *config) {
		c.streams, c.maxLen, c.ttl = true, max(maxLen, 0), max(ttl, 0)
		if c.ttl > 0 {
			c.ttl = max(c.ttl, time.Millisecond) // zero is for ever
		}
	})
}

// WithRetryFor bounds how long each call of the sink retries while Redis cannot be reached, restarts or
// has no master; the default is 10s. The call's ctx bounds it as well; the SDK gives End 10s. Zero or
// less: no retries but those of the Redis client itself (redis.Options.MaxRetries). A failover by
// Sentinel or in a cluster takes longer than 10s with Redis' own defaults.
func WithRetryFor(d time.Duration) Option {
	return option(func(c *config) { c.retryFor = d })
}

const defaultRetryFor = 10 * time.Second
