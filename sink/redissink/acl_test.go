package redissink_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// documented gives the commands that the package's documentation says a user must be allowed to do something.
func documented(t *testing.T, what string) (rules []any) {
	t.Helper()
	doc, err := os.ReadFile("doc.go")
	must(t, err)
	_, list, found := strings.Cut(string(doc), "//   - "+what+": ")
	if !found {
		t.Fatalf("doc.go does not say what is needed %s", what)
	}
	list, _, _ = strings.Cut(list, "//   - ")
	list, _, _ = strings.Cut(list, "//\n")
	for _, command := range regexp.MustCompile(`\b[A-Z]{4,}\b`).FindAllString(list, -1) {
		rules = append(rules, "+"+strings.ToLower(command))
	}
	return rules
}

// as is a user who is allowed what rules say, and to connect.
func as(t *testing.T, admin *redis.Client, name string, rules ...any) func(*redis.Options) {
	t.Helper()
	acl := []any{"ACL", "SETUSER", name, "on", "nopass", "resetchannels", "-@all", "+hello", "+ping", "+client"}
	must(t, admin.Do(t.Context(), append(acl, rules...)...).Err())
	return func(o *redis.Options) { o.Username, o.Password, o.MaxRetries = name, "any", -1 }
}

// The rights that the documentation lists suffice for all that a sink and a follower do: also to withdraw an end, and to be silent
// for longer than a beat.
func TestTheDocumentedRightsSuffice(t *testing.T) {
	t.Parallel()
	const published, announced, keys = "&response:*", "&stream:{response:*}", "~stream:{response:*}"
	url := private(t).URL()
	admin := connect(t, url)
	publish, keep, follow := documented(t, "to publish"), documented(t, "with streams also"), documented(t, "to follow")
	plain := as(t, admin, "plain", append(publish, published)...)
	streaming := as(t, admin, "streaming", append(append(publish, keep...), published, announced, keys)...)
	following := as(t, admin, "following", append(follow, published, announced, keys)...)

	t.Run("without streams", func(t *testing.T) {
		t.Parallel()
		s, cmd := newSink(t, connect(t, url, plain)), newCommand()
		f := follows(t, redissink.FollowEvery(t.Context(), connect(t, url, following), cmd.ID, 50*time.Millisecond, time.Minute))
		eventually(t, "the follower has subscribed", func() bool { return subscribers(t, admin, cmd.ID) == 1 })
		chunks := answer(cmd, 2)
		play(t, s, cmd, chunks)
		got, err := f.rest()
		must(t, err)
		if diff := cmp.Diff(events(cmd, chunks), got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("with streams", func(t *testing.T) {
		t.Parallel()
		p, lossy := newProxy(t, url, "evalsha")
		s, cmd := newSink(t, connect(t, lossy, streaming), streams(), redissink.WithRetryFor(-1)), newCommand()
		must(t, s.Begin(t.Context(), cmd))
		f := follows(t, redissink.FollowEvery(t.Context(), connect(t, url, following), cmd.ID, 50*time.Millisecond, time.Minute))
		chunks, res := answer(cmd, 2), completed(cmd)
		must(t, s.Write(t.Context(), chunks[:1]))
		select {
		case <-f.seen:
		case err := <-f.err:
			t.Fatal(err)
		}
		eventually(t, "the follower has been silent for a beat", func() bool {
			return strings.Contains(admin.Info(t.Context(), "commandstats").Val(), "cmdstat_xrevrange:")
		})
		teller := lastly.NewTeller(&res)
		p.losing.Store(1)
		if err := s.Write(teller.Next(t.Context(), s, true), chunks[1:]); err == nil {
			t.Fatal("got no error from the Write whose answer is lost")
		}
		must(t, s.End(context.WithoutCancel(t.Context()), vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: errors.New("no answer")}))
		if _, err := f.rest(); err != nil {
			t.Errorf("the follower that was there: %v", err)
		}
		got, err := collect(redissink.Follow(t.Context(), connect(t, url, following), cmd.ID))
		must(t, err)
		if len(got) != 3 || got[2].Event != "error" {
			t.Errorf("got %+v, want two responses and an error", got)
		}
		if err := s.Begin(t.Context(), cmd); err != nil {
			t.Errorf("running the command again: %v", err)
		}
	})
}
