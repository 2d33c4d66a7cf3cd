// Package sinkcall lets the sinks that are hidden in another one be seen: who serves them reports each of their calls to
// whoever asked for it through the context.
package sinkcall

import (
	"context"
	"sync"
	"time"

	"github.com/sovd-go/vehicle/internal/within"
)

// EndTime bounds each call of End: that is one of the rules of vehicle.Sink.
const EndTime = 10 * time.Second

// Report is told of a call: of which sink, which of its methods, how long it took, and its error.
type Report func(sink any, method string, took time.Duration, err error)

type key struct{}

// With returns a context whose sink calls are reported.
func With(ctx context.Context, report Report) context.Context {
	return context.WithValue(ctx, key{}, report)
}

// Unreported returns a context whose sink calls are not reported: those of a command that a sink of a reported one runs.
func Unreported(ctx context.Context) context.Context {
	if report, _ := ctx.Value(key{}).(Report); report == nil {
		return ctx
	}
	return With(ctx, nil)
}

// Hold returns a context whose reports wait for release, which makes them: those of sinks that are called in goroutines of their
// own come from the caller's, one after the other.
func Hold(ctx context.Context) (held context.Context, release func()) {
	report, _ := ctx.Value(key{}).(Report)
	if report == nil {
		return ctx, func() {}
	}
	var (
		mu       sync.Mutex
		waiting  []func()
		released bool
	)
	held = With(ctx, func(sink any, method string, took time.Duration, err error) {
		mu.Lock()
		late := released // a sink has left a goroutine behind
		if !late {
			waiting = append(waiting, func() { report(sink, method, took, err) })
		}
		mu.Unlock()
		if late {
			report(sink, method, took, err)
		}
	})
	return held, func() {
		mu.Lock()
		released = true
		mu.Unlock()
		for _, report := range waiting {
			report()
		}
	}
}

// Do calls f, which is a call of sink's method, by [Call], and reports it where somebody has asked.
func Do(ctx context.Context, sink any, method string, f func() error) error {
	report, _ := ctx.Value(key{}).(Report)
	if report == nil {
		return Call(f)
	}
	start := time.Now()
	err := Call(f)
	report(sink, method, time.Since(start), err)
	return err
}

// Call calls f, which is a call of a sink's, by [within.Call]. Its error has a text: that of a nil pointer, which is an error
// to Go, can be the sink's panic.
func Call(f func() error) error {
	err := within.Call(f)
	if err == nil {
		return nil
	}
	return within.Call(func() error {
		_ = err.Error()
		return err
	})
}
