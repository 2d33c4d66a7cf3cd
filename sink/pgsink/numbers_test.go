package pgsink

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovd-go/vehicle/internal/prose"
)

// Defaults and limits that a document or a comment tells are those that hold.
func TestTheNumbersInTheDocumentsHold(t *testing.T) {
	t.Parallel()
	c := newConfig(nil)
	if c.retryFor != time.Minute || c.writers != 2 {
		t.Errorf("got retries for %v and %d writers, want what the documents say in words: one minute and two", c.retryFor, c.writers)
	}
	for _, fault := range prose.Missing(map[string][]string{
		"doc.go": {
			fmt.Sprintf("A batch of %d,%03d chunks or more, or of %d KiB,", 2*minHalfRows/1000, 2*minHalfRows%1000, 2*minHalfBytes>>10),
			fmt.Sprintf("[WithRetryFor] leaves %v seconds or more", attemptTime.Seconds()),
			fmt.Sprintf("nesting of more than %d levels", maxDepth), `{"` + wrapKey + `": "its text"}`,
		},
		"options.go": {"the default is one minute.", fmt.Sprintf("holds at most; the default is %d.", c.writers)},
		"sink.go":    {fmt.Sprintf("a name of more than %d characters", maxName)},
		"../../docs/operations.md": {
			"pgsink holds two of the pool's connections at most (`WithWriters`)", "are retried for one minute (`WithRetryFor`)",
			fmt.Sprintf("and no more than %d MiB", 2*maxBuffer>>20), `with "` + recoverMessage + `"`,
		},
	}) {
		t.Error(fault)
	}
}
