package pgsink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
)

// Commands come and go, are left and run again, while whatever may happen to a transaction happens: every run that ends is
// stored once, in order and as it ended, no command stays in progress that nobody runs, no two transactions have a command
// at once, and no writer rests while there is something that it could do. Other tests have a real server; this one's is in memory,
// so that the time is a bubble's, in which a thousand schedules and transactions that hang for 15 s take a moment.
func FuzzWriters(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { newModel(t, seed).run() })
	})
}

// model is a Sink with its callers and their server.
type model struct {
	t      *testing.T
	sink   *Sink
	server *modelServer
	cmds   []*modelCommands

	mu      sync.Mutex
	rand    *rand.Rand
	silent  int // how often the network may still vanish: each time takes 15 s
	panics  bool
	cut     bool // Close gave up
	closed  bool
	claims  bool
	trouble int // in a hundred round trips
	leaves  int // of a hundred calls
	large   int // of a hundred batches: they are divided
	hurry   int // how long a caller takes at most between two calls, in microseconds
	downTil time.Time
	locked  map[string]time.Time // until when another transaction has a command's row
	refused map[string]bool      // by a constraint, from now on
}

// modelCommands are one command's runs, one after the other.
type modelCommands struct {
	id    uuid.UUID
	there bool // the application has inserted its row
	runs  []*modelRun
}

type modelRun struct {
	begin, end error
	written    int // chunks of Writes that returned nil
	chunks     []vehicle.Chunk
	result     vehicle.Result
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rand: rand.New(rand.NewPCG(seed, 0)), locked: map[string]time.Time{}, refused: map[string]bool{}}
	m.silent, m.trouble, m.claims, m.panics = m.n(3), []int{0, 20, 50}[m.n(3)], m.n(4) == 0, m.n(5) == 0
	m.large = []int{0, 0, 40}[m.n(3)]
	m.leaves, m.hurry = []int{0, 20, 60}[m.n(3)], []int{1, 100, 5000}[m.n(3)]
	m.server = newModelServer()
	m.server.mishap, m.server.refuse, m.server.delay, m.server.down = m.mishap, m.refuse, m.delay, m.down
	opts := []Option{WithWriters(1 + m.n(3))}
	if m.claims {
		opts = append(opts, WithClaim())
	}
	m.sink = m.server.newSink(t, failing{func() {
		switch n := m.n(100); {
		case m.panics && n == 0:
			panic("of the application's")
		case m.panics && n == 1:
			runtime.Goexit()
		}
	}}, opts...)
	return m
}

// n is a random number below limit.
func (m *model) n(limit int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rand.IntN(limit)
}

func (m *model) delay() time.Duration { return time.Duration(m.n(5000)) * time.Microsecond }

func (m *model) down() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.downTil)
}

func (m *model) mishap() mishap {
	if m.n(100) >= m.trouble {
		return allWell
	}
	switch what := mishap(1 + m.n(10)); what {
	case silentBefore, silentAfter:
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.silent--; m.silent < 0 {
			return allWell
		}
		return what
	case lostBefore, lostAfter, serialization, shutdown:
		return what
	case noTable:
		if m.n(10) == 0 {
			return what
		}
		return allWell
	default:
		return allWell
	}
}

func (m *model) refuse(id string) *pgError {
	switch {
	case m.refused[id]:
		return &pgError{"23514", "a check"}
	case time.Now().Before(m.locked[id]):
		return &pgError{codeLockNotAvailable, "could not obtain lock on row"}
	}
	if m.n(1000) < m.trouble {
		m.locked[id] = time.Now().Add(time.Duration(m.n(2000)) * time.Millisecond)
	}
	if m.n(4000) < m.trouble {
		m.refused[id] = true
	}
	return nil
}

func (m *model) run() {
	var callers sync.WaitGroup
	limit := 12
	if m.large > 0 {
		limit = 2
	}
	for range 1 + m.n(limit) {
		c := &modelCommands{id: uuid.New(), there: m.n(3) == 0}
		if c.there {
			m.server.commands[c.id.String()] = &modelCommand{status: "pending"}
		}
		m.cmds = append(m.cmds, c)
		callers.Go(func() {
			for range 1 + m.n(6) {
				time.Sleep(time.Duration(m.n(m.hurry)) * time.Microsecond)
				c.runs = append(c.runs, m.execute(c.id, len(c.runs)))
				time.Sleep(time.Microsecond) // the runs of a command are told apart by their time
			}
		})
	}
	done := make(chan struct{})
	if m.n(3) == 0 {
		callers.Go(m.closeAmid)
	}
	if m.n(3) == 0 {
		callers.Go(m.goDown)
	}
	go func() {
		defer close(done)
		callers.Wait()
		if err := m.sink.Close(context.Background()); err != nil {
			m.t.Error(err)
		}
	}()
	for start := time.Now(); ; time.Sleep(200*time.Microsecond + time.Since(start)/200) {
		synctest.Wait()
		select {
		case <-done:
			time.Sleep(time.Minute) // until the last connection is closed
			m.check()
			return
		default:
		}
		if what := m.idle(); what != "" {
			m.t.Errorf("after %v: %s", time.Since(start), what)
		}
		if time.Since(start) > 10*time.Minute {
			m.t.Error("it does not end")
		}
		if m.t.Failed() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = m.sink.Close(ctx)
			<-done
			return
		}
	}
}

func (m *model) closeAmid() {
	time.Sleep(time.Duration(m.n(200)) * time.Millisecond)
	patience := time.Hour
	if m.n(2) == 0 {
		patience = time.Duration(m.n(20)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m.closed = true
	if err := m.sink.Close(ctx); err != nil {
		m.cut = true
	}
}

func (m *model) goDown() {
	time.Sleep(time.Duration(m.n(100)) * time.Millisecond)
	d := time.Duration(m.n(4000)) * time.Millisecond
	m.mu.Lock()
	defer m.mu.Unlock()
	m.downTil = time.Now().Add(d)
}

// idle says what waits though a writer has nothing to do. What has failed may wait for the end of a pause.
func (m *model) idle() string {
	s := m.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.writers, func(w *writer) bool { return !w.busy }) {
		return ""
	}
	busy := s.underway()
	for i, o := range s.queue {
		free := o.ahead || !busy[o.command]
		if o.settle == "" {
			busy[o.command] = true
		}
		if free && !time.Now().Before(o.notBefore) && (o.last == nil || !o.notBefore.IsZero()) {
			return fmt.Sprintf("a writer is idle, and the operation at %d of %d waits, whose last error is %v", i, len(s.queue), o.last)
		}
	}
	return ""
}

// context is a caller's, who leaves at times.
func (m *model) context() (context.Context, context.CancelFunc) {
	if m.n(100) >= m.leaves {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), time.Duration(m.n(10_000))*time.Microsecond)
}

func (m *model) execute(id uuid.UUID, n int) *modelRun {
	cmd := vehicle.Command{ID: id, Name: "ReadDTC"}
	r := &modelRun{result: vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted}}
	ctx, cancel := m.context()
	defer cancel()
	if r.begin = m.sink.Begin(ctx, cmd); r.begin != nil {
		return r
	}
	var batches [][]vehicle.Chunk
	for range m.n(4) {
		var batch []vehicle.Chunk
		pad, more := "", 1+m.n(5)
		if m.n(100) < m.large {
			pad, more = strings.Repeat(".", minHalfBytes), 2+m.n(2)
		}
		for range more {
			kind := `"`
			if m.n(100) < m.trouble/8 {
				kind = notJSON
			}
			batch = append(batch, vehicle.Chunk{CommandID: id, Seq: int32(len(r.chunks)), Payload: json.RawMessage(fmt.Sprintf("%s run %d%s\"", kind, n, pad))})
			r.chunks = append(r.chunks, batch[len(batch)-1])
		}
		batches = append(batches, batch)
	}
	r.result.Chunks = len(r.chunks)
	var err error
	for i, batch := range batches {
		time.Sleep(time.Duration(m.n(m.hurry)) * time.Microsecond)
		for i := range batch {
			batch[i].ReceivedAt = time.Now()
		}
		ctx, cancel := m.context()
		if i == len(batches)-1 {
			batch[len(batch)-1].Final = true
			r.result.FinishedAt = time.Now()
			if m.n(2) == 0 {
				teller := lastly.NewTeller(&r.result)
				ctx = teller.Next(ctx, m.sink, true)
			}
		}
		m.sink.mu.Lock()
		m.sink.undivided = time.Time{}
		m.sink.mu.Unlock()
		err = m.sink.Write(ctx, batch)
		cancel()
		if err != nil {
			break
		}
		r.written += len(batch)
	}
	if err == nil && m.n(5) == 0 {
		err = errors.New("another sink failed")
	}
	if err != nil {
		r.result = vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: err}
	}
	r.result.FinishedAt = time.Now()
	r.end = m.sink.End(context.Background(), r.result)
	return r
}

// check looks at what is stored in the end.
func (m *model) check() {
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	for _, fault := range m.server.faults {
		m.t.Error(fault)
	}
	for id := range m.server.open {
		m.t.Errorf("command %s: its transaction is open still", id)
	}
	for _, c := range m.cmds {
		if err := m.checkCommand(c); err != nil {
			m.t.Errorf("command %s: %v", c.id, err)
		}
	}
}

// excused says whether an error may come of what happened.
func (m *model) excused(c *modelCommands, err error) bool {
	switch text := err.Error(); {
	case errors.Is(err, context.DeadlineExceeded): // the caller has left
		return true
	case errors.Is(err, ErrClosed):
		return m.closed
	case strings.Contains(text, "23514"):
		return m.refused[c.id.String()]
	case strings.Contains(text, "42P01"):
		return m.server.hopeless
	case strings.Contains(text, "panic"):
		return m.panics && strings.Contains(text, "model_test.go")
	case errors.Is(err, errNoReturn):
		return m.panics
	case errors.Is(err, ErrClaimed):
		return m.claims
	default:
		return false
	}
}

func (m *model) checkCommand(c *modelCommands) error {
	var last *modelRun
	for _, r := range c.runs {
		for what, err := range map[string]error{"Begin": r.begin, "End": r.end} {
			if err != nil && (!m.excused(c, err) || what == "End" && errors.Is(err, context.DeadlineExceeded)) {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		if r.result.Err != nil && r.result.Err.Error() != "another sink failed" && !m.excused(c, r.result.Err) {
			return fmt.Errorf("Write: %w", r.result.Err)
		}
		if !errors.Is(r.begin, ErrClaimed) {
			last = r
		}
	}
	id := c.id.String()
	row := m.server.commands[id]
	excused := m.cut || m.panics || m.server.hopeless || m.refused[id] || m.closed
	switch {
	case last == nil:
		return nil
	case last.begin == nil && last.end == nil:
	case row != nil && row.status == "in_progress" && !excused:
		return fmt.Errorf("it is in progress, and nobody runs it: %w", errors.Join(last.begin, last.end))
	default:
		return nil
	}
	if row == nil || row.status != string(last.result.Status) || row.at == "" {
		return fmt.Errorf("got %+v, want %s", row, last.result.Status)
	}
	if m.server.audit[auditID(c.id, "command_"+row.status).String()] == "" {
		return fmt.Errorf("no audit row of %s", row.status)
	}
	got := m.server.stored(id)
	for i, payload := range got {
		if i >= len(last.chunks) || string(unwrap([]byte(payload))) != string(last.chunks[i].Payload) {
			return fmt.Errorf("chunk %d is not the run's", i)
		}
	}
	if len(got) < last.written || last.result.Status == vehicle.StatusCompleted && len(got) != len(last.chunks) {
		return fmt.Errorf("got %d chunks, want %d of %d", len(got), last.written, len(last.chunks))
	}
	return nil
}

// failing is a tracer that fails at times.
type failing struct{ atTimes func() }

func (f failing) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	f.atTimes()
	return ctx
}
func (failing) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (failing) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (failing) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (failing) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
