package main

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"strings"
)

//go:embed dashboard.json
var dashboardFile []byte

// panels are those of the dashboard.
type panels []panel

type panel struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	Targets     []target `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

// target is a query of a panel.
type target struct {
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
}

func readDashboard() (panels, error) {
	var d struct {
		Panels panels `json:"panels"`
	}
	err := json.Unmarshal(dashboardFile, &d)
	return d.Panels, err
}

func (p panels) find(title string) (panel, bool) {
	for _, panel := range p {
		if panel.Title == title {
			return panel, true
		}
	}
	return panel{}, false
}

func (p panel) unit() string { return p.FieldConfig.Defaults.Unit }

// query is the query as Grafana sends it, for a scrape each second and all jobs.
func (t target) query() string {
	return strings.NewReplacer("$__rate_interval", "4s", "$__range", "1m", "$job", ".*").Replace(t.Expr)
}

var placeholder = regexp.MustCompile(`\{\{ *(\w+) *\}\}`)

// legend is what Grafana calls a series.
func (t target) legend(labels map[string]string) string {
	return placeholder.ReplaceAllStringFunc(t.LegendFormat, func(p string) string {
		return labels[placeholder.FindStringSubmatch(p)[1]]
	})
}
