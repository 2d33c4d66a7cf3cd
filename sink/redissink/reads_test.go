package redissink_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle/sink/redissink"
)

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
