package main

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sovd-go/vehicle"
)

// getHealth says that the process answers.
func (s *service) getHealth(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// checkTime bounds the checks of one probe.
const checkTime = 2 * time.Second

// getReady says whether commands can be run now. Without -redis-required a Redis that is down is reported, and no more.
func (s *service) getReady(w http.ResponseWriter, r *http.Request) {
	if s.ending.Load() {
		shuttingDown.write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), checkTime)
	defer cancel()
	checks := []struct {
		name     string
		required bool
		check    func(context.Context) error
	}{
		{"vehicle", true, s.vehicles.WaitReady},
		{"postgres", true, s.pool.Ping},
		{"redis", s.set.redisRequired, func(ctx context.Context) error { return s.rdb.Ping(ctx).Err() }},
	}
	errs := make([]error, len(checks))
	var checking sync.WaitGroup
	for i, c := range checks {
		checking.Go(func() { errs[i] = c.check(ctx) })
	}
	checking.Wait()
	status, results := http.StatusOK, make(map[string]string)
	for i, c := range checks {
		results[c.name] = "ok"
		if errs[i] == nil {
			continue
		}
		s.log.Warn("not ready", "what", c.name, "error", errs[i])
		results[c.name] = "unreachable"
		if c.required {
			status = http.StatusServiceUnavailable
		}
	}
	writeJSON(w, status, map[string]any{"ready": status == http.StatusOK, "checks": results})
}

// stats counts since the start. The zero value is ready.
type stats struct {
	accepted, completed, failed, recovered, redisErrors atomic.Int64
}

func (s *stats) ended(res *vehicle.Result) {
	if res.Status == vehicle.StatusCompleted {
		s.completed.Add(1)
	} else {
		s.failed.Add(1)
	}
}

// getStats gives the counters.
func (s *service) getStats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]int64{
		"commands_accepted":  s.stats.accepted.Load(),
		"commands_completed": s.stats.completed.Load(),
		"commands_failed":    s.stats.failed.Load(), // those too that could not begin
		"commands_recovered": s.stats.recovered.Load(),
		"commands_running":   int64(len(s.commands.places)),
		"followers":          int64(len(s.followers)),
		"redis_errors":       s.stats.redisErrors.Load(), // calls whose events are not on Redis
	})
}
