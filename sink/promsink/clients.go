package promsink

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovd-go/vehicle"
)

// clients collects what the clients that are open say of their connections, when somebody asks.
type clients struct {
	connections, streams, waiting, expiry *prometheus.Desc

	mu   sync.Mutex
	open map[*vehicle.Client]int // how many Sinks on this registry each has
}

func newClients() *clients {
	return &clients{
		connections: prometheus.NewDesc("sovd_pool_connections", "Connections to the vehicle service, by state.", []string{"state"}, nil),
		streams:     prometheus.NewDesc("sovd_streams_in_flight", "Streams on which an answer may still come.", nil, nil),
		waiting:     prometheus.NewDesc("sovd_streams_waiting", "Streams in flight that wait for a connection, or for a place on one.", nil, nil),
		expiry: prometheus.NewDesc("sovd_certificate_expiry_seconds",
			"Seconds until the first client certificate, or the last authority of a client, expires; negative when it has.", []string{"certificate"}, nil),
		open: make(map[*vehicle.Client]int),
	}
}

func (c *clients) add(client *vehicle.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[client]++
}

func (c *clients) remove(client *vehicle.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[client]--; c.open[client] <= 0 {
		delete(c.open, client)
	}
}

// Describe implements prometheus.Collector.
func (c *clients) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.connections
	ch <- c.streams
	ch <- c.waiting
	ch <- c.expiry
}

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
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	gauge(c.connections, float64(sum.Idle), "idle")
	gauge(c.connections, float64(sum.Connecting), "connecting")
	gauge(c.connections, float64(sum.Ready), "ready")
	gauge(c.connections, float64(sum.Failing), "transient_failure")
	gauge(c.streams, float64(sum.Streams))
	gauge(c.waiting, float64(sum.Waiting))
	if end := sum.ClientCertificateEnds; !end.IsZero() {
		gauge(c.expiry, time.Until(end).Seconds(), "client")
	}
	if end := sum.CACertificatesEnd; !end.IsZero() {
		gauge(c.expiry, time.Until(end).Seconds(), "ca")
	}
}

// earlier is the earlier of two times, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
