package promsink

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what is counted. The first three have the names, labels and buckets that the dashboards of the existing
// application read.
type metrics struct {
	executed *prometheus.CounterVec
	duration prometheus.Histogram
	timeouts prometheus.Counter

	byName   *prometheus.CounterVec // registered only where there is a list of names
	inFlight prometheus.Gauge
	attempts prometheus.Counter
	retries  *prometheus.CounterVec
	resumes  prometheus.Counter
	replayed prometheus.Counter
	diverged prometheus.Counter

	chunks     prometheus.Counter
	bytes      prometheus.Counter
	batch      prometheus.Histogram
	firstChunk prometheus.Histogram
	gap        prometheus.Histogram
	wait       prometheus.Histogram

	sinkTime   *prometheus.HistogramVec
	sinkErrors *prometheus.CounterVec

	clients []*clients
}

// Buckets, in seconds but for the last.
var (
	commandBuckets = []float64{0.1, 0.5, 1, 2, 5, 10, 30, 60}
	waitBuckets    = []float64{0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60}
	sinkBuckets    = []float64{0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30}
	batchBuckets   = []float64{1, 2, 5, 10, 50, 100, 500, 1000}
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		executed: counters("commands_executed_total", "Commands that ended, by how: completed, failed or timeout.", "status"),
		duration: histogram("command_execution_duration_seconds", "How long commands took, with all their attempts.", commandBuckets),
		timeouts: counter("sovd_command_timeout_total", "Commands that ran out of time."),

		byName:   counters("sovd_commands_total", "Commands that ended, by name, of those on the list, and how.", "command", "status"),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sovd_commands_in_flight", Help: "Commands that have begun and not ended."}),
		attempts: counter("sovd_command_attempts_total", "Attempts to ask a vehicle, also those that found no connection."),
		retries:  counters("sovd_command_retries_total", "Attempts that were repeated, by the gRPC code that ended them.", "code"),
		resumes:  counter("sovd_command_resumes_total", "Attempts that asked for the rest of an answer."),
		replayed: counter("sovd_chunks_replayed_total", "Chunks that came again and were dropped."),
		diverged: counter("sovd_replays_diverged_total", "Commands that failed because the part that came again was another answer."),

		chunks:     counter("sovd_chunks_total", "Chunks that were delivered."),
		bytes:      counter("sovd_chunk_bytes_total", "Bytes of the payloads that were delivered."),
		batch:      histogram("sovd_delivery_batch_chunks", "How many chunks were delivered at once.", batchBuckets),
		firstChunk: histogram("sovd_time_to_first_chunk_seconds", "From a command's beginning to its first chunk.", waitBuckets),
		gap:        histogram("sovd_chunk_gap_seconds", "From one chunk of an answer to the next.", waitBuckets),
		wait:       histogram("sovd_stream_wait_seconds", "How long an attempt waited for a connection with a free stream.", waitBuckets),

		sinkTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sovd_sink_duration_seconds", Help: "How long calls of sinks took, by the sink's type and the method.", Buckets: sinkBuckets,
		}, []string{"sink", "call"}),
		sinkErrors: counters("sovd_sink_errors_total", "Calls of sinks that failed.", "sink", "call"),
		clients:    newClients(),
	}
	register(reg, &m.executed)
	register(reg, &m.duration)
	register(reg, &m.timeouts)
	register(reg, &m.inFlight)
	register(reg, &m.attempts)
	register(reg, &m.retries)
	register(reg, &m.resumes)
	register(reg, &m.replayed)
	register(reg, &m.diverged)
	register(reg, &m.chunks)
	register(reg, &m.bytes)
	register(reg, &m.batch)
	register(reg, &m.firstChunk)
	register(reg, &m.gap)
	register(reg, &m.wait)
	register(reg, &m.sinkTime)
	register(reg, &m.sinkErrors)
	for i := range m.clients {
		register(reg, &m.clients[i])
	}
	return m
}

// register registers a collector, or puts the one in its place that an earlier Sink has registered.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) {
	if reg == nil {
		return
	}
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](reg.Register(*c)); ok {
		if ours, ok := there.ExistingCollector.(C); ok {
			*c = ours
		}
	}
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}
