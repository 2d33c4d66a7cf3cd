package redissink

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/internal/prose"
)

// Defaults, limits and names that a document or a comment tells are those that hold.
func TestTheNumbersInTheDocumentsHold(t *testing.T) {
	t.Parallel()
	if followPatience != time.Minute {
		t.Errorf("Follow tries again for %v, want what its comment says in words: a minute", followPatience)
	}
	for _, fault := range prose.Missing(map[string][]string{
		"doc.go": {
			"on the channel " + strings.Replace(channelOf(uuid.Nil), uuid.Nil.String(), "<command id>", 1),
			"on the keys " + strings.Replace(streamOf(uuid.Nil), uuid.Nil.String(), "*", 1),
		},
		"follow.go":                {"tries again, for a minute at most without success"},
		"options.go":               {fmt.Sprintf("has no master; the default is %v.", defaultRetryFor)},
		"../../docs/operations.md": {fmt.Sprintf("each call retries for %v s,", defaultRetryFor.Seconds())},
	}) {
		t.Error(fault)
	}
}
