package vehicletest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/sinkcall"
)

// sinkT is what the cases use of *testing.T. The suite's own tests put a recorder in its place.
type sinkT interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	FailNow()
}

// sinkProbe calls a sink as the SDK does. Its calls may be made from several goroutines; what reports
// to the test (must, want, errorf) belongs to the test's own.
type sinkProbe struct {
	Harness
	t    sinkT
	rule string
	hung *atomic.Bool // a call did
}

// sinkRun is a command from Begin to End.
type sinkRun struct {
	cmd     vehicle.Command
	batches [][]vehicle.Chunk
	failure error // nil: it completes
	unkept  int   // of the chunks, those whose Write failed
}

func (r sinkRun) chunks() []vehicle.Chunk { return slices.Concat(r.batches...) }

func (r sinkRun) status() vehicle.Status {
	if r.failure != nil {
		return vehicle.StatusFailed
	}
	return vehicle.StatusCompleted
}

// run takes a command from Begin to End.
func (p *sinkProbe) run(r sinkRun) error {
	if err := p.begin(r.cmd); err != nil {
		return err
	}
	for _, batch := range r.batches {
		if err := p.write(batch); err != nil {
			return err
		}
	}
	return p.end(r)
}

func (p *sinkProbe) begin(cmd vehicle.Command) error { return p.beginUnder(p.t.Context(), cmd) }

func (p *sinkProbe) beginUnder(ctx context.Context, cmd vehicle.Command) error {
	return watch(ctx, "Begin", func(ctx context.Context) error { return p.Sink.Begin(ctx, cmd) })
}

func (p *sinkProbe) write(chunks []vehicle.Chunk) error { return p.writeUnder(p.t.Context(), chunks) }

func (p *sinkProbe) writeUnder(ctx context.Context, chunks []vehicle.Chunk) error {
	batch := slices.Clone(chunks) // each its own: a sink that keeps the slice is one case's business
	return watch(ctx, "Write", func(ctx context.Context) error { return p.Sink.Write(ctx, batch) })
}

// end tells the sink what the run came to. Like the SDK it counts the chunks that the sink took.
func (p *sinkProbe) end(r sinkRun) error {
	now := time.Now()
	res := vehicle.Result{
		Command:    r.cmd,
		Status:     r.status(),
		Err:        r.failure,
		Chunks:     len(r.chunks()) - r.unkept,
		Attempts:   1,
		StartedAt:  now.Add(-time.Second),
		FinishedAt: now,
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), sinkcall.EndTime)
	defer cancel()
	return watch(ctx, "End", func(ctx context.Context) error { return p.Sink.End(ctx, res) })
}

// sinkPatience is how long a call may take. It is generous: a database on a busy machine.
const sinkPatience = 30 * time.Second

// errMisbehaved is a call that did not return as a call should, even one that may fail.
var errMisbehaved = errors.New("misbehaved")

var errHung = fmt.Errorf("%w: it has not returned within %v", errMisbehaved, sinkPatience)

// watch makes one call. Its context ends with the call, so that a sink that works on behind the
// caller's back is found. A call that hangs cannot be ended and is left behind.
func watch(ctx context.Context, name string, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := fmt.Errorf("%s %w: it ended its goroutine", name, errMisbehaved)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("%s %w: it panicked: %v\n%s", name, errMisbehaved, v, debug.Stack())
			}
			done <- err
		}()
		if err = call(ctx); err != nil {
			err = fmt.Errorf("%s failed: %w", name, err)
		}
	}()
	patience := time.NewTimer(sinkPatience)
	defer patience.Stop()
	select {
	case err := <-done:
		return err
	case <-patience.C:
		return fmt.Errorf("%s %w", name, errHung)
	}
}

func (p *sinkProbe) errorf(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf("%s\n\tThe rule: %s.", fmt.Sprintf(format, args...), p.rule)
}

func (p *sinkProbe) must(err error) {
	p.t.Helper()
	if err != nil {
		p.goOn(err)
		p.t.FailNow()
	}
}

// goOn reports an error and lets the test go on, unless a call hung: the next one would, too.
func (p *sinkProbe) goOn(err error) {
	p.t.Helper()
	p.errorf("%v", err)
	if errors.Is(err, errHung) {
		p.hung.Store(true)
		p.t.FailNow()
	}
}

// mayFail ends the test if the call misbehaved, and says whether it succeeded.
func (p *sinkProbe) mayFail(err error) (ok bool) {
	p.t.Helper()
	if errors.Is(err, errMisbehaved) {
		p.must(err)
	}
	return err == nil
}

// want compares what the sink holds of a command, if it can be read. when says when.
func (p *sinkProbe) want(when string, id uuid.UUID, chunks []vehicle.Chunk, status vehicle.Status) {
	p.t.Helper()
	p.wantBetween(when, id, chunks, len(chunks), status)
}

// wantBetween is want where the sink may hold the first least chunks, or more, up to all.
func (p *sinkProbe) wantBetween(when string, id uuid.UUID, chunks []vehicle.Chunk, least int, status vehicle.Status) {
	p.t.Helper()
	if p.Read == nil {
		return
	}
	got, gotStatus := p.read(id)
	if n := len(got); least <= n && n < len(chunks) {
		chunks = chunks[:n]
	}
	if diff := diffChunks(got, chunks); diff != "" {
		p.errorf("%s: %s", when, diff)
	}
	if gotStatus != status {
		p.errorf("%s: the status is %q, want %q", when, gotStatus, status)
	}
}

// read asks the harness, whose error ends the test.
func (p *sinkProbe) read(id uuid.UUID) (chunks []vehicle.Chunk, status vehicle.Status) {
	p.t.Helper()
	p.must(watch(p.t.Context(), "the harness's Read", func(ctx context.Context) (err error) {
		chunks, status, err = p.Read(ctx, id)
		return err
	}))
	return chunks, status
}

// diffChunks says what is wrong with got in one line, or "".
func diffChunks(got, want []vehicle.Chunk) string {
	for i := range max(len(got), len(want)) {
		if i < len(got) && i < len(want) && got[i].Seq == want[i].Seq {
			continue
		}
		return fmt.Sprintf("the chunks differ from index %d on: got %s, want %s", i, numbers(got, i), numbers(want, i))
	}
	for i := range want {
		if diff := diffChunk(got[i], want[i]); diff != "" {
			return fmt.Sprintf("chunk %d: %s", want[i].Seq, diff)
		}
	}
	return ""
}

// numbers lists the sequence numbers around index i.
func numbers(chunks []vehicle.Chunk, i int) string {
	if len(chunks) == 0 {
		return "no chunks"
	}
	from, to := max(0, i-2), min(i+3, len(chunks))
	seqs := make([]int32, 0, to-from)
	for _, c := range chunks[from:to] {
		seqs = append(seqs, c.Seq)
	}
	return fmt.Sprintf("%d chunks numbered %s%v%s", len(chunks), dots(from > 0), seqs, dots(to < len(chunks)))
}

func dots(more bool) string {
	if more {
		return "…"
	}
	return ""
}

func diffChunk(got, want vehicle.Chunk) string {
	switch {
	case got.CommandID != want.CommandID:
		return fmt.Sprintf("it is of command %s, want %s", got.CommandID, want.CommandID)
	case got.Final != want.Final:
		return fmt.Sprintf("Final is %t, want %t", got.Final, want.Final)
	case got.VehicleID != uuid.Nil && got.VehicleID != want.VehicleID:
		return fmt.Sprintf("VehicleID is %s, want %s or zero", got.VehicleID, want.VehicleID)
	case !sameTime(got.Timestamp, want.Timestamp):
		return fmt.Sprintf("Timestamp is %v, want %v or zero", got.Timestamp, want.Timestamp)
	case !sameTime(got.ReceivedAt, want.ReceivedAt):
		return fmt.Sprintf("ReceivedAt is %v, want %v or zero", got.ReceivedAt, want.ReceivedAt)
	}
	return diffPayload(got.Payload, want.Payload)
}

// sameTime allows for a sink that does not keep the time, and for one that rounds it.
func sameTime(got, want time.Time) bool {
	return got.IsZero() || got.Sub(want).Abs() < time.Millisecond
}

func diffPayload(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	gotValue, err := canonicalJSON(got)
	if err != nil {
		return fmt.Sprintf("the payload %s is not JSON", excerpt(got))
	}
	wantValue, err := canonicalJSON(want)
	if err != nil {
		return fmt.Sprintf("the suite's payload %s is not JSON", excerpt(want)) // a mistake of ours
	}
	if bytes.Equal(gotValue, wantValue) {
		return ""
	}
	return fmt.Sprintf("the payload is %s, want %s", excerpt(got), excerpt(want))
}

// excerpt quotes the suite's own payloads, and what became of them.
func excerpt(payload []byte) string {
	const most = 80
	if len(payload) > most {
		return fmt.Sprintf("%q… (%d bytes)", payload[:most], len(payload))
	}
	return fmt.Sprintf("%q", payload)
}
