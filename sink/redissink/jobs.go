package redissink

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
)

// job is what one call of the sink, or a part of it, has Redis do. It can be done again where it is not
// known to have been done.
type job interface {
	// commands are those that are left to do, and about how many bytes they have.
	commands(ctx context.Context) (bytes int, cmds []redis.Cmder)
	// finish looks at their results. errAgain: there is more to do, at once.
	finish(cmds []redis.Cmder) error
}

// The bounds of one job: how long Redis works on it while others wait.
const (
	maxBatchBytes  = 256 << 10
	maxBatchEvents = 256
)

// batch is some events of one command, encoded one behind the other.
type batch struct {
	run    *run
	config config
	events []event
	text   []byte

	withdrawn uint64 // an entry that is to go; 0: none
}

// event is one of a batch.
type event struct {
	entry uint64
	end   int // in text
}

// batch makes one for so many events, or fewer.
func (s *Sink) batch(r *run, events int) *batch {
	if r.buffer == nil {
		r.buffer, _ = s.buffers.Get().(*[]byte)
	}
	if r.buffer == nil {
		r.buffer = new([]byte)
	}
	return &batch{run: r, config: s.config, text: (*r.buffer)[:0], events: make([]event, 0, min(events, maxBatchEvents))}
}

// release gives a call's buffer to those that come.
func (s *Sink) release(r *run) {
	if r.buffer != nil && cap(*r.buffer) <= 2*maxBatchBytes { // one large payload is not to be held
		s.buffers.Put(r.buffer)
	}
	r.buffer = nil
}

// fits says whether another event may be added. One event fits whatever its size.
func (b *batch) fits() bool {
	return len(b.events) < maxBatchEvents && len(b.text) < maxBatchBytes
}

func (b *batch) add(entry uint64, e Event) {
	b.text = e.appendJSON(b.text)
	b.events = append(b.events, event{entry, len(b.text)})
}

// json is the ith event's.
func (b *batch) json(i int) []byte {
	start := 0
	if i > 0 {
		start = b.events[i-1].end
	}
	return b.text[start:b.events[i].end]
}

func (b *batch) job() job {
	*b.run.buffer = b.text
	if b.config.streams {
		return &appending{batch: b}
	}
	return &publication{batch: b}
}

// publication publishes events.
type publication struct {
	*batch
	sent int // so many of them are known to be
}

func (p *publication) commands(ctx context.Context) (int, []redis.Cmder) {
	n := len(p.events) - p.sent
	cmds, args := make([]redis.Cmder, 0, n), make([]any, 0, 3*n)
	var channel any = p.run.channel // on the heap once
	for i := p.sent; i < len(p.events); i++ {
		args = append(args, "publish", channel, p.json(i))
		cmd := redis.NewIntCmd(ctx, args[len(args)-3:len(args):len(args)]...)
		// go-redis sends each PUBLISH to another node of a cluster, and a command's events would
		// overtake each other. Any node publishes to all: let it be the same one.
		cmd.SetFirstKeyPos(1)
		cmds = append(cmds, cmd)
	}
	return len(p.text), cmds
}

// finish goes on from the first that failed, so that the order holds for those who get them all.
func (p *publication) finish(cmds []redis.Cmder) error {
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return err
		}
		p.run.last = p.events[p.sent].entry
		p.sent++
	}
	return nil
}

// script is a Lua script, called by its hash, which Redis knows until it restarts.
type script struct {
	text, hash string
}

func newScript(text string) script {
	return script{text: text, hash: redis.NewScript(text).Hash()}
}

// call is the script's command: with its text, if Redis did not know the hash.
func (s script) call(ctx context.Context, withText bool, key string, args ...any) *redis.Cmd {
	name, what := "evalsha", s.hash
	if withText {
		name, what = "eval", s.text
	}
	return redis.NewCmd(ctx, append([]any{name, what, 1, key}, args...)...)
}

// result reads the reply of one call.
func result(cmds []redis.Cmder, withText *bool) (int64, error) {
	cmd, ok := cmds[0].(*redis.Cmd)
	if !ok {
		return 0, errAgain // not ours; it cannot be
	}
	n, err := cmd.Int64()
	if err != nil && !*withText && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		*withText = true
		return 0, errAgain
	}
	return n, err
}

// beginning begins a run in the command's stream. The run gets a later number where the stream has
// one that is not earlier: of a process whose clock is ahead.
type beginning struct {
	run      *run
	ttl      time.Duration
	withText bool
}

func (b *beginning) commands(ctx context.Context) (int, []redis.Cmder) {
	cmd := beginScript.call(ctx, b.withText, b.run.stream, b.run.number, b.ttl.Milliseconds())
	return len(b.run.stream), []redis.Cmder{cmd}
}

func (b *beginning) finish(cmds []redis.Cmder) error {
	n, err := result(cmds, &b.withText)
	if err == nil && n != b.run.number {
		b.run.number = n + 1 + rand.Int64N(1000) // others may be doing the same
		return errAgain
	}
	return err
}

// inVain ends a run that has begun, by cmds, when the caller of Begin had left: nobody will call End, and followers would wait for it.
func (b *beginning) inVain(cmds []redis.Cmder, c config) *request {
	if b.finish(cmds) != nil {
		return nil
	}
	end := &batch{run: b.run, config: c}
	end.add(endEntry, endEvent(vehicle.Result{Command: vehicle.Command{ID: b.run.id}, Status: vehicle.StatusFailed}))
	return newRequest((&appending{batch: end, withText: true}).commands(context.Background()))
}

// appending appends events to the command's stream and publishes them.
type appending struct {
	*batch
	withText bool
}

func (a *appending) commands(ctx context.Context) (int, []redis.Cmder) {
	args := make([]any, 0, 6+2*len(a.events))
	args = append(args, a.run.channel, a.run.number, a.config.maxLen, a.config.ttl.Milliseconds(), a.run.last, a.withdrawn)
	for i, e := range a.events {
		args = append(args, e.entry, a.json(i))
	}
	return len(a.text), []redis.Cmder{appendScript.call(ctx, a.withText, a.run.stream, args...)}
}

func (a *appending) finish(cmds []redis.Cmder) error {
	n, err := result(cmds, &a.withText)
	switch {
	case err != nil:
		return err
	case n < 0:
		return ErrSuperseded
	}
	a.run.last = a.events[len(a.events)-1].entry
	return nil
}
