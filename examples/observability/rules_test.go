package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovd-go/vehicle/internal/prose"
)

// promtool runs Prometheus' own checker here.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("promtool is not installed, and without it nothing is checked (Debian: apt-get install prometheus): %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPrometheusTakesTheRules(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "alerts.yaml")
	promtool(t, "check", "config", "prometheus.yaml")
}

func TestAlertsComeWhenTheyShould(t *testing.T) {
	t.Parallel()
	promtool(t, "test", "rules", "alerts_test.yaml")
	// Each alert has a test in which it comes.
	rules, tests := prose.Read(t, "alerts.yaml"), prose.Read(t, "alerts_test.yaml")
	for line := range strings.Lines(rules) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- alert: "); ok && !strings.Contains(tests, "alertname: "+name+"\n") {
			t.Errorf("no test has %s come", name)
		}
	}
}

// promtool parses no expressions but those of rules.
func TestPrometheusParsesTheDashboard(t *testing.T) {
	t.Parallel()
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, q := range dashboardQueries(t) {
		fmt.Fprintf(&rules, "      - {record: 'query:%d', expr: %q}\n", i, q.query())
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

func dashboardQueries(t *testing.T) (targets []target) {
	t.Helper()
	panels, err := readDashboard()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("the panel %q asks for nothing", p.Title)
		}
		targets = append(targets, p.Targets...)
	}
	if len(targets) < 20 {
		t.Fatalf("got %d queries, want more: are they found at all?", len(targets))
	}
	return targets
}

// Grafana puts its own names where it imports the file.
func TestTheDashboardCanBeImported(t *testing.T) {
	t.Parallel()
	text := prose.Read(t, "dashboard.json")
	if n, want := strings.Count(text, `"uid": "${datasource}"`), strings.Count(text, `"uid":`)-1; n != want {
		t.Errorf("got %d uids that are the data source's variable, want %d: all but the dashboard's own", n, want)
	}
	for _, id := range []string{`"id": null`, "localhost", "127.0.0.1"} {
		if strings.Contains(text, id) {
			t.Errorf("the dashboard has %q", id)
		}
	}
	panels, err := readDashboard()
	if err != nil {
		t.Fatal(err)
	}
	titles := make(map[string]bool)
	for _, p := range panels {
		if titles[p.Title] {
			t.Errorf("two panels are called %q", p.Title)
		}
		titles[p.Title] = true
	}
	for _, title := range shown {
		if !titles[title] {
			t.Errorf("the picture shows a panel %q that is not there", title)
		}
	}
}
