package vehicle

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/within"
)

// Client runs diagnostic commands on vehicles. Make one with [New] or [NewFromEnv] and share it: it is safe for
// concurrent use, and its connections and defaults serve all commands. [Client.Close] it when done.
type Client struct {
	config  config
	pool    *pool
	log     *slog.Logger
	keys    keyring
	unwatch func() // stops looking for new certificates
	closed  atomic.Bool

	farewells farewells
	reserve   *strings.Builder // see newReserve

	mu       sync.Mutex // never held across I/O
	changed  sync.Cond  // one of the following has
	runs     map[*run]struct{}
	serving  map[uuid.UUID]*run // those of them that have sinks
	tasks    int                // goroutines of ours
	insiders int                // commands whose sinks wait in calls of Close
	down     chan struct{}      // nil before Close; closed when everything has ended
	downErr  error
}

// New makes a client for the vehicle service at target, any gRPC target: "host:port",
// "dns:///host:port", "unix:/path". It does no network I/O; the first command, or [Client.WaitReady],
// connects. An unusable target, option or certificate file is an error that names it. In a process with a heap of less than
// 16 MiB the client holds the rest of these, until it is closed, in memory that is never touched, so that garbage is collected less often.
func New(target string, opts ...Option) (*Client, error) {
	config, err := defaultConfig().with(opts)
	if err != nil {
		return nil, err
	}
	return newClient(target, config)
}

func newClient(target string, config config) (*Client, error) {
	c := &Client{config: config, log: config.logger, runs: make(map[*run]struct{}), serving: make(map[uuid.UUID]*run)}
	c.changed.L = &c.mu
	c.farewells.after = c.after
	keys, err := config.security.load(config.logger)
	if err != nil {
		return nil, err
	}
	c.config.debug = config.logger.Enabled(context.Background(), slog.LevelDebug)
	c.config.bundle = c.config.bundleSize()
	dial, err := newDialer(target, c.config, keys)
	if err != nil {
		return nil, err
	}
	if c.pool, err = newPool(config.poolSize, dial); err != nil {
		return nil, err
	}
	config.security.warnOfPlaintext(target, config.logger)
	c.keys, c.unwatch = keys, keys.watch(c.pool.renew)
	c.reserve = newReserve()
	config.call.observers.observe(context.Background(), ClientOpened{c}, commandLog{logger: c.log})
	return c, nil
}

// Execute runs cmd and waits for its end. The chunks go to the sinks; who wants to see them
// calls [Client.Stream]. The Result is never nil: beside an error, which is an *[Error], it says how far
// the command got. ctx bounds the command as a whole, with all its attempts and waits.
func (c *Client) Execute(ctx context.Context, cmd Command, opts ...CallOption) (*Result, error) {
	stream := c.executed(ctx, cmd, opts)
	stream.toEnd()
	res := stream.Result()
	return res, res.Err
}

// executed is a stream whose chunks nobody but the sinks will see.
func (c *Client) executed(ctx context.Context, cmd Command, opts []CallOption) *Stream {
	s := c.Stream(ctx, cmd, opts...)
	s.unseen = true
	return s
}

// Stream prepares cmd to be run by the loop over the stream's [Stream.Chunks]. Nothing starts before; what is
// wrong with cmd or opts is the loop's error.
func (c *Client) Stream(ctx context.Context, cmd Command, opts ...CallOption) *Stream {
	s := &Stream{client: c, ctx: ctx, cmd: cmd, call: &c.config.call}
	if len(opts) > 0 {
		call, err := c.config.call.with(opts)
		s.call, s.err = &call, err
	}
	return s
}

// WaitReady connects, and returns nil when a connection is ready for commands. It is for start-up
// probes: commands connect by themselves. It waits, through failures, until ctx ends, but not where the TLS
// handshake fails in a way that will not mend itself. Its error is an *[Error] that names the last failure.
func (c *Client) WaitReady(ctx context.Context) error {
	err := c.pool.waitReady(ctx)
	if err == nil {
		return nil
	}
	var e *Error
	handshake, ok := errors.AsType[*handshakeError](err)
	switch {
	case errors.Is(err, errPoolClosed):
		e = newError(ErrClosed, "", err)
	case ok && handshake.permanent && ctx.Err() == nil:
		e = newError(ErrUnavailable, foreign.Text(err.Error()), err)
	default:
		when := "before a connection was ready"
		if panicked, ok := errors.AsType[*within.PanicError](err); ok {
			when += ": " + foreign.Text(panicked.Error())
		} else if st, failed := status.FromError(err); failed {
			when += ": " + foreign.Text(st.Message())
		}
		e = contextError(ctx, when, err)
	}
	e.Name, e.neverRan = "WaitReady", true
	return e
}

// Close refuses new commands, ends running ones with [ErrClosed], and returns when their sinks have
// got End and the connections are closed. It may be called more than once and from anywhere but a stats handler that is told of
// InHeader or InTrailer: gRPC waits for that one before it closes. From the
// body of a loop over a stream it ends that stream's command too; from inside a sink it waits for all commands but the
// one that the sink is serving, which ends when the sink returns, and the one in whose sink that was run, if there is one.
func (c *Client) Close() error {
	down := c.shutDown()
	inside := within.Inside((*Stream).run) // a sink may run a command
	if inside == 0 {
		<-down
		return c.downErr
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insiders += inside
	c.changed.Broadcast()
	for len(c.runs) > c.insiders {
		c.changed.Wait()
	}
	c.insiders -= inside
	return nil
}

// shutDown ends the running commands, and starts the closing, the first time that it is called. The channel closes
// when everything has ended.
func (c *Client) shutDown() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed.Store(true)
	for r := range c.runs {
		r.stop(ErrClosed)
		if r.turn.Load() == theirs { // its loop's body may be where we are called from
			c.spawnLocked(r.takeOver)
		}
	}
	if c.down == nil {
		c.down = make(chan struct{})
		go c.tearDown()
	}
	return c.down
}

// tearDown closes the connections when everything that uses them has ended.
func (c *Client) tearDown() {
	c.mu.Lock()
	for len(c.runs) > 0 || c.tasks > 0 {
		c.changed.Wait()
	}
	c.mu.Unlock()
	c.unwatch()
	c.downErr = c.pool.close()
	c.reserve = nil
	c.config.call.observers.observe(context.Background(), ClientClosed{c}, commandLog{logger: c.log})
	close(c.down)
}

// register adds a run to those that Close ends. It refuses one that the sinks could not tell from another.
func (c *Client) register(r *run) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch _, twice := c.serving[r.cmd.ID]; {
	case c.down != nil:
		return newError(ErrClosed, "", nil)
	case len(r.call.sinks) == 0:
	case twice:
		return newError(ErrInvalidCommand, "a command with its ID is running, and the sinks could not tell one from the other", nil)
	default:
		c.serving[r.cmd.ID] = r
	}
	c.runs[r] = struct{}{}
	return nil
}

// forget takes a run that has ended off the list.
func (c *Client) forget(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.runs, r)
	if c.serving[r.cmd.ID] == r {
		delete(c.serving, r.cmd.ID)
	}
	r.over = true
	c.changed.Broadcast()
}

// await waits until a run has ended.
func (c *Client) await(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !r.over {
		c.changed.Wait()
	}
}

// spawn runs f in a goroutine that Close waits for.
func (c *Client) spawn(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spawnLocked(f)
}

func (c *Client) spawnLocked(f func()) {
	c.tasks++
	go c.do(f)
}

// after is spawn at a later time.
func (c *Client) after(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tasks++
	time.AfterFunc(d, func() { c.do(f) })
}

func (c *Client) do(task func()) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tasks--
		c.changed.Broadcast()
	}()
	task()
}
