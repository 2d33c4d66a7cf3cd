package redissink

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A group is what goes to Redis in one pipeline: everything that waits when the pipeline before it has
// come back. Nobody waits for a timer, so a command that is alone does not pay for its company.
//
// The bounds below keep one pipeline from holding up a neighbour for long. What waits is bounded too:
// each command has one request at a time.
const (
	maxGroupBytes    = 1 << 20
	maxGroupCommands = 1000
)

// groupTime bounds a pipeline's wait for a connection. Its reads and writes have the client's own
// timeouts.
const groupTime = 10 * time.Second

// workerTime is how long a goroutine waits for more before it ends. A new one for each pipeline would
// have to grow its stack each time.
const workerTime = 100 * time.Millisecond

// request is Redis commands that one sink call waits for.
type request struct {
	cmds  []redis.Cmder
	bytes int
	state atomic.Int32
	err   error         // of the pipeline, where no command has one
	done  chan struct{} // closed when the commands have their results

	inVain func() *request // what is to follow, if anything, where the caller has left before they have; may be nil
}

// The states of a request. Whoever moves it on decides: a pipeline that takes it and comes back, or a
// caller that no longer waits.
const (
	waiting int32 = iota
	taken
	finished
	abandoned
)

func newRequest(bytes int, cmds []redis.Cmder) *request {
	return &request{cmds: cmds, bytes: bytes, done: make(chan struct{})}
}

// groups makes groups of requests. Its goroutines live while there is something to send, and a moment
// longer.
type groups struct {
	rdb    redis.UniversalClient
	width  int             // pipelines at once, for each lane
	ctx    context.Context // ends when close gives up
	cancel context.CancelFunc

	mu      sync.Mutex
	lanes   map[*redis.Client]*lane
	closing chan struct{} // closed by close
	closed  bool
	workers sync.WaitGroup
}

// lane is what waits for one node of a cluster: a node that is down holds up nobody else. Without a
// cluster there is one lane.
type lane struct {
	waiting []*request
	workers int
	idle    int           // workers that wait and have not been called
	call    chan struct{} // calls one of them
}

func newGroups(rdb redis.UniversalClient, width int) *groups {
	g := &groups{rdb: rdb, width: width, lanes: make(map[*redis.Client]*lane), closing: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// submit has the request sent with the next group. key decides which node of a cluster it goes to.
func (g *groups) submit(ctx context.Context, key string, r *request) error {
	node := g.node(ctx, key)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	l := g.lanes[node]
	if l == nil {
		l = &lane{call: make(chan struct{}, g.width)}
		g.lanes[node] = l
	}
	l.waiting = append(l.waiting, r)
	switch {
	case l.idle > 0:
		l.idle--
		l.call <- struct{}{}
	case l.workers < g.width:
		l.workers++
		g.workers.Go(func() { g.work(node, l) })
	}
	return nil
}

// node is the cluster's master for key; nil where there is no cluster, or no knowing.
func (g *groups) node(ctx context.Context, key string) *redis.Client {
	cluster, ok := g.rdb.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	node, err := cluster.MasterForKey(ctx, key)
	if err != nil {
		return nil // the pipeline will say why
	}
	return node
}

// work sends group after group, until nothing has waited in the lane for a while.
func (g *groups) work(node *redis.Client, l *lane) {
	limit := newLimit(g.ctx, groupTime)
	defer limit.end()
	patience := time.NewTimer(workerTime)
	defer patience.Stop()
	var group []*request
	returns := false
	defer func() {
		if !returns { // a hook of the client's has ended this goroutine, as t.FailNow does
			g.finish(l, group, errNoReturn)
			g.replace(node, l)
		}
	}()
	for {
		// Who has something to send and could run, shall come along: with pgsink, all of a transaction.
		runtime.Gosched()
		if group = g.next(l); group == nil {
			patience.Reset(workerTime)
			if !g.idle(node, l, patience) {
				returns = true
				return
			}
			continue
		}
		err := g.send(limit.start(), group)
		limit.stop()
		g.finish(l, group, err)
	}
}

// finish tells the callers that their commands have their results; err is that of those which have none.
func (g *groups) finish(l *lane, group []*request, err error) {
	for _, r := range group {
		if firstError(r.cmds) == nil {
			r.err = err
		}
		if !r.state.CompareAndSwap(taken, finished) && r.inVain != nil {
			g.prepend(l, r.inVain())
		}
		close(r.done)
	}
}

// replace has another worker take the place of one that is gone, if there is something to send.
func (g *groups) replace(node *redis.Client, l *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch l.workers--; {
	case len(l.waiting) > 0:
		l.workers++
		g.workers.Go(func() { g.work(node, l) })
	case l.workers == 0:
		delete(g.lanes, node)
	}
}

// prepend has a request sent with the next group, also when the groups are closed: who calls it is a worker of the lane, and looks for
// more before it ends.
func (g *groups) prepend(l *lane, r *request) {
	if r == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	l.waiting = slices.Insert(l.waiting, 0, r)
}

// limit is context.WithTimeout for the many times that the time does not run out: it makes another
// context only then. It is used by one goroutine.
type limit struct {
	parent context.Context
	d      time.Duration
	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer
}

func newLimit(parent context.Context, d time.Duration) *limit {
	return &limit{parent: parent, d: d}
}

func (l *limit) start() context.Context {
	if l.ctx == nil {
		l.ctx, l.cancel = context.WithCancel(l.parent)
		l.timer = time.AfterFunc(l.d, l.cancel)
	} else {
		l.timer.Reset(l.d)
	}
	return l.ctx
}

func (l *limit) stop() {
	if !l.timer.Stop() { // the context has ended, or is about to
		l.ctx = nil
	}
}

func (l *limit) end() {
	if l.ctx != nil {
		l.cancel()
	}
}

// idle waits to be called. It returns false when the worker is no longer needed.
func (g *groups) idle(node *redis.Client, l *lane, patience *time.Timer) bool {
	select {
	case <-l.call:
		return true
	case <-patience.C:
	case <-g.closing:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.idle == 0 { // the call has just come
		<-l.call
		return true
	}
	l.idle--
	if l.workers--; l.workers == 0 {
		delete(g.lanes, node)
	}
	return false
}

// next takes what waits, within the bounds. With nil the worker counts as idle.
func (g *groups) next(l *lane) []*request {
	g.mu.Lock()
	defer g.mu.Unlock()
	var group []*request
	bytes, commands, seen := 0, 0, 0
	for _, r := range l.waiting {
		if len(group) > 0 && (bytes+r.bytes > maxGroupBytes || commands+len(r.cmds) > maxGroupCommands) {
			break
		}
		seen++
		if r.state.CompareAndSwap(waiting, taken) {
			group = append(group, r)
			bytes += r.bytes
			commands += len(r.cmds)
		}
	}
	clear(l.waiting[:seen]) // requests are large
	l.waiting = l.waiting[seen:]
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
	if group == nil {
		l.idle++
	}
	return group
}

// send is one pipeline. Each command has its own result; the error returned is for those that got none.
func (g *groups) send(ctx context.Context, group []*request) (err error) {
	defer func() {
		if v := recover(); v != nil { // of a hook of the client's
			err = fmt.Errorf("the Redis client panicked with a %T", v) // the value may show what was to be published
		}
	}()
	pipe := g.rdb.Pipeline()
	for _, r := range group {
		for _, cmd := range r.cmds {
			_ = pipe.Process(ctx, cmd) // it queues
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && firstErrorOf(group) == nil {
		return err
	}
	return nil
}

func firstErrorOf(group []*request) error {
	for _, r := range group {
		if err := firstError(r.cmds); err != nil {
			return err
		}
	}
	return nil
}

func firstError(cmds []redis.Cmder) error {
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return err
		}
	}
	return nil
}

// close refuses new requests and waits for those that are under way. When ctx ends first, they are
// given up.
func (g *groups) close(ctx context.Context) error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.closing)
	}
	g.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g.workers.Wait()
	}()
	select {
	case <-ended:
		g.cancel()
		return nil
	case <-ctx.Done():
		g.cancel()
		return errors.Join(errors.New("redissink: requests were under way when Close had to end"), ctx.Err())
	}
}
