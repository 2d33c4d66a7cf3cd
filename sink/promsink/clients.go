package promsink

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovd-go/vehicle"
)

// clients collects one of the things that the clients that are open say of their connections, when somebody asks. Each is a collector
// of its own, so that a name that is taken leaves the others.
type clients struct {
	desc   *prometheus.Desc
	values func(sum vehicle.Stats, gauge func(value float64, labels ...string))

	mu   sync.Mutex
	open map[*vehicle.Client]bool
}

func newClients() []*clients {
	of := func(values func(vehicle.Stats, func(float64, ...string)), name, help string, labels ...string) *clients {
		return &clients{desc: prometheus.NewDesc(name, help, labels, nil), values: values, open: make(map[*vehicle.Client]bool)}
	}
	return []*clients{
		of(func(sum vehicle.Stats, gauge func(float64, ...string)) {
			gauge(float64(sum.Idle), "idle")
			gauge(float64(sum.Connecting), "connecting")
			gauge(float64(sum.Ready), "ready")
			gauge(float64(sum.Failing), "transient_failure")
		}, "sovd_pool_connections", "Connections to the vehicle service, by state.", "state"),
		of(func(sum vehicle.Stats, gauge func(float64, ...string)) {
			gauge(float64(sum.Streams))
		}, "sovd_streams_in_flight", "Streams on which an answer may still come."),
		of(func(sum vehicle.Stats, gauge func(float64, ...string)) {
			gauge(float64(sum.Waiting))
		}, "sovd_streams_waiting", "Streams in flight that wait for a connection, or for a place on one."),
		of(func(sum vehicle.Stats, gauge func(float64, ...string)) {
			if end := sum.ClientCertificateEnds; !end.IsZero() {
				gauge(time.Until(end).Seconds(), "client")
			}
			if end := sum.CACertificatesEnd; !end.IsZero() {
				gauge(time.Until(end).Seconds(), "ca")
			}
		}, "sovd_certificate_expiry_seconds",
			"Seconds until the first client certificate, or the last authority of a client, expires; negative when it has.", "certificate"),
	}
}

func (c *clients) add(client *vehicle.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[client] = true
}

func (c *clients) remove(client *vehicle.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, client)
}

// Describe implements prometheus.Collector.
func (c *clients) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *clients) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	var sum vehicle.Stats
	for _, client := range open {
		s := client.Stats()
		sum.Idle += s.Idle
		sum.Connecting += s.Connecting
		sum.Ready += s.Ready
		sum.Failing += s.Failing
		sum.Streams += s.Streams
		sum.Waiting += s.Waiting
		sum.ClientCertificateEnds = earlier(sum.ClientCertificateEnds, s.ClientCertificateEnds)
		sum.CACertificatesEnd = earlier(sum.CACertificatesEnd, s.CACertificatesEnd)
	}
	c.values(sum, func(value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, value, labels...)
	})
}

// earlier is the earlier of two times, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
