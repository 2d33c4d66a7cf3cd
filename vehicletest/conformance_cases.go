package vehicletest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
)

func (p *sinkProbe) checkOrder() {
	for _, sizes := range [][]int{{1}, {60}, {1, 2, 7, 1, 30}} {
		r := newRun(0)
		r.batches = inBatches(newChunks(r.cmd, 0, troubleCodes(60)...), sizes...)
		p.must(p.run(r))
		p.want(fmt.Sprintf("60 chunks in batches of %v", sizes), r.cmd.ID, r.chunks(), r.status())
	}
}

// checkEqual has a vehicle that says the same again and again, in one batch and in several.
func (p *sinkProbe) checkEqual() {
	for _, size := range []int{1, 6} {
		r := newRun(0)
		reading := `{"status":"reading"}`
		r.batches = inBatches(newChunks(r.cmd, 0, reading, reading, `null`, `null`, reading, reading), size)
		p.must(p.run(r))
		p.want(fmt.Sprintf("equal payloads in batches of %d", size), r.cmd.ID, r.chunks(), r.status())
	}
}

// checkWithoutTimestamp has a vehicle whose clock is not always set.
func (p *sinkProbe) checkWithoutTimestamp() {
	r := newRun(0)
	chunks := newChunks(r.cmd, 0, troubleCodes(6)...)
	for i := range chunks {
		if i%3 > 0 {
			chunks[i].Timestamp = time.Time{}
		}
	}
	r.batches = inBatches(chunks, 1, 3)
	p.must(p.run(r))
	p.want("after End", r.cmd.ID, r.chunks(), r.status())
}

func (p *sinkProbe) checkNumberedFromOne() {
	r := newRun(0)
	r.batches = inBatches(newChunks(r.cmd, 1, troubleCodes(5)...), 2)
	p.must(p.run(r))
	p.want("after End", r.cmd.ID, r.chunks(), r.status())
}

func (p *sinkProbe) checkFinal() {
	complete := newRun(4)
	p.must(p.run(complete))
	p.want("a completed command", complete.cmd.ID, complete.chunks(), complete.status())

	partial := newRun(4)
	partial.batches = inBatches(partial.chunks()[:3], 2)
	partial.failure = newFailure(partial.cmd, codes.Unavailable, "connection lost", 4, 3)
	p.must(p.run(partial))
	p.want("a command that failed half way", partial.cmd.ID, partial.chunks(), partial.status())
}

func (p *sinkProbe) checkKeptOnReturn() {
	r := newRun(14)
	p.must(p.begin(r.cmd))
	written := 0
	for _, batch := range r.batches {
		p.must(p.write(batch))
		written += len(batch)
		p.want(fmt.Sprintf("after %d chunks", written), r.cmd.ID, r.chunks()[:written], vehicle.StatusInProgress)
	}
	p.must(p.end(r))
}

func (p *sinkProbe) checkManyChunks() {
	r := newRun(0)
	r.batches = inBatches(newChunks(r.cmd, 0, troubleCodes(5_000)...), 700, 1, 1_300)
	p.must(p.run(r))
	p.want("after End", r.cmd.ID, r.chunks(), r.status())
}

func (p *sinkProbe) checkLargePayload() {
	r := newRun(0)
	r.batches = inBatches(newChunks(r.cmd, 0, `"before"`, largePayload(1<<20), `"after"`), 3)
	p.must(p.run(r))
	p.want("after End", r.cmd.ID, r.chunks(), r.status())
}

// checkPayloads has each payload in a command of its own, so that a failure names it, and then all in
// one batch, where one must not harm the others.
func (p *sinkProbe) checkPayloads() {
	var all []string
	for _, payload := range awkwardPayloads() {
		r := newRun(0)
		r.batches = inBatches(newChunks(r.cmd, 0, payload.text), 1)
		if err := p.run(r); err != nil {
			p.goOn(fmt.Errorf("%s: %w", payload.name, err))
			continue
		}
		p.want(payload.name, r.cmd.ID, r.chunks(), r.status())
		all = append(all, payload.text)
	}
	r := newRun(0)
	r.batches = inBatches(newChunks(r.cmd, 0, all...), len(all))
	p.must(p.run(r))
	p.want("all in one batch", r.cmd.ID, r.chunks(), r.status())
}

func (p *sinkProbe) checkParameters() {
	for _, params := range []func() map[string]any{
		func() map[string]any { return nil },
		func() map[string]any { return map[string]any{} },
		awkwardParams,
	} {
		r := newRun(2)
		r.cmd.UserID = uuid.Nil
		r.cmd.Once = true
		r.cmd.Name = strings.Repeat("Lies «Fehler» '$1' ", 10)[:100] // the commands table's limit, in bytes here
		r.cmd.Params = params()
		p.must(p.run(r))
		p.want(fmt.Sprintf("with %d parameters", len(r.cmd.Params)), r.cmd.ID, r.chunks(), r.status())
		if !reflect.DeepEqual(r.cmd.Params, params()) {
			p.errorf("the command's Params were changed")
		}
	}
}

func (p *sinkProbe) checkStatus() {
	for _, failure := range []error{nil, errors.New("connection lost")} {
		r := newRun(3)
		r.failure = failure
		p.want("before Begin", r.cmd.ID, nil, "")
		p.must(p.begin(r.cmd))
		p.want("after Begin", r.cmd.ID, nil, vehicle.StatusInProgress)
		for _, batch := range r.batches {
			p.must(p.write(batch))
		}
		p.want("after the last Write", r.cmd.ID, r.chunks(), vehicle.StatusInProgress)
		p.must(p.end(r))
		p.want("after End", r.cmd.ID, r.chunks(), r.status())
	}
}

func (p *sinkProbe) checkNoChunks() {
	for _, failure := range []error{nil, errors.New("vehicle not found")} {
		r := newRun(0)
		r.failure = failure
		p.must(p.run(r))
		p.want("after End", r.cmd.ID, nil, r.status())
	}
}

func (p *sinkProbe) checkFailures() {
	longest := strings.Repeat("é", 256) // 512 bytes
	for _, c := range []struct {
		name    string
		chunks  int
		failure func(vehicle.Command) error
	}{
		{"timed out", 3, func(cmd vehicle.Command) error {
			return newFailure(cmd, codes.DeadlineExceeded, "no final chunk within 30s", 2, 3)
		}},
		{"was canceled", 3, func(cmd vehicle.Command) error {
			return newFailure(cmd, codes.Canceled, "", 1, 3)
		}},
		{"was never sent", 0, func(cmd vehicle.Command) error {
			return newFailure(cmd, codes.Unavailable, "connection refused", 0, 0)
		}},
		{"failed with the longest text", 3, func(cmd vehicle.Command) error {
			return newFailure(cmd, codes.Internal, longest, 1, 3)
		}},
		{"failed in another sink", 3, func(vehicle.Command) error {
			return fmt.Errorf("%w: %w", vehicle.ErrSink, errors.New("another sink's disk is full"))
		}},
	} {
		r := newRun(c.chunks)
		r.failure = c.failure(r.cmd)
		if err := p.run(r); err != nil {
			p.goOn(fmt.Errorf("a command that %s: %w", c.name, err))
			continue
		}
		p.want("a command that "+c.name, r.cmd.ID, r.chunks(), vehicle.StatusFailed)
	}
}

// checkReuse hands all batches over in one slice, as the SDK does.
func (p *sinkProbe) checkReuse() {
	r := newRun(0)
	r.batches = inBatches(newChunks(r.cmd, 0, troubleCodes(40)...), 4, 1, 16)
	buffer := make([]vehicle.Chunk, 16)
	p.must(p.begin(r.cmd))
	for _, batch := range r.batches {
		n := copy(buffer, batch)
		p.must(watch(p.t.Context(), "Write", func(ctx context.Context) error { return p.Sink.Write(ctx, buffer[:n]) }))
		for i := range buffer {
			buffer[i] = vehicle.Chunk{CommandID: uuid.New(), VehicleID: uuid.New(), Seq: math.MaxInt32, Payload: json.RawMessage(`"overwritten"`)}
		}
	}
	p.must(p.end(r))
	p.want("after End", r.cmd.ID, r.chunks(), r.status())
}

func (p *sinkProbe) checkUnchanged() {
	const spare = 4
	r := newRun(20)
	var payloads [][]byte
	for _, chunk := range r.chunks() {
		payloads = append(payloads, bytes.Clone(chunk.Payload))
	}
	p.must(p.begin(r.cmd))
	for i, batch := range r.batches {
		full := slices.Concat(batch, newChunks(newCommand(), 0, troubleCodes(spare)...))
		before := make([]vehicle.Chunk, len(full))
		for i, chunk := range full {
			before[i] = chunk
			before[i].Payload = bytes.Clone(chunk.Payload)
		}
		p.must(watch(p.t.Context(), "Write", func(ctx context.Context) error { return p.Sink.Write(ctx, full[:len(batch)]) }))
		if !reflect.DeepEqual(full, before) {
			p.errorf("Write changed batch %d, which was given to it with room for %d chunks more", i+1, spare)
		}
	}
	p.must(p.end(r))
	for i, chunk := range r.chunks() {
		if !bytes.Equal(chunk.Payload, payloads[i]) {
			p.errorf("the payload of chunk %d was changed after its Write", chunk.Seq)
			break
		}
	}
}

func (p *sinkProbe) checkCanceledBegin() {
	canceled, cancel := context.WithCancel(p.t.Context())
	cancel()
	r := newRun(3)
	if p.mayFail(p.beginUnder(canceled, r.cmd)) {
		failed := sinkRun{cmd: r.cmd, failure: newFailure(r.cmd, codes.Canceled, "", 0, 0)}
		p.must(p.end(failed))
		p.want("after End", r.cmd.ID, nil, failed.status())
	}
	p.must(p.run(r))
	p.want("the same command, run again", r.cmd.ID, r.chunks(), r.status())
}

func (p *sinkProbe) checkCanceledWrite() {
	canceled, cancel := context.WithCancel(p.t.Context())
	cancel()
	r := newRun(12)
	r.failure = newFailure(r.cmd, codes.Canceled, "", 1, 4)
	p.cutShort(canceled, r, 4)
}

// checkDeadline lets deadlines pass before, in and after the Write of a batch that takes a while.
func (p *sinkProbe) checkDeadline() {
	filler := strings.Repeat("0", 4<<10)
	for _, after := range []time.Duration{0, 20 * time.Microsecond, 200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond} {
		r := newRun(0)
		payloads := troubleCodes(200)
		for i := range payloads {
			payloads[i] = `["` + filler + `",` + payloads[i] + `]`
		}
		r.batches = inBatches(newChunks(r.cmd, 0, payloads...), 5, 195)
		r.failure = newFailure(r.cmd, codes.DeadlineExceeded, "no final chunk within 30s", 1, 5)
		limited, cancel := context.WithTimeout(p.t.Context(), after)
		p.cutShort(limited, r, 5)
		cancel()
	}
}

// cutShort writes the first chunks of a run, and all the others under a context that ends. The sink
// may then hold some of those, from the first on, or all if it said so.
func (p *sinkProbe) cutShort(ending context.Context, r sinkRun, first int) {
	p.t.Helper()
	all := r.chunks()
	p.must(p.begin(r.cmd))
	p.must(p.write(all[:first]))
	least := first
	if p.mayFail(p.writeUnder(ending, all[first:])) {
		least = len(all)
	} else {
		r.unkept = len(all) - first
	}
	p.must(p.end(r))
	p.wantBetween("after End", r.cmd.ID, all, least, r.status())
}

func (p *sinkProbe) checkConcurrent() {
	p.inTurns(newRun(15), newRun(15))
	runs := make([]sinkRun, 32)
	vehicleID := uuid.New()
	for i := range runs {
		cmd := newCommand()
		if i%2 == 0 {
			cmd.VehicleID = vehicleID // a vehicle may have several commands at once
		}
		first := int32(i % 2)
		runs[i] = sinkRun{cmd: cmd, batches: inBatches(newChunks(cmd, first, troubleCodes(15)...), 1, 4, 2)}
		if i%3 == 0 {
			runs[i].failure = newFailure(cmd, codes.Unavailable, "connection lost", 4, 15)
		}
	}
	p.runAll(runs, nil)
}

// inTurns runs two commands a call of each at a time: a sink that has one wait for the other's End waits for ever.
func (p *sinkProbe) inTurns(a, b sinkRun) {
	p.t.Helper()
	runs := []sinkRun{a, b}
	for _, r := range runs {
		p.must(p.begin(r.cmd))
	}
	for i := range a.batches {
		for _, r := range runs {
			p.must(p.write(r.batches[i]))
		}
	}
	for _, r := range runs {
		p.must(p.end(r))
	}
	for i, r := range runs {
		p.want(fmt.Sprintf("command %d of 2 that took turns", i+1), r.cmd.ID, r.chunks(), r.status())
	}
}

func (p *sinkProbe) checkNeighbours() {
	runs := make([]sinkRun, 16)
	for i := range runs {
		runs[i] = newRun(30)
	}
	p.runAll(runs, func() error {
		for i := range 16 {
			r := newRun(30)
			ctx, cancel := context.WithTimeout(p.t.Context(), time.Duration(i%4)*100*time.Microsecond)
			err := p.begin(r.cmd)
			if err == nil {
				switch err := p.writeUnder(ctx, r.chunks()); {
				case errors.Is(err, errMisbehaved):
					cancel()
					return err
				case err != nil:
					r.unkept = len(r.chunks())
				}
				r.failure = newFailure(r.cmd, codes.Canceled, "", 1, 0)
				err = p.end(r)
			}
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// runAll runs all at once, beside what else there is, and then looks at what was kept of them.
func (p *sinkProbe) runAll(runs []sinkRun, beside func() error) {
	p.t.Helper()
	errs := make([]error, len(runs)+1)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i, r := range runs {
		wg.Go(func() {
			<-start
			errs[i] = p.run(r)
		})
	}
	if beside != nil {
		wg.Go(func() {
			<-start
			errs[len(runs)] = beside()
		})
	}
	close(start)
	wg.Wait()
	p.must(errors.Join(errs...))
	for i, r := range runs {
		p.want(fmt.Sprintf("command %d of %d", i+1, len(runs)), r.cmd.ID, r.chunks(), r.status())
	}
}

// checkRunAgain runs one command with ever other answers, shorter and longer than the one before.
func (p *sinkProbe) checkRunAgain() {
	cmd := newCommand()
	for _, again := range []struct {
		name   string
		chunks int
		fails  bool
	}{
		{"the first run, which fails", 7, true},
		{"the second run, shorter", 3, false},
		{"the third run, longer", 9, false},
		{"the fourth run, which fails", 2, true},
		{"the fifth run, without chunks", 0, false},
	} {
		r := sinkRun{cmd: cmd, batches: inBatches(newChunks(cmd, 0, troubleCodes(again.chunks)...), 2)}
		if again.fails {
			r.failure = newFailure(cmd, codes.Unavailable, "connection lost", 4, again.chunks)
		}
		p.must(p.begin(cmd))
		for i, batch := range r.batches {
			p.must(p.write(batch))
			p.want(again.name+", after a Write", cmd.ID, slices.Concat(r.batches[:i+1]...), vehicle.StatusInProgress)
		}
		p.must(p.end(r))
		p.want(again.name, cmd.ID, r.chunks(), r.status())
	}
}
