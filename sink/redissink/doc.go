// Package redissink announces the answers of vehicles on Redis.
//
//	announce := redissink.New(rdb, redissink.WithStream(10_000, time.Hour))
//	client, err := vehicle.New(target, vehicle.WithSink(announce))
//
// Each event of a command is published on the channel response:<command id> as one JSON object (see
// [Event]). With [WithStream] it is also kept in a Redis Stream, and [Follow] gives a command's events
// from the first one on, whenever the follower joins:
//
//	for event, err := range redissink.Follow(ctx, rdb, commandID) {
//		if err != nil {
//			return err
//		}
//		send(event)
//	}
//
// Redis 6.2 or newer, standalone, behind Sentinel, or as a cluster. What a user of Redis needs to be
// allowed (ACL), beside what the client connects with (HELLO, PING, CLIENT):
//
//   - to publish: PUBLISH, on the channels response:*
//   - with streams also: EVAL, EVALSHA, EXISTS, XINFO, XADD, XDEL, PEXPIRE and UNLINK, on the keys
//     stream:{response:*}, and PUBLISH on channels of that name
//   - to follow: SUBSCRIBE and UNSUBSCRIBE, on both kinds of channels, and XRANGE and XREVRANGE, on the keys
//
// # Delivery
//
// An event is published at least once: where a connection is lost before Redis has answered, it is
// published again, since nobody knows whether it was. Subscribers of their own should drop a response
// whose sequence_number they have had, and stop at the first status or error event; Follow does. With
// streams an event is appended and published in one step, which is not repeated: then a repeat does
// not happen.
//
// Redis itself delivers at most once: it does not keep what it publishes, and cuts a subscriber
// that is more than 32 MiB behind, or 8 MiB for a minute (client-output-buffer-limit pubsub). The
// publisher does not learn of that, but for PUBLISH's count of receivers, which nobody can interpret.
// A stream closes that gap, too.
//
// # Sizes
//
// A payload may be as large as Redis takes a value, 512 MB by default (proto-max-bulk-len), and is
// published verbatim. Mind the subscribers' limits above: with payloads of megabytes, give followers a
// stream, which they read at their own pace. A stream holds about the JSON of its events, in Redis'
// memory, until it expires.
package redissink
