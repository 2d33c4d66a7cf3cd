package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sovd-go/vehicle/internal/prose"
)

// Every query of the dashboard and of the rules finds what it asks for in a Prometheus that scrapes a running connector
// on which faults were injected: each metric is there, with the labels, and the values of labels, that the query names.
func TestEveryQueryFindsWhatItAsksFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := startRig(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.load(ctx, 50*time.Millisecond))
	open := openQueries(t, r)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 0; len(open) > 0; n++ {
		select {
		case <-tick.C:
			if err := r.disturb(ctx, n); err != nil {
				t.Fatal(err)
			}
		case <-ctx.Done():
			for name, q := range open {
				t.Errorf("%s: %v", name, q.check(t.Context(), r.prometheus))
			}
			return
		}
		maps.DeleteFunc(open, func(_ string, q query) bool { return q.check(ctx, r.prometheus) == nil })
	}
	// What is not there is not found.
	for name, q := range map[string]query{
		"a metric that there is none of":  {expr: "sum(rate(sovd_nothing_total[4s]))"},
		"a label that there is none of":   {expr: `sum(rate(commands_executed_total{state="completed"}[4s]))`},
		"a value that there is none of":   {expr: `sum(rate(commands_executed_total{status="complete"}[4s]))`},
		"a grouping that finds nothing":   {expr: "sum by (state) (rate(commands_executed_total[4s]))"},
		"a legend that finds nothing":     {expr: "sum(rate(commands_executed_total[4s]))", labels: []string{"status"}},
		"one of two metrics is not there": {expr: "sum(sovd_commands_in_flight) or sum(sovd_nothing)"},
	} {
		q.mustYield = true
		if err := q.check(t.Context(), r.prometheus); err == nil {
			t.Errorf("%s: %s passes", name, q.expr)
		}
	}
}

// disturb has every fault come and go, some of them for longer than commands retry.
func (r *rig) disturb(ctx context.Context, n int) error {
	if n%2 == 0 {
		r.cutLink()
	}
	r.away.Store(n%20 >= 10)
	switch n % 40 {
	case 4:
		return r.redis.Stop(ctx)
	case 24:
		return r.redis.Start(ctx)
	}
	return nil
}

// query is one that is to be checked.
type query struct {
	expr      string
	labels    []string // that the legend shows
	mustYield bool     // alerts yield nothing when all is well
}

func openQueries(t *testing.T, r *rig) map[string]query {
	t.Helper()
	open := make(map[string]query)
	for i, target := range dashboardQueries(t) {
		q := query{expr: target.query(), mustYield: true}
		for _, m := range placeholder.FindAllStringSubmatch(target.LegendFormat, -1) {
			q.labels = append(q.labels, m[1])
		}
		open[fmt.Sprintf("dashboard, query %d, %s", i, target.Expr)] = q
	}
	alerts, err := r.prometheus.rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(alerts), strings.Count(prose.Read(t, "alerts.yaml"), "- alert: "); got != want {
		t.Fatalf("got %d alerts, want %d", got, want)
	}
	for name, expr := range alerts {
		open["alert "+name] = query{expr: expr}
	}
	return open
}

var (
	selector = regexp.MustCompile(`\b(?:up|(?:sovd|commands?|go|process)_[a-z0-9_]+)\b(\{[^}]*\})?`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// check says what a query does not find.
func (q query) check(ctx context.Context, p api) error {
	selectors := selector.FindAllString(q.expr, -1)
	if len(selectors) == 0 {
		return fmt.Errorf("it asks for no metric: %s", q.expr)
	}
	labels := make(map[string]bool) // of some series that it reads
	for _, s := range selectors {
		found, err := p.matching(ctx, s)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no series matches %s", s)
		}
		for _, series := range found {
			for name := range series {
				labels[name] = true
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(q.expr, -1) {
		for name := range strings.SplitSeq(m[1], ",") {
			if name = strings.TrimSpace(name); !labels[name] {
				return fmt.Errorf("no series that it reads has the label %s", name)
			}
		}
	}
	if !q.mustYield {
		return nil
	}
	found, err := p.query(ctx, q.expr)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("it gives nothing: %s", q.expr)
	}
	for _, series := range found {
		for _, name := range q.labels {
			if series.Metric[name] == "" {
				return fmt.Errorf("its legend wants the label %s, which a series does not have: %v", name, series.Metric)
			}
		}
	}
	return nil
}

func (a api) query(ctx context.Context, expr string) ([]series, error) {
	var found struct {
		Result []series `json:"result"`
	}
	err := a.get(ctx, "query", url.Values{"query": {expr}}, &found)
	return found.Result, err
}

// matching gives the series that a selector matches.
func (a api) matching(ctx context.Context, selector string) (found []map[string]string, err error) {
	err = a.get(ctx, "series", url.Values{"match[]": {selector}}, &found)
	return found, err
}

// rules gives the expressions of the alerts that are loaded, by name.
func (a api) rules(ctx context.Context) (map[string]string, error) {
	var loaded struct {
		Groups []struct {
			Rules []struct {
				Name  string `json:"name"`
				Query string `json:"query"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := a.get(ctx, "rules", nil, &loaded); err != nil {
		return nil, err
	}
	queries := make(map[string]string)
	for _, g := range loaded.Groups {
		for _, r := range g.Rules {
			queries[r.Name] = r.Query
		}
	}
	return queries, nil
}
