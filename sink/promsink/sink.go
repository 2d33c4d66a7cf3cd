package promsink

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovd-go/vehicle"
)

// Sink counts commands. It is a [vehicle.Sink] and a [vehicle.Observer], safe for concurrent use, never fails, and needs no
// closing. Several clients may share one.
type Sink struct {
	*metrics
	named map[string]bool // nil: commands are not counted by name

	mu   sync.Mutex
	runs map[uuid.UUID]*run
}

var _ vehicle.Observer = (*Sink)(nil)

// run is one command under way. Its fields belong to the calls of Begin, Write and End, which come one after the other.
type run struct {
	last  time.Time // the command's beginning, and then the last chunk
	begun bool      // a chunk has come
}

// New makes a Sink and registers its metrics. Sinks that are made on one registry share them, so their counts add up. A
// name that belongs to a metric of somebody else's stays that one's, and this package's is then not collected. With a nil
// Registerer nothing is.
func New(reg prometheus.Registerer) *Sink {
	return &Sink{metrics: newMetrics(reg), runs: make(map[uuid.UUID]*run)}
}

// NewNamed is New, and counts commands by name too: sovd_commands_total has the label command, which is one of names, or
// "other". The list keeps those who send commands from making up metrics.
func NewNamed(reg prometheus.Registerer, names ...string) *Sink {
	s := New(reg)
	s.named = make(map[string]bool, len(names))
	for _, name := range names {
		s.named[name] = true
	}
	register(reg, &s.byName)
	return s
}

// Begin counts a command as in flight.
func (s *Sink) Begin(_ context.Context, cmd vehicle.Command) error {
	s.inFlight.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[cmd.ID] = &run{last: time.Now()}
	return nil
}

// Write counts chunks, their bytes, and the time between them.
func (s *Sink) Write(_ context.Context, chunks []vehicle.Chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	s.mu.Lock() // for all of it: two clients may run a command at once
	r := s.runs[chunks[0].CommandID]
	bytes := 0
	for _, c := range chunks {
		bytes += len(c.Payload)
		if r == nil || c.ReceivedAt.IsZero() {
			continue
		}
		since := max(c.ReceivedAt.Sub(r.last), 0).Seconds()
		if r.last = c.ReceivedAt; r.begun {
			s.gap.Observe(since)
		} else {
			s.firstChunk.Observe(since)
		}
		r.begun = true
	}
	s.mu.Unlock()
	s.batch.Observe(float64(len(chunks)))
	s.chunks.Add(float64(len(chunks)))
	s.bytes.Add(float64(bytes))
	return nil
}

// End counts a command as executed.
func (s *Sink) End(_ context.Context, res vehicle.Result) error {
	s.inFlight.Dec()
	s.mu.Lock()
	delete(s.runs, res.Command.ID)
	s.mu.Unlock()
	status := string(res.Status)
	if failedBy(res, vehicle.ErrTimeout) {
		status = "timeout"
		s.timeouts.Inc()
	}
	s.executed.WithLabelValues(status).Inc()
	s.duration.Observe(max(res.FinishedAt.Sub(res.StartedAt), 0).Seconds())
	if s.named != nil {
		name := res.Command.Name
		if !s.named[name] {
			name = "other"
		}
		s.byName.WithLabelValues(name, status).Inc()
	}
	return nil
}

// failedBy says whether sentinel is what a command failed by. errors.Is would say so too where it is what another one failed by, and
// the caller cancelled this one for that reason.
func failedBy(res vehicle.Result, sentinel error) bool {
	e, ok := errors.AsType[*vehicle.Error](res.Err)
	return ok && e.Is(sentinel)
}

// TagCommand implements [vehicle.Observer]. It adds nothing.
func (s *Sink) TagCommand(ctx context.Context, _ vehicle.Command) context.Context { return ctx }

// TagAttempt implements [vehicle.Observer]. It adds nothing.
func (s *Sink) TagAttempt(ctx context.Context, at vehicle.Attempt) context.Context {
	s.attempts.Inc()
	if at.ResumeFrom > 0 {
		s.resumes.Inc()
	}
	return ctx
}

// Observe implements [vehicle.Observer].
func (s *Sink) Observe(_ context.Context, event vehicle.Event) {
	switch e := event.(type) {
	case vehicle.CommandEnded:
		s.replayed.Add(float64(e.Result.Replayed))
		if failedBy(e.Result, vehicle.ErrReplayDiverged) {
			s.diverged.Inc()
		}
	case vehicle.StreamOpened:
		s.wait.Observe(e.Wait.Seconds())
	case vehicle.Retrying:
		s.retries.WithLabelValues(e.Code.String()).Inc()
	case vehicle.SinkCalled:
		s.sinkTime.WithLabelValues(e.Sink, e.Method).Observe(e.Took.Seconds())
		if e.Err != nil {
			s.sinkErrors.WithLabelValues(e.Sink, e.Method).Inc()
		}
	case vehicle.ClientOpened:
		for _, c := range s.clients {
			c.add(e.Client)
		}
	case vehicle.ClientClosed:
		for _, c := range s.clients {
			c.remove(e.Client)
		}
	}
}
