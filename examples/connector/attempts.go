package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
)

// attempt is one asking of the vehicle, as its connection saw it.
type attempt struct {
	Number     int       `json:"attempt"`
	ResumeFrom *int32    `json:"resume_from,omitempty"` // the first chunk that was asked for, where it was not all
	StartedAt  time.Time `json:"started_at"`
	Chunks     int       `json:"chunks"`                // that came, those too that had come before
	First      *int32    `json:"first_chunk,omitempty"` // the lowest number of those
	Last       *int32    `json:"last_chunk,omitempty"`  // the highest
	Code       string    `json:"code,omitempty"`        // how the call ended; empty while it goes on
}

// outcome is what the SDK says of a command that has ended.
type outcome struct {
	Status   vehicle.Status `json:"status"`
	Attempts int            `json:"attempts"`
	Chunks   int            `json:"chunks"`
	Replayed int            `json:"replayed"` // came again, and were dropped
}

// trace is how one command goes. It may be used by several goroutines at once.
type trace struct {
	mu       sync.Mutex
	attempts []attempt
	outcome  *outcome
}

// traces has the latest commands of this process. The zero value is ready.
type traces struct {
	mu    sync.Mutex
	of    map[uuid.UUID]*trace
	order []uuid.UUID // the oldest first
}

const tracesKept = 1000

// begin notes a command. What is run with the context that it returns, on a client with traced connections, is noted too.
func (t *traces) begin(ctx context.Context, id uuid.UUID) (context.Context, *trace) {
	tr := new(trace)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[uuid.UUID]*trace)
	}
	if len(t.order) == tracesKept {
		delete(t.of, t.order[0])
		t.order = t.order[1:]
	}
	t.of[id], t.order = tr, append(t.order, id)
	return context.WithValue(ctx, traceKey{}, tr), tr
}

func (t *traces) find(id uuid.UUID) *trace {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[id]
}

type traceKey struct{}

// traceAttempts is a client's interceptor: it sees each attempt, since the SDK's retries are above it.
func traceAttempts(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	tr, ok := ctx.Value(traceKey{}).(*trace)
	if !ok {
		return streamer(ctx, desc, cc, method, opts...)
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	n := tr.start(number(md, "x-sovd-attempt"), number(md, "x-sovd-resume-from"))
	stream, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		tr.end(n, err)
		return nil, err
	}
	return &tracedStream{ClientStream: stream, trace: tr, attempt: n}, nil
}

// number reads a number of the SDK's metadata; nil where there is none.
func number(md metadata.MD, key string) *int32 {
	for _, text := range md.Get(key) {
		if n, err := strconv.ParseInt(text, 10, 32); err == nil {
			n := int32(n)
			return &n
		}
	}
	return nil
}

type tracedStream struct {
	grpc.ClientStream
	trace   *trace
	attempt int
}

func (s *tracedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.trace.end(s.attempt, err)
	} else if chunk, ok := m.(*vehiclepb.CommandResponse); ok {
		s.trace.receive(s.attempt, chunk.GetSequenceNumber())
	}
	return err
}

// start notes an attempt and gives its place. One that has moved to another connection keeps its number.
func (t *trace) start(n, from *int32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := attempt{Number: len(t.attempts) + 1, ResumeFrom: from, StartedAt: time.Now().UTC()}
	if n != nil {
		a.Number = int(*n)
	}
	if last := len(t.attempts) - 1; last >= 0 && t.attempts[last].Number == a.Number {
		t.attempts[last] = a
		return last
	}
	t.attempts = append(t.attempts, a)
	return len(t.attempts) - 1
}

func (t *trace) receive(n int, seq int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.attempts[n]
	if a.Chunks++; a.First == nil || seq < *a.First {
		a.First = &seq
	}
	if a.Last == nil || seq > *a.Last {
		a.Last = &seq
	}
}

func (t *trace) end(n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	t.attempts[n].Code = status.Code(err).String()
}

func (t *trace) ended(res *vehicle.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcome = &outcome{Status: res.Status, Attempts: res.Attempts, Chunks: res.Chunks, Replayed: res.Replayed}
}

// getAttempts says how often the vehicle was asked, and what came: of the latest commands that this process runs, or has run.
func (s *service) getAttempts(w http.ResponseWriter, r *http.Request) {
	id, ok := parseID(r.PathValue("id"))
	if !ok {
		noCommand.write(w)
		return
	}
	t := s.traces.find(id)
	if t == nil {
		noTrace.write(w)
		return
	}
	t.mu.Lock()
	answer := struct {
		ID       uuid.UUID `json:"command_id"`
		Attempts []attempt `json:"attempts"`
		Outcome  *outcome  `json:"outcome,omitempty"` // once it has ended
	}{id, slices.Clone(t.attempts), t.outcome}
	t.mu.Unlock()
	if answer.Attempts == nil {
		answer.Attempts = []attempt{}
	}
	writeJSON(w, http.StatusOK, answer)
}
