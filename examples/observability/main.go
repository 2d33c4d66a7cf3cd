// Command observability shows what the metrics of sink/promsink look like while things go wrong. It runs the connector
// under steady load, with a mock vehicle service, PostgreSQL, Redis and a Prometheus of its own; cuts the link to the
// vehicles, stops Redis, takes the vehicle service away; and draws panels of dashboard.json from what Prometheus recorded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "observability:", err)
		os.Exit(1)
	}
}

// shown are the panels of the picture, by their titles in the dashboard.
var shown = []string{"Commands by outcome", "In flight", "Duration", "Retries by code", "Chunks", "Calls to sinks that fail"}

// phase is a time in which something is wrong, and what.
type phase struct {
	name  string // empty: nothing is
	lasts time.Duration
	begin func(context.Context, *rig) error
	every func(*rig) // a second
	end   func(context.Context, *rig) error
}

func phases() []phase {
	return []phase{
		{lasts: 12 * time.Second},
		{name: "the link is cut every second", lasts: 12 * time.Second, every: (*rig).cutLink},
		{lasts: 14 * time.Second},
		{name: "Redis is down", lasts: 12 * time.Second, begin: stopRedis, end: startRedis},
		{lasts: 14 * time.Second},
		{name: "the vehicle service is away", lasts: 12 * time.Second, begin: takeVehiclesAway, end: bringVehiclesBack},
		{lasts: 16 * time.Second},
	}
}

func stopRedis(ctx context.Context, r *rig) error  { return r.redis.Stop(ctx) }
func startRedis(ctx context.Context, r *rig) error { return r.redis.Start(ctx) }

func takeVehiclesAway(_ context.Context, r *rig) error {
	r.away.Store(true)
	return nil
}

func bringVehiclesBack(_ context.Context, r *rig) error {
	r.away.Store(false)
	return nil
}

// warmUp is before the picture begins, until the rates are steady.
const warmUp = 12 * time.Second

func run(ctx context.Context, args []string, output io.Writer) (err error) {
	flags := flag.NewFlagSet("observability", flag.ContinueOnError)
	flags.SetOutput(output)
	out := flags.String("out", "fault.svg", "the picture")
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp // it has said what is wrong
	}
	_, _ = fmt.Fprintln(output, "starting the connector and what it needs")
	r, err := startRig(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	stop := r.load(ctx, 40*time.Millisecond)
	defer stop()
	if err := wait(ctx, warmUp, nil); err != nil {
		return err
	}
	from := time.Now()
	bands, err := r.live(ctx, from, output)
	if err != nil {
		return err
	}
	charts, err := r.record(ctx, from, time.Now())
	if err != nil {
		return err
	}
	return os.WriteFile(*out, draw(charts, bands), 0o644)
}

// live goes through the phases and says when each was.
func (r *rig) live(ctx context.Context, from time.Time, output io.Writer) (bands []band, err error) {
	for _, p := range phases() {
		began := time.Since(from)
		if p.begin != nil {
			if err := p.begin(ctx, r); err != nil {
				return nil, err
			}
		}
		if p.name != "" {
			_, _ = fmt.Fprintln(output, p.name)
		}
		err := wait(ctx, p.lasts, func() {
			if p.every != nil {
				p.every(r)
			}
		})
		if p.end != nil {
			err = errors.Join(err, p.end(ctx, r))
		}
		if err != nil {
			return nil, err
		}
		if p.name != "" {
			bands = append(bands, band{name: p.name, from: began, to: time.Since(from)})
		}
	}
	return bands, nil
}

// record asks Prometheus for what the dashboard would show.
func (r *rig) record(ctx context.Context, from, to time.Time) (charts []chart, err error) {
	panels, err := readDashboard()
	if err != nil {
		return nil, err
	}
	for _, title := range shown {
		p, ok := panels.find(title)
		if !ok {
			return nil, fmt.Errorf("the dashboard has no panel %q", title)
		}
		c := chart{title: p.Title, unit: p.unit(), lasts: to.Sub(from)}
		for _, t := range p.Targets {
			found, err := r.prometheus.queryRange(ctx, t.query(), from, to, time.Second)
			if err != nil {
				return nil, err
			}
			slices.SortFunc(found, func(a, b series) int { return strings.Compare(t.legend(a.Metric), t.legend(b.Metric)) })
			for _, s := range found {
				c.curves = append(c.curves, curve{name: t.legend(s.Metric), points: points(s.Values, from)})
			}
		}
		charts = append(charts, c)
	}
	return charts, nil
}

func points(samples []sample, from time.Time) []point {
	all := make([]point, len(samples))
	for i, s := range samples {
		all[i] = point{at: s.at.Sub(from), value: s.value}
	}
	return all
}

// wait waits for d, and calls each every second.
func wait(ctx context.Context, d time.Duration, each func()) error {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if each != nil {
				each()
			}
		case <-end.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
