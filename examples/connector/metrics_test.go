package main

import (
	"strings"
	"testing"

	"github.com/sovd-go/vehicle/vehicletest"
)

func TestMetricsForPrometheus(t *testing.T) {
	t.Parallel()
	c := start(t, nil, vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Send("1"), vehicletest.Cut()}, vehicletest.Script{vehicletest.Answer("1", "2")}))
	c.ended(c.submit("ReadDTC"))
	c.ended(c.submit("FlyAway"))
	for _, want := range []string{
		`commands_executed_total{status="completed"} 1`, `commands_executed_total{status="failed"} 1`,
		`sovd_commands_total{command="ReadDTC",status="completed"} 1`, `sovd_commands_total{command="other",status="failed"} 1`,
		`sovd_chunks_total 2`, `sovd_chunks_replayed_total 1`, `sovd_command_retries_total{code="Unavailable"} 1`,
		`sovd_sink_duration_seconds_count{call="End",sink="*pgsink.Sink"} 2`, `sovd_sink_duration_seconds_count{call="End",sink="*redissink.Sink"} 2`,
		"go_goroutines ", "process_cpu_seconds_total ",
	} {
		// A follower may have the last event before the metrics have.
		eventually(t, "the metrics have "+want, func() bool { return strings.Contains(c.get("/metrics").body, "\n"+want) })
	}
	if got := c.get("/metrics").body; strings.Contains(got, "FlyAway") {
		t.Error("a client has made up a label")
	}
}
