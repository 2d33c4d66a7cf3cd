package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// knownCommands are counted by name; whatever else clients send is counted as other.
var knownCommands = []string{"ReadDTC", "ReadDataByID", "ClearDTC", longCommand}

// newRegistry has the metrics of the Go runtime and of the process.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// getMetrics gives what Prometheus scrapes.
func (s *service) getMetrics() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
}
