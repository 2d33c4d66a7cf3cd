// Package within tells whether the calling goroutine is inside a sink.
//
// Client.Close may be called from a sink and must then not wait for the command that the sink is
// serving. Go has no goroutine identity to compare, and reading one out of a stack trace costs
// microseconds on every command. Looking at the stack costs nothing until somebody asks.
package within

import (
	"reflect"
	"runtime"
)

// Sink calls f, so that [Inside] is true in it.
//
//go:noinline
func Sink(f func() error) error {
	return f()
}

// Inside says whether the calling goroutine is running a function that it gave to [Sink]. It does
// not see through goroutines that such a function started.
func Inside() bool {
	entry := reflect.ValueOf(Sink).Pointer()
	pcs := make([]uintptr, 64)
	for skip := 2; ; skip += len(pcs) { // 2: runtime.Callers and Inside
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
		for {
			frame, more := frames.Next()
			if frame.Entry == entry {
				return true
			}
			if !more {
				break
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
