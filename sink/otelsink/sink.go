package otelsink

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

// Sink makes a span of each command and of each attempt. It is a [vehicle.Observer]; as a [vehicle.Sink] it does nothing.
// It is safe for concurrent use, and needs no closing.
type Sink struct {
	sink.Func
	provider trace.TracerProvider
}

var _ vehicle.Observer = (*Sink)(nil)

// New makes a Sink whose spans come from provider; nil means the global one, [otel.GetTracerProvider], as it is when a command
// begins.
func New(provider trace.TracerProvider) *Sink { return &Sink{provider: provider} }

// scope is the name of the instrumentation.
const scope = "github.com/sovd-go/vehicle/sink/otelsink"

func (s *Sink) tracer() trace.Tracer {
	if s.provider == nil {
		return otel.GetTracerProvider().Tracer(scope)
	}
	return s.provider.Tracer(scope)
}

// The keys under which a context has a Sink's spans. Somebody else's may be the current one, and several Sinks may trace a command.
type (
	commandKey struct{ sink *Sink }
	attemptKey struct{ sink *Sink }
)

func spanOf(ctx context.Context, key any) trace.Span {
	span, ok := ctx.Value(key).(trace.Span)
	if !ok {
		return trace.SpanFromContext(context.Background()) // one that does nothing
	}
	return span
}

// TagCommand implements [vehicle.Observer]: it begins the command's span.
func (s *Sink) TagCommand(ctx context.Context, cmd vehicle.Command) context.Context {
	ctx, span := s.tracer().Start(ctx, "sovd.command "+cmd.Name, trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(
		attribute.String("sovd.command.name", cmd.Name),
		attribute.String("sovd.command.id", cmd.ID.String()),
		attribute.String("sovd.vehicle.id", cmd.VehicleID.String()),
	))
	return context.WithValue(ctx, commandKey{s}, span)
}

// TagAttempt implements [vehicle.Observer]: it begins the attempt's span.
func (s *Sink) TagAttempt(ctx context.Context, at vehicle.Attempt) context.Context {
	ctx = trace.ContextWithSpan(ctx, spanOf(ctx, commandKey{s}))
	attrs := []attribute.KeyValue{attribute.Int("sovd.attempt.number", at.Number)}
	if at.ResumeFrom > 0 {
		attrs = append(attrs, attribute.Int("sovd.attempt.resume_from", int(at.ResumeFrom)))
	}
	ctx, span := s.tracer().Start(ctx, "sovd.attempt", trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(attrs...))
	return context.WithValue(ctx, attemptKey{s}, span)
}

// Observe implements [vehicle.Observer]: it ends the spans, and says in the command's when it is retried.
func (s *Sink) Observe(ctx context.Context, event vehicle.Event) {
	switch e := event.(type) {
	case vehicle.StreamOpened:
		spanOf(ctx, attemptKey{s}).AddEvent("stream opened")
	case vehicle.AttemptEnded:
		span := spanOf(ctx, attemptKey{s})
		span.SetAttributes(attribute.String("sovd.attempt.code", e.Code.String()))
		if failure, ok := errors.AsType[*vehicle.Error](e.Err); ok {
			span.SetStatus(codes.Error, failure.Message)
		}
		span.End()
	case vehicle.Retrying:
		spanOf(ctx, commandKey{s}).AddEvent("retrying", trace.WithAttributes(
			attribute.Int("sovd.attempt.number", e.Attempt.Number),
			attribute.String("sovd.attempt.code", e.Code.String()),
			attribute.Float64("sovd.retry.delay", e.Delay.Seconds()),
		))
	case vehicle.CommandEnded:
		span := spanOf(ctx, commandKey{s})
		span.SetAttributes(
			attribute.String("sovd.command.status", string(e.Result.Status)),
			attribute.Int("sovd.command.chunks", e.Result.Chunks),
			attribute.Int("sovd.command.replayed", e.Result.Replayed),
			attribute.Int("sovd.command.attempts", e.Result.Attempts),
		)
		if e.Result.Err != nil {
			span.SetStatus(codes.Error, e.Result.Err.Error())
		}
		span.End()
	}
}
