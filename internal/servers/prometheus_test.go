package servers

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

func TestPrometheusIsReadyUntilItIsClosed(t *testing.T) {
	t.Parallel()
	p, err := StartPrometheus(t.Context(), "global: {scrape_interval: 1s}\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.probe(t.Context()); err != nil {
		t.Errorf("got %v, want it ready", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.probe(t.Context()); err == nil {
		t.Error("it still answers")
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its data is still there: %v", err)
	}
}

func TestAConfigurationThatPrometheusRefuses(t *testing.T) {
	t.Parallel()
	p, err := StartPrometheus(t.Context(), "nonsense: true\n")
	if err == nil {
		t.Error("got no error")
		_ = p.Close()
	}
}
