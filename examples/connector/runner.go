package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

// runner runs commands in goroutines that it owns: a command goes on when the request that brought it has
// been answered, and ends before the program does.
type runner struct {
	vehicles *vehicle.Client
	set      settings
	stats    *stats
	traces   *traces
	log      *slog.Logger

	ctx    context.Context // of the commands
	cancel context.CancelCauseFunc
	places chan struct{} // a command that runs has one

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

func newRunner(b *backends, set settings, log *slog.Logger) *runner {
	r := &runner{vehicles: b.vehicles, set: set, stats: b.stats, traces: b.traces, log: log, places: make(chan struct{}, set.maxRunning)}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

var (
	errBusy        = errors.New("as many commands are running as may")
	errEnding      = errors.New("the connector is shutting down")
	errNotRecorded = errors.New("the command could not be recorded in time")
)

// start runs cmd and returns when it is recorded as in progress, and so will be as completed or failed, come what
// may. An error says that it was not, and that the vehicle is not asked.
func (r *runner) start(ctx context.Context, cmd vehicle.Command) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.set.recordTimeout, errNotRecorded)
	defer cancel()
	if err := r.enter(); err != nil {
		return err
	}
	var settled atomic.Bool // it has begun, or is given up: the first counts
	begun, ended := make(chan struct{}), make(chan error, 1)
	running, abort := context.WithCancel(r.ctx)
	go func() {
		defer r.leave()
		defer abort()
		ended <- r.run(running, cmd, func() error {
			if !settled.CompareAndSwap(false, true) {
				return errNotRecorded
			}
			close(begun)
			return nil
		})
	}()
	select {
	case <-begun:
	case err := <-ended:
		if !settled.Load() {
			return err
		}
	case <-ctx.Done(): // whoever asked does not know the command's id
		if settled.CompareAndSwap(false, true) {
			abort()
			return context.Cause(ctx)
		}
	}
	r.stats.accepted.Add(1)
	return nil
}

// run takes a command to its end. begun is called when all sinks have begun, and may still refuse it.
func (r *runner) run(ctx context.Context, cmd vehicle.Command, begun func() error) error {
	ctx, cancel := context.WithTimeout(ctx, r.set.commandTimeout)
	defer cancel()
	last := vehicle.WithSink(sink.Func{OnBegin: func(context.Context, vehicle.Command) error {
		return begun()
	}})
	ctx, trace := r.traces.begin(ctx, cmd.ID)
	res, err := r.vehicles.Execute(ctx, cmd, last)
	trace.ended(res)
	r.stats.ended(res)
	attrs := []slog.Attr{
		slog.String("command_id", cmd.ID.String()), slog.String("status", string(res.Status)), slog.Int("chunks", res.Chunks),
		slog.Int("attempts", res.Attempts), slog.Duration("took", res.FinishedAt.Sub(res.StartedAt)),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "command ended", attrs...)
	return err
}

func (r *runner) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errEnding
	}
	select {
	case r.places <- struct{}{}:
		r.running.Add(1)
		return nil
	default:
		return errBusy
	}
}

func (r *runner) leave() {
	<-r.places
	r.running.Done()
}

// close takes no more commands, waits for those that run, after the grace cancels them, and returns when each is
// recorded. A sink's End has 10 s: two of them bound what comes after the grace.
func (r *runner) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	timer := time.AfterFunc(r.set.grace, func() { r.cancel(errEnding) })
	defer timer.Stop()
	r.running.Wait()
}
