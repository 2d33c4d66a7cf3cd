package pgsink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// What a writer takes from the queue for its next transaction.
func TestWhatSharesATransaction(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	of := func(set func(*op)) *op {
		o := &op{command: uuid.New(), ctx: t.Context(), until: time.Now().Add(time.Hour), done: make(chan struct{})}
		set(o)
		return o
	}
	one := func() *op { return of(func(*op) {}) }
	same := func() *op { return of(func(o *op) { o.command = id }) }
	settling := func() *op { return of(func(o *op) { o.command, o.settle = id, "token" }) }
	batch := func(n, bytes int) *op {
		return of(func(o *op) { o.rows = &rows{all: make([]row, n), bytes: bytes} })
	}
	stuck := func() *op { return of(func(o *op) { o.tries = 1 }) }
	resting := func() *op { return of(func(o *op) { o.notBefore = time.Now().Add(time.Hour) }) }
	ahead := func() *op { return of(func(o *op) { o.ahead = true }) }
	half := func() *op { return of(func(o *op) { o.command, o.ahead = id, true }) }
	slow := func(company int) *op { return of(func(o *op) { o.company = company }) }
	failing := of(func(o *op) { o.err = errors.New("no") })
	behind := func() *op { return of(func(o *op) { o.after = failing }) }
	for _, test := range []struct {
		name  string
		queue []*op
		set   func(*writer)
		taken *op   // by the other writer
		want  []int // which of them
	}{
		{name: "commands of their own", queue: []*op{one(), one(), one()}, want: []int{0, 1, 2}},
		{name: "of one command the first", queue: []*op{same(), same(), one(), same()}, want: []int{0, 2}},
		{name: "who removes a token is in nobody's way", queue: []*op{settling(), same()}, want: []int{0, 1}},
		{name: "no more rows than fit", queue: []*op{batch(maxRows-1, 1), batch(2, 1), batch(1, 1), one()}, want: []int{0, 2, 3}},
		{name: "no more bytes than fit", queue: []*op{batch(1, maxBytes-1), batch(1, 2), batch(1, 1), one()}, want: []int{0, 2, 3}},
		{name: "what alone is more than fits", queue: []*op{batch(1, maxBytes+1), batch(1, 1), one()}, want: []int{0, 2}},
		{name: "what was stuck alone", queue: []*op{stuck(), one(), stuck()}, want: []int{0}},
		{name: "others without what was stuck", queue: []*op{one(), stuck(), one()}, want: []int{0, 2}},
		{name: "after one that was stuck the others", queue: []*op{stuck(), one()}, set: func(w *writer) { w.yielding = true }, want: []int{1}},
		{name: "not what is to rest", queue: []*op{resting(), one()}, want: []int{1}},
		{name: "a second half alone", queue: []*op{ahead(), one()}, want: []int{0}},
		{name: "no second half whose first half failed", queue: []*op{behind(), one()}, want: []int{1}},
		{name: "few with what took too long", queue: []*op{one(), slow(2), one()}, want: []int{0, 1}},
		{name: "fewer with what took longer", queue: []*op{slow(3), slow(1), one(), one(), one()}, want: []int{0, 2, 3}},
		{name: "not what comes after what the other writer has", queue: []*op{same(), one()}, taken: same(), want: []int{1}},
		{name: "a second half while the other writer has the first", queue: []*op{half(), one()}, taken: same(), want: []int{0}},
		{name: "who removes a token when the other writer is done with the command", queue: []*op{settling(), one()}, taken: same(), want: []int{1}},
		{name: "nothing while the server is down", queue: []*op{one()}, set: func(w *writer) { w.paused = time.Now().Add(time.Hour) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := New(nil)
			s.queue = append([]*op(nil), test.queue...)
			w, other := s.writers[0], s.writers[1]
			other.serving, other.busy = true, true
			if test.taken != nil {
				other.group = []*op{test.taken}
			}
			if test.set != nil {
				test.set(w)
			}
			group, _, _ := w.take(false)
			var got []int
			for i, o := range test.queue {
				for _, taken := range group {
					if taken == o {
						got = append(got, i)
					}
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What a writer leaves and another one could do, waits for nobody.
func TestAWriterCallsAnotherForWhatItLeaves(t *testing.T) {
	t.Parallel()
	operation := func() *op {
		return &op{command: uuid.New(), ctx: t.Context(), until: time.Now().Add(time.Hour), done: make(chan struct{})}
	}
	many := func(n int) (ops []*op) {
		for range n {
			ops = append(ops, operation())
		}
		return ops
	}
	stuck, twice, failed := operation(), operation(), operation()
	stuck.tries = 1
	failed.last = errNoConnection
	for _, test := range []struct {
		name   string
		queue  []*op
		paused bool
		left   int
		called bool
	}{
		{name: "all that fits", queue: many(maxOps)},
		{name: "more than fits", queue: many(maxOps + 2), left: 2, called: true},
		{name: "what follows one that is stuck", queue: append([]*op{stuck}, many(3)...), left: 3, called: true},
		{name: "what comes after its own", queue: []*op{twice, twice}, left: 1},
		{name: "what failed, until its pause is over", queue: []*op{failed}, paused: true, left: 1},
		{name: "what has not failed, while it pauses", queue: append([]*op{failed}, many(1)...), paused: true, left: 2, called: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := New(nil)
			s.queue = append([]*op(nil), test.queue...)
			w, other := s.writers[0], s.writers[1]
			other.serving = true // and it rests
			if test.paused {
				w.paused = time.Now().Add(time.Hour)
			}
			group, _, _ := w.take(false)
			if got := append(group, s.queue...); len(s.queue) != test.left || !slices.Equal(got, test.queue) {
				t.Errorf("%d taken and %d left, want the last %d left, in their order", len(group), len(s.queue), test.left)
			}
			if got := len(other.wake) > 0; got != test.called {
				t.Errorf("whether the other writer is called: got %t, want %t", got, test.called)
			}
		})
	}
}

// One of those that ran out of a transaction's time may be what takes so long.
func TestWhatRanOutOfTimeGoesOnInSmallerCompany(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		err       error
		ops, want int
	}{
		{"out of time", newDBError(fmt.Errorf("%w (%w)", errAttemptTime, context.DeadlineExceeded)), 9, 4},
		{"out of time, alone", newDBError(errAttemptTime), 1, 1},
		{"no connection", newDBError(errNoConnection), 9, maxOps},
	} {
		ops := make([]*op, test.ops)
		for i := range ops {
			ops[i] = &op{}
		}
		for i, o := range New(nil).retry(ops, test.err, time.Time{}) {
			if got := o.most(); got != test.want {
				t.Errorf("%s: operation %d may be one of %d, want %d", test.name, i, got, test.want)
			}
		}
	}
}
