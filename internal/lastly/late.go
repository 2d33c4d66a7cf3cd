package lastly

import "context"

// Late returns limit, as the context of the sinks that take a final chunk, one after the other. The time that one of them has taken too
// long is not the next one's doing: who has called one goes on with [GoOn], which then ends with the command's context.
func Late(limit, command context.Context) context.Context {
	return &late{Context: limit, limit: limit, command: command}
}

// GoOn returns the context for the next sink: ctx, or where the limit has passed meanwhile, one with its values that ends
// with the command's.
func GoOn(ctx context.Context) context.Context {
	l, ok := ctx.Value(lateKey{}).(*late)
	if !ok || l.limit.Err() == nil || ctx.Done() != l.limit.Done() { // who has made another of it has set another limit
		return ctx
	}
	return goingOn{Context: l.command, values: context.WithoutCancel(ctx)} // without what package context would find the limit's cause by
}

// late is the limit, and remembers both.
type late struct {
	context.Context

	limit, command context.Context
}

type lateKey struct{}

// Value implements context.Context.
func (l *late) Value(key any) any {
	if key == (lateKey{}) {
		return l
	}
	return l.Context.Value(key)
}

// goingOn is the command's context with another's values.
type goingOn struct {
	context.Context

	values context.Context
}

// Value implements context.Context.
func (g goingOn) Value(key any) any {
	if v := g.values.Value(key); v != nil {
		return v
	}
	return g.Context.Value(key) // what package context asks for, to find the cause
}
