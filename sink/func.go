package sink

import (
	"context"

	"github.com/sovd-go/vehicle"
)

// Func is a sink made of functions. A nil one does nothing and succeeds; the zero value takes
// everything. What the functions must do is what [vehicle.Sink] says of Begin, Write and End, safety
// for concurrent use by different commands included; their errors and panics go to the caller as they
// are.
type Func struct {
	OnBegin func(ctx context.Context, cmd vehicle.Command) error
	OnWrite func(ctx context.Context, chunks []vehicle.Chunk) error
	OnEnd   func(ctx context.Context, res vehicle.Result) error
}

var _ vehicle.Sink = Func{}

// Begin calls OnBegin.
func (f Func) Begin(ctx context.Context, cmd vehicle.Command) error {
	if f.OnBegin == nil {
		return nil
	}
	return f.OnBegin(ctx, cmd)
}

// Write calls OnWrite.
func (f Func) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	if f.OnWrite == nil {
		return nil
	}
	return f.OnWrite(ctx, chunks)
}

// End calls OnEnd.
func (f Func) End(ctx context.Context, res vehicle.Result) error {
	if f.OnEnd == nil {
		return nil
	}
	return f.OnEnd(ctx, res)
}
