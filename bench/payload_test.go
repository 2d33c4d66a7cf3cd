package main

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestPayloadsAreJSONOfTheirSizeAndDiffer(t *testing.T) {
	t.Parallel()
	for _, size := range []int{smallChunk, largeChunk} {
		payloads := payloadsOf(size)
		for i, payload := range payloads {
			if len(payload) != size || !json.Valid([]byte(payload)) {
				t.Errorf("payload %d has %d bytes, valid %t, want %d: %s", i, len(payload), json.Valid([]byte(payload)), size, payload)
			}
		}
		if got := len(slices.Compact(slices.Sorted(slices.Values(payloads)))); got != variety {
			t.Errorf("got %d different payloads of %d bytes, want %d", got, size, variety)
		}
	}
}
