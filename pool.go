package vehicle

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

const (
	// streamsPerConn is how many streams a connection carries before another is opened, until the
	// server shows that it takes fewer. 100 is what gRPC and most proxies allow.
	streamsPerConn = 100
	// patience is how long opening a stream on a ready connection may take. It is a matter of
	// microseconds unless the server's limit of concurrent streams has been reached, which gRPC
	// neither reports nor lets anyone ask: the stream just waits.
	patience = 10 * time.Millisecond
)

var (
	errPoolClosed = status.Error(codes.Canceled, "vehicle: the client is closed")
	// errFull is the cause with which opening a stream on a full connection is given up.
	errFull = errors.New("vehicle: the connection has as many streams as the server allows")
)

// pool is the client's connections. It is a grpc.ClientConnInterface whose streams each go to the
// least busy healthy connection. It opens connections as load asks, up to size. Safe for concurrent use.
type pool struct {
	dial func() (*grpc.ClientConn, error)
	size int

	mu     sync.Mutex // never held across I/O
	conns  []*conn
	limit  int // what new connections are expected to carry
	closed bool
}

// conn is one connection; its counts are guarded by the pool's mutex.
type conn struct {
	*grpc.ClientConn
	streams int // being opened, and open
	open    int // open
	limit   int // how many streams it carries before another connection is preferred
}

// place is one stream's place on a connection, guarded by the pool's mutex.
type place struct {
	conn           *conn
	open, released bool
}

// newPool makes the pool and its first connection, which tells whether the options make sense. A
// grpc.ClientConn does no I/O before its first stream.
func newPool(size int, dial func() (*grpc.ClientConn, error)) (*pool, error) {
	p := &pool{dial: dial, size: size, limit: streamsPerConn}
	_, err := p.grow()
	return p, err
}

// NewStream opens a stream on the connection that has most room. A stream that the connection keeps
// waiting moves to another one while there is one with room: nothing has been sent on it yet.
func (p *pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	for {
		place, movable, err := p.acquire()
		if err != nil {
			return nil, err
		}
		onFinish := grpc.OnFinish(func(error) { p.release(place) })
		stream, err := p.open(ctx, place, movable, desc, method, append(opts[:len(opts):len(opts)], onFinish))
		if err == nil {
			return stream, nil
		}
		p.release(place) // gRPC's callback has done it, unless an interceptor failed before gRPC was asked
		if !errors.Is(err, errFull) {
			return nil, err
		}
	}
}

// Invoke is there for the interface; the vehicle service has no unary method.
func (p *pool) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return status.Error(codes.Unimplemented, "vehicle: unary calls are not pooled")
}

// open opens a stream at its place. A movable one gives up with errFull when the connection is full.
func (p *pool) open(ctx context.Context, at *place, movable bool, desc *grpc.StreamDesc, method string, opts []grpc.CallOption) (grpc.ClientStream, error) {
	giveUp := func() bool { return false }
	if movable {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		giveUp = afterReady(at.conn, patience, func() { cancel(errFull) })
	}
	stream, err := at.conn.NewStream(ctx, desc, method, opts...)
	if gaveUp := giveUp(); gaveUp && (err == nil || context.Cause(ctx) == errFull) { //nolint:errorlint // ours, never wrapped
		p.learn(at, true)
		return nil, errFull
	}
	if err == nil {
		p.learn(at, false)
	}
	return stream, err
}

// afterReady calls f once c has been ready for d, unless the function that it returns was called
// before. That function says whether f was called.
func afterReady(c *conn, d time.Duration, f func()) (stop func() bool) {
	var (
		mu    sync.Mutex
		done  bool
		fired bool
		timer *time.Timer
	)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case done:
		case c.GetState() == connectivity.Ready:
			fired = true
			f()
		default: // still connecting: the wait says nothing about the server's limit
			timer.Reset(d)
		}
	})
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		done = true
		timer.Stop()
		return fired
	}
}

// acquire takes a place on a connection. The stream is movable where it is worth trying another
// connection when this one turns out to be full.
func (p *pool) acquire() (_ *place, movable bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, errPoolClosed
	}
	best, rank := p.best()
	if rank == full && len(p.conns) < p.size {
		if best, err = p.grow(); err != nil {
			return nil, false, err
		}
	}
	best.streams++
	// A connection with no other stream is not full, and a stream that has nowhere else to go waits.
	movable = best.streams > 1 && rank != full && (len(p.conns) < p.size || p.roomBeside(best))
	return &place{conn: best}, movable, nil
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
	best, bestRank := p.conns[0], p.conns[0].rank()
	for _, c := range p.conns[1:] {
		if r := c.rank(); r < bestRank || r == bestRank && c.streams < best.streams {
			best, bestRank = c, r
		}
	}
	return best, bestRank
}

func (p *pool) roomBeside(this *conn) bool {
	for _, c := range p.conns {
		if c != this && c.rank() < full {
			return true
		}
	}
	return false
}

func (p *pool) grow() (*conn, error) {
	cc, err := p.dial()
	if err != nil {
		return nil, err
	}
	c := &conn{ClientConn: cc, limit: p.limit}
	p.conns = append(p.conns, c)
	return c, nil
}

// learn notes what opening a stream showed of the server's limit: that the connection was full with
// the streams that it had, or that it took one more.
func (p *pool) learn(at *place, isFull bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := at.conn
	if isFull {
		c.limit = max(c.open, 1)
		p.limit = c.limit
		return
	}
	if at.released {
		return // it has ended already
	}
	at.open = true
	c.open++
	if c.open > c.limit {
		c.limit = c.open
		p.limit = max(p.limit, c.limit)
	}
}

// release gives a place back; giving it back again does nothing.
func (p *pool) release(at *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.released {
		return
	}
	at.released = true
	at.conn.streams--
	if at.open {
		at.conn.open--
	}
}

// waitReady connects, and returns when a connection is ready.
func (p *pool) waitReady(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errPoolClosed
	}
	c, _ := p.best()
	p.mu.Unlock()
	for {
		c.Connect()
		state := c.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return errPoolClosed
		}
		if !c.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// close closes the connections; streams on them end.
func (p *pool) close() error {
	p.mu.Lock()
	conns := p.conns
	p.closed = true
	p.mu.Unlock()
	var errs []error
	for _, c := range conns {
		if err := c.Close(); err != nil && status.Code(err) != codes.Canceled {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
