package redissink

import (
	"context"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

var (
	ChannelOf  = channelOf
	StreamOf   = streamOf
	Transient  = transient
	TextOf     = text
	ErrUnknown = errUnknownKind
)

// FollowEvery is Follow with another beat and another patience.
func FollowEvery(ctx context.Context, rdb redis.UniversalClient, commandID uuid.UUID, beat, patience time.Duration) iter.Seq2[Event, error] {
	return followEvery(ctx, rdb, commandID, beat, patience)
}

// Waiting counts the requests that are in no pipeline yet.
func Waiting(s *Sink) int {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	n := 0
	for _, l := range s.groups.lanes {
		n += len(l.waiting)
	}
	return n
}
