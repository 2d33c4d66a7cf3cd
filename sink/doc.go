// Package sink has ready sinks and ways to combine them.
//
// [Memory] keeps commands in memory, [JSONLines] writes them to a file, [Slog] logs that they began and
// ended, and [Func] is the application's own code. [Chain], [Tee] and [BestEffort] decide what happens
// when one of several sinks fails:
//
//	Chain       one after the other; a failure stops the command before the next sink hears of it
//	Tee         all at once; a failure stops the command, but the others had the batch
//	BestEffort  a failure is reported to a callback, and the command goes on without this sink
//
// They nest. This stores first, announces what is stored, and does not stop diagnostics for want of
// announcements:
//
//	sink.Chain(store, sink.BestEffort(announce, countAndLog))
//
// The sinks of this package may be used by several commands, and by several clients, at once. Errors of
// their own hold no payloads and no parameters. Sinks for PostgreSQL, Redis, Prometheus and OpenTelemetry are in packages
// of their own, below this one. To check a sink that you write, run vehicletest.TestSink.
package sink
