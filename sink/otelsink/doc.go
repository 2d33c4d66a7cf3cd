// Package otelsink traces commands with OpenTelemetry: a span for each command, a child of the caller's, and in it one for
// each attempt.
//
//	client, err := vehicle.NewFromEnv(
//		vehicle.WithSink(store, otelsink.New(nil)),
//		vehicle.WithDialOptions(grpc.WithStatsHandler(otelgrpc.NewClientHandler())), // if you like: a child of the attempt's
//	)
//
// It may stand anywhere among the sinks. Those that trace their own calls, with the context that they get, do so below
// the command's span.
//
// # Attributes
//
//	sovd.command <name>  sovd.command.name, .id, sovd.vehicle.id; when it ends .status, .chunks, .replayed, .attempts
//	sovd.attempt         sovd.attempt.number, .resume_from, .code (gRPC's)
//
// A command's span has an event "retrying" for each retry, with sovd.attempt.number, .code and sovd.retry.delay in seconds, an
// attempt's one "stream opened" when gRPC has given it a stream. A failed command's status is the text of the [vehicle.Error],
// a failed attempt's its Message. No span has payloads or parameters, and there is no event for a chunk: a
// long answer would have thousands.
package otelsink
