package main

import (
	"net/http"
	"strings"
	"testing"
)

func TestMetricsForPrometheus(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	got := c.get("/metrics")
	for _, want := range []string{"\ngo_goroutines ", "\nprocess_cpu_seconds_total "} {
		if got.status != http.StatusOK || !strings.Contains(got.body, want) {
			t.Errorf("got %d without %q:\n%.500s", got.status, want, got.body)
		}
	}
}
