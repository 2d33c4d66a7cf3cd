package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// A soak runs the SDK at full load, through PostgreSQL and Redis, cuts the link to the vehicles again and again, and
// looks whether the client's memory stays what it is.

const (
	soakAtOnce = 256
	soakLong   = 500 // chunks; every soakEvery-th command is that long, the others have 3
	soakEvery  = 100
	soakCut    = 10 * time.Second // between two cuts of the link
	soakKept   = 15 * time.Second // how long rows stay
)

// soaked is one look at the client process.
type soaked struct {
	Seconds    float64 `json:"seconds"`
	Commands   int64   `json:"commands"`
	Chunks     int64   `json:"chunks"`
	Retries    int64   `json:"retries"`
	Resident   int64   `json:"resident_bytes"`
	Heap       int64   `json:"live_heap_bytes"`
	Goroutines int64   `json:"goroutines"`
	Last       bool    `json:"last,omitempty"` // the client has ended
}

// soakReport is the JSON of a soak.
type soakReport struct {
	Machine  machine           `json:"machine"`
	Cuts     int               `json:"cuts"`
	Verified int               `json:"verified_commands"`
	Samples  []soaked          `json:"samples"`
	Trends   map[string]trend  `json:"trends"`
	Verdict  map[string]string `json:"verdict"`
}

// soakOrder is what the client process of a soak is told.
type soakOrder struct {
	job
	For   time.Duration
	Every time.Duration // between two samples
}

// soakClient is the client process.
func soakClient(ctx context.Context, o soakOrder, say func(soaked) error) error {
	o.Side, o.Chunks, o.Delay = sideSDK, 3, 10*time.Millisecond // so that a cut finds some under way
	s, err := newSDK(ctx, &o.job)
	if err != nil {
		return err
	}
	start := time.Now()
	end := start.Add(o.For)
	long := o.job
	long.Chunks = soakLong
	short, seldom := o.orders(), long.orders()
	var commands, chunks, retries atomic.Int64
	loadCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for worker := range soakAtOnce {
		wg.Go(func() {
			for i := worker; time.Now().Before(end) && loadCtx.Err() == nil; i++ {
				next, size := short, o.Chunks
				if i%soakEvery == 0 {
					next, size = seldom, long.Chunks
				}
				attempts, err := s.execute(loadCtx, next())
				if err != nil {
					cancel(fmt.Errorf("a command failed: %w", err))
					return
				}
				commands.Add(1)
				chunks.Add(int64(size))
				retries.Add(int64(attempts - 1))
			}
		})
	}
	look := func() (soaked, error) {
		resident, err := residentMemory()
		heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(heap)
		return soaked{
			Seconds: time.Since(start).Seconds(), Commands: commands.Load(), Chunks: chunks.Load(), Retries: retries.Load(),
			Resident: resident, Heap: int64(heap[0].Value.Uint64()), Goroutines: int64(runtime.NumGoroutine()),
		}, err
	}
	for time.Until(end) > o.Every/2 {
		if wait(loadCtx, o.Every) != nil {
			break
		}
		sample, err := look()
		if err == nil {
			err = say(sample)
		}
		if err != nil {
			cancel(err)
		}
	}
	wg.Wait()
	last, err := look()
	last.Last = true
	return errors.Join(context.Cause(loadCtx), err, s.close(), say(last))
}

// runSoak runs a soak, judges it and prints.
func (s *settings) runSoak(ctx context.Context, out, progress io.Writer) error {
	rep, err := soak(ctx, s.soak, progress)
	if err != nil {
		return err
	}
	failed := rep.judge()
	if s.json != "" {
		failed = errors.Join(failed, writeJSON(s.json, rep))
	}
	if s.doc != "" {
		failed = errors.Join(failed, rep.document(s.doc))
	}
	return errors.Join(failed, rep.print(out))
}

// soak is the soak's main process. It fails where a command does, or is not stored as it should be.
func soak(ctx context.Context, d time.Duration, progress io.Writer) (_ *soakReport, err error) {
	gateway, at, err := startGateway(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gateway.close()) }()
	db, err := startStores(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	rep := &soakReport{Machine: newReport(1).Machine}
	if rep.Machine.PostgreSQL, rep.Machine.Redis, err = db.versions(ctx); err != nil {
		return nil, err
	}
	client, err := startPart(ctx, roleSoak, 0)
	if err != nil {
		return nil, err
	}
	err = json.NewEncoder(client.in).Encode(soakOrder{For: d, Every: min(5*time.Second, d/20), job: job{
		Kind: kindCommands, Target: at.Open, Size: smallChunk, Postgres: db.postgres.URL(), Redis: db.redis.URL(),
	}})
	if err == nil {
		err = rep.watch(ctx, client, gateway, db, progress)
	}
	if err := errors.Join(err, client.close()); err != nil {
		return nil, err
	}
	return rep, rep.verify(ctx, db)
}

// watch takes the client's samples until its last. Meanwhile it cuts the link, and deletes old rows once it has looked at
// them.
func (r *soakReport) watch(ctx context.Context, client, gateway *part, db *stores, progress io.Writer) error {
	var last time.Time
	for {
		var sample soaked
		if err := client.read(&sample); err != nil {
			return err
		}
		r.Samples = append(r.Samples, sample)
		if sample.Last {
			return nil
		}
		_, _ = fmt.Fprintf(progress, "%.0f s: %d commands, %d MiB resident\n", sample.Seconds, sample.Commands, sample.Resident>>20)
		n, err := db.trim(ctx, soakKept)
		if err != nil {
			return err
		}
		r.Verified += n
		if time.Since(last) > soakCut {
			if _, err := gateway.in.Write([]byte{'\n'}); err != nil {
				return err
			}
			last = time.Now()
			r.Cuts++
		}
	}
}

// verify looks at what is left in the stores.
func (r *soakReport) verify(ctx context.Context, db *stores) error {
	for {
		n, err := db.trim(ctx, 0)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		r.Verified += n
	}
	if want := r.Samples[len(r.Samples)-1].Commands; int64(r.Verified) != want {
		return fmt.Errorf("%d commands completed and %d are stored as they should be", want, r.Verified)
	}
	return nil
}

// judge looks whether anything grows after the warm-up, which is a fifth of the time.
func (r *soakReport) judge() error {
	r.Trends, r.Verdict = make(map[string]trend), make(map[string]string)
	total := r.Samples[len(r.Samples)-1].Seconds
	var failed []error
	for name, of := range map[string]func(soaked) int64{
		"resident memory": func(s soaked) int64 { return s.Resident },
		"live heap":       func(s soaked) int64 { return s.Heap },
		"goroutines":      func(s soaked) int64 { return s.Goroutines },
	} {
		var at, values []float64
		for _, s := range r.Samples {
			if s.Seconds >= total/5 && !s.Last {
				at, values = append(at, s.Seconds), append(values, float64(of(s)))
			}
		}
		t := trendOf(at, values)
		r.Trends[name], r.Verdict[name] = t, "constant"
		if t.grows() {
			r.Verdict[name] = "grows"
			failed = append(failed, fmt.Errorf("%s grows by %.3g, from a mean of %.3g; noise explains %.3g", name, t.Growth, t.Mean, t.Noise))
		}
	}
	return errors.Join(failed...)
}

// trend is the straight line through samples, by least squares.
type trend struct {
	Mean   float64 `json:"mean"`
	Growth float64 `json:"growth"` // from the first sample to the last
	Noise  float64 `json:"noise"`  // three standard errors of the growth
}

func trendOf(at, values []float64) trend {
	n := float64(len(at))
	if n < 3 {
		return trend{}
	}
	var sumX, sumY float64
	for i := range at {
		sumX, sumY = sumX+at[i], sumY+values[i]
	}
	x, y := sumX/n, sumY/n
	var xx, xy float64
	for i := range at {
		xx, xy = xx+(at[i]-x)*(at[i]-x), xy+(at[i]-x)*(values[i]-y)
	}
	slope := xy / xx
	var rest float64
	for i := range at {
		d := values[i] - y - slope*(at[i]-x)
		rest += d * d
	}
	span := at[len(at)-1] - at[0]
	return trend{Mean: y, Growth: slope * span, Noise: 3 * math.Sqrt(rest/(n-2)/xx) * span}
}

// grows says whether the growth is more than noise, and than a twentieth, which it takes a collector to settle.
func (t trend) grows() bool { return t.Growth > t.Noise && t.Growth > t.Mean/20 }

// print writes a table of some ten samples and the verdict.
func (r *soakReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "seconds\tcommands\tchunks\tretries\tresident MiB\tlive heap MiB\tgoroutines\t")
	step := max(1, len(r.Samples)/10)
	for i := step - 1; i < len(r.Samples); i += step {
		s := r.Samples[i]
		_, _ = fmt.Fprintf(w, "%.0f\t%d\t%d\t%d\t%.1f\t%.1f\t%d\t\n", s.Seconds, s.Commands, s.Chunks, s.Retries,
			float64(s.Resident)/(1<<20), float64(s.Heap)/(1<<20), s.Goroutines)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "%d commands are stored as they should be; the link was cut %d times\n", r.Verified, r.Cuts)
	for _, name := range []string{"resident memory", "live heap", "goroutines"} {
		_, _ = fmt.Fprintf(out, "%s: %s\n", name, r.Verdict[name])
	}
	return nil
}
