package vehicle

import (
	"context"
	"iter"
)

// ExecuteAll runs commands side by side, as many at once as [WithConcurrency] says, and yields each
// one's Result and error, as [Client.Execute] returns them, in the order in which they end. One failure stops
// nothing. Commands are pulled from cmds only when there is room to run them, in a goroutine of ExecuteAll's, so
// that cmds may be endless, and may wait.
//
// Breaking out of the loop cancels the commands that are running, and returns when their sinks have
// got End; their results are not seen. When ctx ends, the running commands end with it and no more are pulled, but for
// one that reports [ErrCanceled] or [ErrTimeout] if it was next. In both cases ExecuteAll waits for cmds to yield or
// to return once more: a sequence that can wait for long should watch ctx.
func (c *Client) ExecuteAll(ctx context.Context, cmds iter.Seq[Command], opts ...CallOption) iter.Seq2[*Result, error] {
	return func(yield func(*Result, error) bool) {
		call, _ := c.config.call.with(opts) // what is wrong with opts is each command's error
		b := &batch{
			client:  c,
			opts:    opts,
			next:    make(chan Command),
			results: make(chan *Result),
		}
		ctx, cancel := context.WithCancel(ctx)
		var thrown any
		func() {
			defer func() { // also when the loop's body panics
				cancel()
				thrown = b.drain()
			}()
			b.run(ctx, cmds, max(call.concurrency, 1), yield)
		}()
		if thrown != nil {
			panic(thrown) //nolint:forbidigo // the caller's own, thrown by cmds in a goroutine of ours
		}
	}
}

// batch is one ExecuteAll.
type batch struct {
	client  *Client
	opts    []CallOption
	next    chan Command // from the sequence; closed at its end
	results chan *Result
	running int
	thrown  any // what cmds panicked with; read after next was closed
}

// run keeps up to n commands running and yields their results, in the loop's goroutine.
func (b *batch) run(ctx context.Context, cmds iter.Seq[Command], n int, yield func(*Result, error) bool) {
	go b.pull(ctx, cmds)
	next := b.next
	for next != nil || b.running > 0 {
		from := next
		if b.running >= n {
			from = nil
		}
		select {
		case cmd, ok := <-from:
			if !ok {
				next = nil
				continue
			}
			b.running++
			go func() {
				stream := b.client.executed(ctx, cmd, b.opts)
				defer func() { b.results <- stream.Result() }() // also where a sink ends this goroutine
				stream.toEnd()
			}()
		case res := <-b.results:
			b.running--
			if !yield(res, res.Err) {
				return
			}
		}
	}
}

// pull hands on the sequence's commands until it ends, or ctx has ended, as it does when the loop is left, and one command has told so.
func (b *batch) pull(ctx context.Context, cmds iter.Seq[Command]) {
	defer close(b.next)
	defer func() { b.thrown = recover() }()
	for cmd := range cmds {
		b.next <- cmd // drain takes what the loop does not
		if ctx.Err() != nil {
			return
		}
	}
}

// drain waits for what is still running, and returns what cmds panicked with, if it did.
func (b *batch) drain() any {
	for ; b.running > 0; b.running-- {
		<-b.results
	}
	for range b.next { // until it is closed
	}
	return b.thrown
}
