// Package within calls the code of others that serves a command, sinks above all: it turns its panics into errors, and
// tells whether a goroutine is inside such calls.
//
// Client.Close may be called from a sink and must then not wait for the command that the sink is
// serving. Go has no goroutine identity to compare, and reading one out of a stack trace costs
// microseconds on every command. Looking at the stack costs nothing until somebody asks.
package within

import (
	"fmt"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
)

// Call calls f, so that [Inside] counts it. A panic of f becomes a [*PanicError].
//
//go:noinline
func Call(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Site: panicSite()}
		}
	}()
	return f()
}

// Inside says in how many functions that it gave to [Call] the calling goroutine is. Those that are called one by another count as
// one, unless a call of f lies between them: then each may be serving another command. It does not see through goroutines that
// such a function started.
func Inside(f any) (n int) {
	call, between := reflect.ValueOf(Call).Pointer(), reflect.ValueOf(f).Pointer()
	counted := false
	for frame := range stack() {
		switch {
		case frame.Entry == between:
			counted = false
		case frame.Entry == call && !counted:
			n++
			counted = true
		}
	}
	return n
}

// PanicError is a panic. Its value may hold anything, payloads too, so the text has it only where the
// runtime made it; errors.As reaches one that is an error.
type PanicError struct {
	Value any
	Site  string // the file and line that panicked
}

// Error is one line.
func (e *PanicError) Error() string {
	if err, ok := e.Value.(runtime.Error); ok {
		return fmt.Sprintf("panic at %s: %v", e.Site, err)
	}
	return fmt.Sprintf("panic at %s with a %T", e.Site, e.Value)
}

// Unwrap is the value, if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// panicSite is where the panic came from that the calling function recovers.
func panicSite() string {
	panicking := false
	for frame := range stack() {
		inRuntime := strings.HasPrefix(frame.Function, "runtime.")
		if panicking && !inRuntime {
			return fmt.Sprintf("%s:%d", filepath.Base(frame.File), frame.Line)
		}
		panicking = panicking || frame.Function == "runtime.gopanic"
	}
	return "an unknown place"
}

// stack yields the calling goroutine's frames, the innermost first.
func stack() func(yield func(runtime.Frame) bool) {
	return func(yield func(runtime.Frame) bool) {
		pcs := make([]uintptr, 64)
		n := len(pcs)
		for skip := 1; n == len(pcs); skip += n {
			n = runtime.Callers(skip, pcs)
			frames := runtime.CallersFrames(pcs[:n])
			for more := n > 0; more; {
				var frame runtime.Frame
				if frame, more = frames.Next(); !yield(frame) {
					return
				}
			}
		}
	}
}
