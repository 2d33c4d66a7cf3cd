package redissink_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle/sink/redissink"
)

// What people see of Redis' trouble, which docs/troubleshooting.md quotes. UPDATE_ERRORS=1 go test -run TestErrorTexts
// ./sink/redissink rewrites the golden file.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := private(t).URL()
	admin := connect(t, url)
	must(t, admin.ACLSetUser(ctx, "weak", "on", "nopass", "-@all", "+hello", "+ping").Err())
	weak := connect(t, url, func(o *redis.Options) { o.Username, o.Password = "weak", "any" })
	publishing := func(s *redissink.Sink) error {
		cmd := newCommand()
		if err := s.Begin(ctx, cmd); err != nil {
			return err
		}
		return s.Write(ctx, answer(cmd, 1))
	}
	closed := redissink.New(admin)
	must(t, closed.Close(ctx))
	replaced, cmd := newSink(t, admin, streams()), newCommand()
	must(t, replaced.Begin(ctx, cmd))
	must(t, newSink(t, admin, streams()).Begin(ctx, cmd))
	texts := map[string]error{
		"the user may not publish":          publishing(newSink(t, weak)),
		"the user may not run scripts":      publishing(newSink(t, weak, streams())),
		"another run has replaced this one": replaced.Write(ctx, answer(cmd, 1)),
		"the sink is closed":                publishing(closed),
	}
	varying := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	permission := regexp.MustCompile(`NOPERM .*`) // each version of Redis words it anew
	var got strings.Builder
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if texts[name] == nil {
			t.Fatalf("%s: got no error", name)
		}
		text := varying.ReplaceAllString(texts[name].Error(), "UUID")
		text = permission.ReplaceAllString(text, "NOPERM, in the server's words")
		fmt.Fprintf(&got, "%s\n\t%s\n\n", name, text)
	}
	const file = "testdata/errors.golden"
	if os.Getenv("UPDATE_ERRORS") != "" {
		must(t, os.WriteFile(file, []byte(strings.TrimSuffix(got.String(), "\n")), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(want), strings.TrimSuffix(got.String(), "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
