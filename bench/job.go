package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// job is what a client process is told to do, and measures.
type job struct {
	Kind kind
	Side side

	Target string // of the gateway
	Chunks int    // in an answer
	Size   int    // of a chunk, in bytes
	Delay  time.Duration
	Keep   bool // the caller keeps all payloads until the end
	Heap   int  // bytes of the application's own beside it, in small pieces

	AtOnce int // commands, open streams, or writers
	Warmup time.Duration
	Window time.Duration // how long is measured

	Postgres string // URLs, where the job uses them
	Redis    string

	CPUProfile string // files, if any
	MemProfile string
}

// kind is what is measured.
type kind string

const (
	kindStream   kind = "stream"   // long answers, one after the other
	kindCommands kind = "commands" // short ones, so many at once
	kindOpen     kind = "open"     // answers that stay open
	kindRows     kind = "rows"     // rows into responses, without a vehicle
)

// side is who does it.
type side string

const (
	sideSDK       side = "sdk"
	sideStub      side = "stub"      // the generated stub with a Recv loop
	sideBare      side = "bare"      // what is left of the SDK without all that it does
	sideConnector side = "connector" // the stub and what people write around it in an afternoon
	sideFair      side = "fair"      // the stub and one pipelined transaction for a command
	sideCopy      side = "copy"      // COPY

	sideSDKPostgres side = "sdk, PostgreSQL alone"
	sideSDKStream   side = "sdk, Redis Streams"
)

// runner is a side at work. Its methods are for concurrent use.
type runner interface {
	// run runs one command. See is called with each chunk, in order, where the runner shows chunks to its caller.
	run(ctx context.Context, cmd order, see func(seq int, payload []byte, text string, final bool)) error
	close() error
}

// order is a command for a runner.
type order struct {
	id, vehicle uuid.UUID
	name        string
	params      map[string]string
	values      map[string]any // the same, as the SDK takes them
}

// orders returns what makes a job's orders. Their parameters are the same, and are made once: that costs a caller about the same
// with the SDK and without.
func (j *job) orders() func() order {
	params := map[string]string{
		paramChunks: fmt.Sprint(j.Chunks), paramSize: fmt.Sprint(j.Size), paramDelay: fmt.Sprint(j.Delay.Milliseconds()),
	}
	if j.Kind == kindOpen {
		params[paramHold] = "true"
	}
	values := make(map[string]any, len(params))
	for key, value := range params {
		values[key] = value
	}
	return func() order {
		return order{id: uuid.New(), vehicle: theVehicle, name: "ReadDTC", params: params, values: values}
	}
}

var theVehicle = uuid.MustParse("0b5f0e43-6c4d-4f0e-9a3b-6d2f3f1c7a10")

func (j *job) measure(ctx context.Context) (figures, error) {
	application := newPiece(j.Heap / pieceSize)
	defer runtime.KeepAlive(application)
	if j.Kind == kindRows {
		return j.measureRows(ctx)
	}
	r, err := j.newRunner(ctx)
	if err != nil {
		return nil, err
	}
	var f figures
	switch j.Kind {
	case kindStream:
		f, err = j.measureStream(ctx, r)
	case kindCommands:
		f, err = j.measureCommands(ctx, r)
	case kindOpen:
		f, err = j.measureOpen(ctx, r)
	default:
		err = fmt.Errorf("there is no kind of work %q", j.Kind)
	}
	if failed := r.close(); err == nil {
		err = failed
	}
	return f, err
}

// piece is one of many that an application's heap consists of, and that the garbage collector has to follow.
type piece struct {
	left, right *piece
	_           [48]byte
}

const pieceSize = 64 // bytes, where a pointer has 8

// newPiece makes a tree of so many.
func newPiece(pieces int) *piece {
	if pieces == 0 {
		return nil
	}
	left := (pieces - 1) / 2
	return &piece{left: newPiece(left), right: newPiece(pieces - 1 - left)}
}

// newRunner makes the job's side.
func (j *job) newRunner(ctx context.Context) (runner, error) {
	switch j.Side {
	case sideStub:
		return newStub(j.Target)
	case sideBare:
		return newBare(j.Target)
	case sideConnector:
		return newConnector(ctx, j)
	case sideFair:
		return newFair(ctx, j)
	case sideSDK, sideSDKPostgres, sideSDKStream:
		return newSDK(ctx, j)
	default:
		return nil, fmt.Errorf("%q does not run commands", j.Side)
	}
}

// answer checks what a caller is shown of one command. One goroutine uses it at a time.
type answer struct {
	want   []string
	chunks int
	whole  bool // payloads are compared, and not only their lengths
	keep   bool

	seen  int
	final bool
	wrong error

	bytes [][]byte // what was kept, as the side has it
	texts []string
}

func (a *answer) see(seq int, payload []byte, text string, final bool) {
	want := a.want[a.seen%len(a.want)]
	switch {
	case seq != a.seen || a.final:
		a.fail("got chunk %d, want %d", seq, a.seen)
	case len(payload)+len(text) != len(want):
		a.fail("chunk %d has %d bytes, want %d", seq, len(payload)+len(text), len(want))
	case a.whole && string(payload) != want && text != want:
		a.fail("chunk %d is not what the vehicle sent", seq)
	}
	if a.keep {
		if payload != nil {
			a.bytes = append(a.bytes, payload)
		} else {
			a.texts = append(a.texts, text)
		}
	}
	a.seen++
	a.final = final
}

func (a *answer) fail(format string, args ...any) {
	if a.wrong == nil {
		a.wrong = fmt.Errorf(format, args...)
	}
}

// verify says whether all of the answer came.
func (a *answer) verify() error {
	switch {
	case a.wrong != nil:
		return a.wrong
	case a.seen != a.chunks || !a.final:
		return fmt.Errorf("got %d chunks, final %t, want %d", a.seen, a.final, a.chunks)
	case a.keep && len(a.bytes)+len(a.texts) != a.chunks:
		return fmt.Errorf("kept %d payloads, want %d", len(a.bytes)+len(a.texts), a.chunks)
	}
	return nil
}

// verifyKept says whether what was kept is what the vehicle sent.
func (a *answer) verifyKept() error {
	for i, payload := range a.bytes {
		if string(payload) != a.want[i%len(a.want)] {
			return fmt.Errorf("kept payload %d is no longer what the vehicle sent", i)
		}
	}
	for i, payload := range a.texts {
		if payload != a.want[i%len(a.want)] {
			return fmt.Errorf("kept payload %d is no longer what the vehicle sent", i)
		}
	}
	return nil
}

// measureStream runs a short answer, of which all is compared, to warm up, and then long ones, one after the other, until
// the window is over.
func (j *job) measureStream(ctx context.Context, r runner) (figures, error) {
	want := payloadsOf(j.Size)
	warm := *j
	warm.Chunks = max(1, j.Chunks/10)
	first := answer{want: want, chunks: warm.Chunks, whole: true}
	if err := j.runOne(ctx, r, warm.orders()(), &first); err != nil {
		return nil, err
	}
	var m meter
	if err := m.start(j); err != nil {
		return nil, err
	}
	var last answer
	next := j.orders()
	done := 0
	for done == 0 || time.Since(m.at) < j.Window {
		last = answer{want: want, chunks: j.Chunks, keep: j.Keep}
		if err := j.runOne(ctx, r, next(), &last); err != nil {
			return nil, err
		}
		done++
	}
	f, err := m.stop(done * j.Chunks)
	if err != nil {
		return nil, err
	}
	f[commandsInAll], f[chunksInAll] = float64(done+1), float64(done*j.Chunks+warm.Chunks)
	return f, last.verifyKept()
}

// waitFor waits for d, and then until there is something to count.
func waitFor(ctx context.Context, d time.Duration, counted *atomic.Int64) error {
	err := wait(ctx, d)
	for err == nil && counted.Load() == 0 {
		err = wait(ctx, time.Millisecond)
	}
	return err
}

// runOne runs a command and looks whether all of its answer came. Where it goes to databases, those are looked at
// instead, later.
func (j *job) runOne(ctx context.Context, r runner, cmd order, a *answer) error {
	if err := r.run(ctx, cmd, a.see); err != nil || j.Postgres != "" {
		return err
	}
	return a.verify()
}

// measureCommands has so many goroutines run one command after the other. Those that end within the window count, and
// the times of those that begin in it.
func (j *job) measureCommands(ctx context.Context, r runner) (figures, error) {
	want := payloadsOf(j.Size)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all, counted atomic.Int64
	var times latencies
	next := j.orders()
	var phase atomic.Int32 // 0 warming up, 1 measuring, 2 over
	var wg sync.WaitGroup
	for range j.AtOnce {
		wg.Go(func() {
			for phase.Load() < 2 && ctx.Err() == nil {
				measured, start := phase.Load() == 1, time.Now()
				a := answer{want: want, chunks: j.Chunks, whole: true}
				if err := j.runOne(ctx, r, next(), &a); err != nil {
					cancel(err)
					return
				}
				all.Add(1)
				if phase.Load() == 1 {
					counted.Add(1)
				}
				if measured {
					times.add(time.Since(start))
				}
			}
		})
	}
	err := wait(ctx, j.Warmup)
	var m meter
	if err == nil {
		err = m.start(j)
	}
	phase.Store(1)
	if err == nil {
		err = waitFor(ctx, j.Window, &counted)
	}
	var f figures
	if err == nil {
		f, err = m.stop(int(counted.Load()))
	}
	phase.Store(2)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return nil, err
	}
	f[halfWithin], f[mostWithin] = times.percentile(50), times.percentile(99)
	f[commandsInAll], f[chunksInAll] = float64(all.Load()), float64(int(all.Load())*j.Chunks)
	return f, nil
}

// measureOpen opens streams that stay open, and looks at what that has cost when each has brought a chunk.
func (j *job) measureOpen(ctx context.Context, r runner) (figures, error) {
	want := payloadsOf(j.Size)
	one := *j
	one.Kind, one.Chunks, one.Delay = kindCommands, 1, 0
	a := answer{want: want, chunks: 1, whole: true}
	if err := r.run(ctx, one.orders()(), a.see); err != nil { // connects
		return nil, err
	}
	var m meter
	if err := m.start(j); err != nil {
		return nil, err
	}
	before, err := residentMemory()
	if err != nil {
		return nil, err
	}
	goroutines := runtime.NumGoroutine()
	next := j.orders()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var open, wg sync.WaitGroup
	for range j.AtOnce {
		open.Add(1)
		wg.Go(func() {
			arrived := sync.OnceFunc(open.Done)
			defer arrived()
			err := r.run(ctx, next(), func(seq int, payload []byte, text string, _ bool) {
				if string(payload)+text != want[seq] {
					cancel(fmt.Errorf("chunk %d is not what the vehicle sent", seq))
				}
				arrived()
			})
			if ctx.Err() == nil {
				cancel(fmt.Errorf("a stream did not stay open: %w", err))
			}
		})
	}
	open.Wait()
	f, err := m.stop(j.AtOnce)
	runtime.GC()
	after, err2 := residentMemory()
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	f[memoryEach] = float64(after-before) / float64(j.AtOnce)
	f[routines] = float64(runtime.NumGoroutine()-goroutines) / float64(j.AtOnce)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	wg.Wait()
	return f, err
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
