package vehicle

import (
	"context"
	"sync"
	"time"

	"github.com/sovd-go/vehicle/internal/within"
)

// farewells lets the streams of completed commands end by themselves, so that the server sees them end normally, while
// nobody waits for that. They are gathered for a moment: by then most have ended, and one goroutine does for them all.
type farewells struct {
	after func(time.Duration, func()) // runs a function later, in a goroutine that Close waits for

	mu      sync.Mutex
	waiting []farewell
}

// farewell is a stream whose final chunk has come.
type farewell struct {
	at    *attempt
	codec *codec
}

const (
	// farewellTime is how long a server may take to end its stream after the final chunk.
	farewellTime = time.Second
	// gatherTime is how long streams are gathered. A goroutine for each command would cost more than all else that is
	// done here.
	gatherTime = time.Millisecond
)

// add takes a stream over.
func (f *farewells) add(at *attempt, codec *codec) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, farewell{at, codec})
	if len(f.waiting) == 1 {
		f.after(gatherTime, f.see)
	}
}

// see waits for the end of the streams that have been gathered, or of their time.
func (f *farewells) see() {
	f.mu.Lock()
	leaving := f.waiting
	f.waiting = make([]farewell, 0, len(leaving))
	f.mu.Unlock()
	limit := time.AfterFunc(farewellTime-gatherTime, func() {
		for _, w := range leaving {
			w.at.cancel(context.Canceled)
		}
	})
	defer limit.Stop()
	for _, w := range leaving {
		w.await()
	}
}

func (w farewell) await() {
	defer w.at.cancel(context.Canceled)
	// A message, io.EOF, a status, an interceptor's panic: nothing that comes now matters.
	_ = within.Call(func() error { return w.at.RecvMsg(w.codec.scratch()) })
}
