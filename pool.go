package vehicle

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle/internal/within"
	"github.com/sovd-go/vehicle/vehiclepb"
)

const (
	// streamsPerConn is how many streams a connection carries before another is opened, until the
	// server shows that it takes fewer. 100 is what gRPC and most proxies allow.
	streamsPerConn = 100
	// patience is how long opening a stream on a ready connection may take. It is a matter of
	// microseconds unless the server's limit of concurrent streams has been reached, which gRPC
	// neither reports nor lets anyone ask: the stream just waits. Or the machine is busy, or an interceptor is: a limit that
	// is known tells them apart.
	patience = 25 * time.Millisecond
	// redialInterval is how often streams may make a broken connection connect again.
	redialInterval = time.Second / 2
)

var (
	errPoolClosed = status.Error(codes.Canceled, "vehicle: the client is closed")
	// errMoved is the cause with which opening a stream on a full connection is given up for another one.
	errMoved = errors.New("vehicle: the stream moves to another connection")
)

// pool is the client's connections. Each stream goes to the least busy healthy one. It opens connections as load asks, up to size. Safe for concurrent use.
type pool struct {
	dial  dialer
	size  int
	epoch time.Time // when the pool was made

	mu     sync.Mutex // never held across I/O
	conns  []*conn
	limit  int // what new connections are expected to carry
	closed bool

	opening    []*place    // streams that are being opened, in no order
	impatience *time.Timer // looks at them; nil in a pool of one, and before the first
	looking    bool        // it runs
	waiters    []*place    // streams kept waiting at full connections, the longest first

	retired map[*conn]struct{} // replaced, with streams that go on; see renew
	closing sync.WaitGroup     // retired connections without streams
}

// conn is one connection; its counts are guarded by the pool's mutex.
type conn struct {
	*grpc.ClientConn
	pool     *pool
	allowed  *streamLimit
	streams  int // being opened, and open
	open     int // open; these two without those that have brought all that is wanted of them
	ending   int // open, and they have
	limit    int // how many streams it carries before another connection is preferred
	retired  bool
	redialed time.Time // when a stream last asked a broken connection to connect again
}

// place is one stream's place on a connection. Its fields are guarded by the pool's mutex.
type place struct {
	attempt  *attempt
	opts     [4]grpc.CallOption // here, so that they need no memory of their own
	conn     *conn
	since    time.Duration // when opening began, or was last seen to have a reason other than the server's limit; see pool.now
	index    int           // in pool.opening; negative: it is not there
	seen     int           // streams open on the connection when last looked
	moved    bool          // opening here has been given up
	open     bool
	left     bool // the command has its answer
	released bool // gRPC is done with the stream
}

// newPool makes the pool and its first connection, which tells whether the options make sense.
func newPool(size int, dial dialer) (*pool, error) {
	p := &pool{dial: dial, size: size, limit: streamsPerConn, epoch: time.Now()}
	_, err := p.grow()
	return p, err
}

// open opens a stream on the connection that has most room. Where the stream is kept waiting there and another
// connection has room, its attempt is cancelled; the error is then errMoved, nothing has been sent, and the caller
// asks again, with another place.
func (p *pool) open(at *place) (grpc.ClientStream, error) {
	if err := p.acquire(at); err != nil {
		return nil, err
	}
	stream, err := at.conn.NewStream(at.attempt.ctx, &vehiclepb.VehicleService_ServiceDesc.Streams[0], vehiclepb.VehicleService_ExecuteCommand_FullMethodName,
		at.opts[:]...)
	at.conn.heedServiceConfig()
	moved := p.endOpening(at, err == nil)
	if err != nil {
		p.release(at) // gRPC's callback has done it, unless an interceptor failed before gRPC was asked
	}
	if moved {
		return nil, errMoved // also where the stream was opened at that very moment: its context has ended
	}
	return stream, err
}

// heedServiceConfig has messages come one by one, if a service config has told gRPC to take none as large as a bundle may be. It is known
// once a stream is open; if it changes while one is being opened, that one may have the other.
func (c *conn) heedServiceConfig() {
	if most := c.GetMethodConfig(vehiclepb.VehicleService_ExecuteCommand_FullMethodName).MaxRespSize; most != nil && *most < maxFramePayload {
		c.allowed.apart.Store(true)
	}
}

// finished is gRPC's callback.
func (at *place) finished(error) { at.conn.pool.release(at) }

// over says whether gRPC is done with the stream. Its trailer must not be read before.
func (at *place) over() bool {
	p := at.conn.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return at.released
}

// acquire takes a place on the best connection.
func (p *pool) acquire(at *place) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errPoolClosed
	}
	c, rank := p.best()
	if rank == full && len(p.conns) < p.size {
		var err error
		if c, err = p.grow(); err != nil {
			return err
		}
	}
	if rank == broken {
		c.redial()
	}
	c.streams++
	at.conn, at.seen, at.index = c, c.open, -1
	if p.size > 1 {
		p.watch(at)
	}
	return nil
}

// redial has a broken connection connect now, where gRPC would wait for up to two minutes: who retries a command asks
// sooner than that. The pool's mutex is held.
func (c *conn) redial() {
	if time.Since(c.redialed) > redialInterval {
		c.redialed = time.Now()
		c.ResetConnectBackoff()
	}
}

// watch has an eye on a stream while it is being opened. One timer does for all.
func (p *pool) watch(at *place) {
	at.since, at.index = p.now(), len(p.opening)
	p.opening = append(p.opening, at)
	switch {
	case p.looking:
		return
	case p.impatience == nil:
		p.impatience = time.AfterFunc(patience, p.look)
	default:
		p.impatience.Reset(patience)
	}
	p.looking = true
}

func (p *pool) unwatch(at *place) {
	if at.index < 0 {
		return
	}
	last := len(p.opening) - 1
	p.opening[last].index = at.index
	p.opening[at.index] = p.opening[last]
	p.opening[last] = nil
	p.opening, at.index = p.opening[:last], -1
}

// now is the time since the pool was made, which takes less space and half the time of time.Now.
func (p *pool) now() time.Duration { return time.Since(p.epoch) }

// look finds the streams that have been kept waiting for longer than our patience, and those that need not wait any more.
func (p *pool) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, next := p.now(), patience
	for _, at := range slices.Backward(p.opening) { // kept may take it out, and puts one there that has been looked at
		if wait := patience - (now - at.since); wait > 0 {
			next = min(next, wait)
		} else {
			p.kept(at, now)
		}
	}
	if len(p.waiters) > 0 { // a connection may have recovered, or have been connected
		c, _ := p.best()
		p.recall(c, max(c.limit-c.streams, 1))
	}
	if p.looking = len(p.opening)+len(p.waiters) > 0 && !p.closed; p.looking {
		p.impatience.Reset(next)
	}
}

// recall moves those streams to c that have waited longest elsewhere, n of them at most, if it is better.
func (p *pool) recall(c *conn, n int) {
	for ; n > 0 && len(p.waiters) > 0 && p.waiters[0].betterOn(c, c.rank()); n-- {
		p.waiters[0].move()
		p.waiters = slices.Delete(p.waiters, 0, 1)
	}
}

// kept is called when opening a stream takes long. On a ready connection that means that the server takes no more
// streams than are open. The stream moves where there is room, or waits for room anywhere.
func (p *pool) kept(at *place, now time.Duration) {
	c := at.conn
	if c.GetState() != connectivity.Ready || c.open > at.seen || c.allowed.allows(c.open+c.ending) { // nothing to do with the server's limit, or below it
		at.seen, at.since = c.open, now
		return
	}
	p.unwatch(at)
	c.limit = c.open // until those that have brought all give their places back
	p.limit = c.open + c.ending
	if best, rank := p.best(); len(p.conns) < p.size || at.betterOn(best, rank) {
		at.move()
		return
	}
	p.waiters = append(p.waiters, at)
}

// move has the stream opened elsewhere.
func (at *place) move() {
	at.moved = true
	at.attempt.cancel(errMoved)
}

// betterOn says whether the stream should move to c: it has room, or is less busy, which shows whether it has.
func (at *place) betterOn(c *conn, rank rank) bool {
	return rank < full || rank == full && c.streams+1 < at.conn.streams
}

// endOpening ends the opening of a stream. It says whether the stream is to be opened elsewhere.
func (p *pool) endOpening(at *place, opened bool) (moved bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwatch(at)
	if i := slices.Index(p.waiters, at); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
	}
	if !opened || at.released {
		return at.moved
	}
	at.open = true
	c := at.conn
	c.open++
	if c.open > c.limit { // it takes more than was thought
		c.limit = c.open
		p.limit = max(p.limit, c.limit)
	}
	return at.moved
}

// leave is called when a stream has brought all that is wanted of it: its place counts as free, and lets the stream move
// there that has waited longest elsewhere. It may be called again.
func (p *pool) leave(at *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaveLocked(at)
}

func (p *pool) leaveLocked(at *place) {
	if at.left {
		return
	}
	at.left = true
	c := at.conn
	c.streams--
	if at.open {
		c.open--
		c.ending++
	}
	if !c.retired {
		p.recall(c, 1)
	}
}

// release is called when a stream has ended. It may be called again.
func (p *pool) release(at *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaveLocked(at)
	if at.released {
		return
	}
	at.released = true
	c := at.conn
	if at.open {
		c.ending--
		c.limit = max(c.limit, c.open+1) // there is room for another
	}
	p.dismiss(c)
}

// rank says how good a connection is for one more stream; less is better.
type rank int

const (
	ready   rank = iota // connected, with room
	waiting             // with room, not connected yet
	full                // as many streams as it carries
	broken              // failed, and waiting before it tries again
)

func (c *conn) rank() rank {
	switch state := c.GetState(); {
	case state == connectivity.TransientFailure || state == connectivity.Shutdown:
		return broken
	case c.streams >= c.limit:
		return full
	case state == connectivity.Ready:
		return ready
	default:
		return waiting
	}
}

// best is the best-ranked connection, and among equals the one with the fewest streams.
func (p *pool) best() (*conn, rank) {
	best := p.conns[0]
	for _, c := range p.conns[1:] {
		if c.streams < best.streams {
			best = c
		}
	}
	bestRank := best.rank()
	if bestRank == ready { // nearly always; a rank costs gRPC's lock
		return best, bestRank
	}
	for _, c := range p.conns {
		if r := c.rank(); r < bestRank || r == bestRank && c.streams < best.streams {
			best, bestRank = c, r
		}
	}
	return best, bestRank
}

func (p *pool) grow() (*conn, error) {
	c, err := p.connection(p.limit)
	if err != nil {
		return nil, err
	}
	p.conns = append(p.conns, c)
	return c, nil
}

// connection makes a connection that is expected to carry so many streams.
func (p *pool) connection(limit int) (*conn, error) {
	cc, allowed, err := p.dial()
	if err != nil {
		return nil, err
	}
	return &conn{ClientConn: cc, pool: p, allowed: allowed, limit: limit}, nil
}

// waitReady connects, and returns when a connection is ready, or cannot become it for what a handshakeError says. Where
// ctx ends first, the error is the connection's last failure, if there was one.
func (p *pool) waitReady(ctx context.Context) error {
	var last error
	began := time.Now()
	for first := true; ; first = false {
		p.mu.Lock()
		c, rank := p.best() // another one after renew
		closed := p.closed
		if first && rank == broken && !closed {
			c.redial()
		}
		p.mu.Unlock()
		if closed {
			return errPoolClosed
		}
		c.Connect()
		limit, cancel := ctx, context.CancelFunc(func() {})
		state := c.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown: // closed, or replaced, since it was the best
			continue
		case connectivity.TransientFailure:
			last = cmp.Or(c.failure(ctx), last)
			if handshake, ok := errors.AsType[*handshakeError](last); ok && handshake.isFinal(began) {
				return last
			}
			limit, cancel = context.WithTimeout(ctx, failureInterval) // gRPC does not call another failure a change
		}
		c.WaitForStateChange(limit, state)
		cancel()
		switch {
		case ctx.Err() == nil:
		case last != nil:
			return last
		default:
			return ctx.Err()
		}
	}
}

// failureInterval is how often waitReady asks a connection that fails again and again for its reason.
const failureInterval = time.Second

// failure asks a connection in transient failure why; nil: it is not any more. gRPC tells only streams, and tells them at
// once. Should the connection be ready by now, the credentials stop the stream before anything is sent.
func (c *conn) failure(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := within.Call(func() error { // interceptors are called
		_, err := c.NewStream(ctx, &vehiclepb.VehicleService_ServiceDesc.Streams[0], vehiclepb.VehicleService_ExecuteCommand_FullMethodName,
			grpc.WaitForReady(false), grpc.PerRPCCredentials(unsent{})) // false: a service config, or an option, may say otherwise
		return err
	})
	if _, panicked := errors.AsType[*within.PanicError](err); !panicked && status.Code(err) != codes.Unavailable {
		return nil
	}
	return err
}

// unsent is credentials that cannot be had.
type unsent struct{}

func (unsent) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return nil, status.Error(codes.Canceled, "vehicle: nothing to send")
}

func (unsent) RequireTransportSecurity() bool { return false }

// close closes the connections; streams on them end.
func (p *pool) close() error {
	p.mu.Lock()
	conns := slices.AppendSeq(slices.Clone(p.conns), maps.Keys(p.retired))
	p.closed = true
	if p.impatience != nil {
		p.impatience.Stop()
	}
	p.mu.Unlock()
	defer p.closing.Wait()
	var errs []error
	for _, c := range conns {
		if err := c.Close(); err != nil && status.Code(err) != codes.Canceled {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
