// Package lastly tells a sink, with the Write of a command's final chunk, which End will follow if no sink fails. A sink
// that stores can then store both at once. It must bear another End all the same, and need not look.
package lastly

import "context"

// End is what a sink is told. Each sink that is called has one of its own.
type End struct {
	Result any // the vehicle.Result, a pointer; it is not to be changed
	Sink   any // who is told; those that it serves in turn may read of it, and are not meant

	// Certain is true for the last sink, if those before it have done their End with their Write. Once it has written, nothing
	// can come in between: it may tell the world.
	Certain bool
	// Done is set by the sink when it has done its End, which then cannot fail.
	Done bool
}

type key struct{}

// telling is a context that tells.
type telling struct {
	context.Context

	end End
}

// Value implements context.Context.
func (t *telling) Value(k any) any {
	if k == (key{}) {
		return &t.end
	}
	return t.Context.Value(k)
}

// String is for who prints it: fmt would read what the sink writes meanwhile.
func (*telling) String() string { return "vehicle's context" }

// From returns what ctx tells, or nil.
func From(ctx context.Context) *End {
	end, _ := ctx.Value(key{}).(*End)
	return end
}

// Told returns what ctx tells the sink, or nil.
func Told(ctx context.Context, sink any) *End {
	if end := From(ctx); end != nil && end.Sink == sink {
		return end
	}
	return nil
}

// Teller tells sinks that are served one after the other. The zero value tells nothing.
type Teller struct {
	result  any
	certain bool
	undone  bool // a sink before the last one told has its End to come
	told    *End
}

// NewTeller returns one for sinks after which nobody is served.
func NewTeller(result any) Teller { return Teller{result: result, certain: true} }

// Within returns one for those that a sink serves itself, if it has been told.
func Within(ctx context.Context, sink any) Teller {
	if end := Told(ctx, sink); end != nil {
		return Teller{result: end.Result, certain: end.Certain}
	}
	return Teller{}
}

// Next returns the context for the next sink, which may be the last one.
func (t *Teller) Next(ctx context.Context, sink any, last bool) context.Context {
	if t.result == nil {
		return ctx
	}
	t.undone = !t.AllDone()
	c := &telling{Context: ctx, end: End{Result: t.result, Sink: sink, Certain: t.certain && last && !t.undone}}
	t.told = &c.end
	return c
}

// AllDone says whether each sink so far has done its End.
func (t *Teller) AllDone() bool { return !t.undone && (t.told == nil || t.told.Done) }
