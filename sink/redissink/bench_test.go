package redissink_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// naive is what everybody writes first: it awaits a PUBLISH for each chunk.
type naive struct{ rdb redis.UniversalClient }

func (n naive) Begin(context.Context, vehicle.Command) error { return nil }

func (n naive) Write(ctx context.Context, chunks []vehicle.Chunk) error {
	for _, c := range chunks {
		text, err := redissink.Event{
			Event: "response", CommandID: c.CommandID, ResponseID: c.ID(), Payload: c.Payload, Seq: c.Seq, Final: c.Final,
		}.MarshalJSON()
		if err != nil {
			return err
		}
		if err := n.rdb.Publish(ctx, redissink.ChannelOf(c.CommandID), text).Err(); err != nil {
			return err
		}
	}
	return nil
}

func (n naive) End(ctx context.Context, res vehicle.Result) error {
	text, err := redissink.Event{Event: "status", CommandID: res.Command.ID, Status: res.Status, CompletedAt: res.FinishedAt}.MarshalJSON()
	if err != nil {
		return err
	}
	return n.rdb.Publish(ctx, redissink.ChannelOf(res.Command.ID), text).Err()
}

type benchSink struct {
	name string
	new  func(rdb redis.UniversalClient) vehicle.Sink
}

func benchSinks() []benchSink {
	return []benchSink{
		{"naive", func(rdb redis.UniversalClient) vehicle.Sink { return naive{rdb} }},
		{"sink", func(rdb redis.UniversalClient) vehicle.Sink { return redissink.New(rdb) }},
		{"sink with stream", func(rdb redis.UniversalClient) vehicle.Sink {
			return redissink.New(rdb, redissink.WithStream(10_000, time.Minute))
		}},
	}
}

// BenchmarkCommands runs commands of three chunks, each chunk written as it arrives, many commands at once.
func BenchmarkCommands(b *testing.B) {
	server := private(b, "appendonly no")
	for _, at := range []int{1, 64, 256} {
		for _, sink := range benchSinks() {
			b.Run(fmt.Sprintf("%d at once/%s", at, sink.name), func(b *testing.B) {
				s := sink.new(connect(b, server.URL()))
				b.ReportAllocs()
				var wg sync.WaitGroup
				commands := make(chan struct{})
				for range at {
					wg.Go(func() {
						for range commands {
							cmd := newCommand()
							chunks := answer(cmd, 3)
							must(b, s.Begin(b.Context(), cmd))
							for i := range chunks {
								must(b, s.Write(b.Context(), chunks[i:i+1]))
							}
							must(b, s.End(b.Context(), completed(cmd)))
						}
					})
				}
				for b.Loop() {
					commands <- struct{}{}
				}
				close(commands)
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			})
		}
	}
}

// BenchmarkLongAnswer publishes one answer of 5,000 chunks of 200 bytes, in batches of 100.
func BenchmarkLongAnswer(b *testing.B) {
	server := private(b, "appendonly no")
	for _, sink := range benchSinks() {
		b.Run(sink.name, func(b *testing.B) {
			s := sink.new(connect(b, server.URL()))
			cmd := newCommand()
			chunks := answer(cmd, 5000)
			for i := range chunks {
				chunks[i].Payload = fmt.Appendf(nil, `{"ecu":"ABS","frame":%d,"data":"%0170d"}`, i, i)
			}
			b.ReportAllocs()
			for b.Loop() {
				must(b, s.Begin(b.Context(), cmd))
				for i := 0; i < len(chunks); i += 100 {
					must(b, s.Write(b.Context(), chunks[i:i+100]))
				}
				must(b, s.End(b.Context(), completed(cmd)))
			}
			b.ReportMetric(float64(b.N*len(chunks))/b.Elapsed().Seconds(), "chunks/s")
		})
	}
}

// BenchmarkFollow reads a stored answer of 5,000 chunks.
func BenchmarkFollow(b *testing.B) {
	server := private(b, "appendonly no")
	rdb := connect(b, server.URL())
	s, cmd := newSink(b, rdb, streams()), newCommand()
	must(b, s.Begin(b.Context(), cmd))
	must(b, s.Write(b.Context(), answer(cmd, 5000)))
	must(b, s.End(b.Context(), completed(cmd)))
	b.ReportAllocs()
	for b.Loop() {
		got, err := collect(redissink.Follow(b.Context(), rdb, cmd.ID))
		if err != nil || len(got) != 5001 {
			b.Fatalf("got %d events, %v", len(got), err)
		}
	}
	b.ReportMetric(float64(b.N*5000)/b.Elapsed().Seconds(), "chunks/s")
}
