package main

import "time"

// row is one kind of work, done by the SDK and by what one would use instead of it.
type row struct {
	name     string
	work     string // in words
	unit     string // of perSecond
	job      job    // what both sides do
	baseline side
	sdk      side // "": sideSDK
	stores   bool // it needs PostgreSQL, and Redis where the SDK's side is not PostgreSQL alone
	noRedis  bool
	capped   bool // the gateway allows few streams on a connection
	compare  []comparison
}

// comparison is one figure of a row that is looked at.
type comparison struct {
	metric metric
	// goal is what the ratio of the SDK's figure to the baseline's shall reach: at least, where more is better, and at most
	// elsewhere. Zero: there is no goal.
	goal float64
	// limit is what the SDK's figure itself shall not exceed. Zero: none.
	limit float64
}

// moreIsBetter says it of a metric.
func (m metric) moreIsBetter() bool { return m == perSecond }

const (
	smallChunk = 200
	largeChunk = 4096
)

// procsRows are the rows that the document shows for several GOMAXPROCS.
const procsRows = "^(stream|commands-256|both-256)$"

// allRows is what is measured, so much of it.
func allRows(s scale) []row {
	stream := job{Kind: kindStream, Chunks: s.chunks, Size: smallChunk, Window: s.window}
	kept := stream
	kept.Keep = true
	large := stream
	large.Size, large.Chunks = largeChunk, s.chunks/8
	short := func(atOnce int) job {
		if s.atOnce > 0 {
			atOnce = min(atOnce, s.atOnce)
		}
		return job{Kind: kindCommands, Chunks: 3, Size: smallChunk, AtOnce: atOnce, Warmup: s.warmup, Window: s.window}
	}
	stored := func(atOnce int) job {
		j := short(atOnce)
		j.Warmup, j.Window = 2*s.warmup, 2*s.window // what is slow comes in bursts
		return j
	}
	beside := short(64)
	beside.Heap = s.heap
	slow := short(s.capped)
	slow.Delay, slow.Window, slow.Warmup = 50*time.Millisecond, s.slowWindow, 2*s.warmup
	long := stream
	long.Chunks = s.long
	batches := func(atOnce int) job {
		return job{Kind: kindRows, Size: smallChunk, AtOnce: atOnce, Warmup: s.warmup, Window: s.window}
	}
	streamed := func(rate, cpu float64, allocs, bytes float64) []comparison {
		return []comparison{{metric: perSecond, goal: rate}, {metric: cpuEach, goal: cpu}, {metric: allocsEach, limit: allocs}, {metric: bytesEach, limit: bytes}}
	}
	return []row{
		{name: "stream", work: "one stream of chunks of 200 B", unit: "chunks", job: stream, baseline: sideStub, compare: streamed(1.5, 0.75, 4, 450)},
		{name: "stream-kept", work: "the same, the caller keeps the payloads", unit: "chunks", job: kept, baseline: sideStub, compare: streamed(1.5, 0.75, 5, 0)},
		{name: "stream-4k", work: "one stream of chunks of 4 KiB", unit: "chunks", job: large, baseline: sideStub, compare: streamed(1.1, 0, 0, 0)},
		{name: "stream-bare", work: "one stream of chunks of 200 B, with bare gRPC in the SDK's place", unit: "chunks", job: stream, baseline: sideStub,
			sdk: sideBare, compare: []comparison{{metric: perSecond}, {metric: cpuEach}}},
		{name: "stream-4k-bare", work: "one stream of chunks of 4 KiB, with bare gRPC in the SDK's place", unit: "chunks", job: large, baseline: sideStub,
			sdk: sideBare, compare: []comparison{{metric: perSecond}, {metric: cpuEach}}},
		{name: "commands-1", work: "commands of 3 chunks, one at a time", unit: "commands", job: short(1), baseline: sideStub,
			compare: []comparison{{metric: halfWithin, goal: 1.1}}},
		{name: "commands-64", work: "commands of 3 chunks, 64 at once", unit: "commands", job: short(64), baseline: sideStub,
			compare: []comparison{{metric: perSecond, goal: 1.1}, {metric: cpuEach}, {metric: allocsEach}}},
		{name: "commands-64-heap", work: "the same, in a process whose application has a heap of 32 MiB", unit: "commands", job: beside, baseline: sideStub,
			compare: []comparison{{metric: perSecond}, {metric: cpuEach}}},
		{name: "commands-256", work: "commands of 3 chunks, 256 at once", unit: "commands", job: short(256), baseline: sideStub,
			compare: []comparison{{metric: perSecond, goal: 1.1}, {metric: cpuEach}, {metric: allocsEach}}},
		{name: "commands-256-bare", work: "commands of 3 chunks, 256 at once, with bare gRPC in the SDK's place", unit: "commands", job: short(256),
			baseline: sideStub, sdk: sideBare, compare: []comparison{{metric: perSecond}, {metric: cpuEach}}},
		{name: "capped-1024", work: "commands of 3 chunks and 50 ms, 1,024 at once, 100 streams allowed on a connection", unit: "commands", job: slow,
			baseline: sideStub, capped: true, compare: []comparison{{metric: perSecond, goal: 7}, {metric: halfWithin}, {metric: mostWithin}}},
		{name: "open-10000", work: "10,000 open streams", unit: "streams", job: job{Kind: kindOpen, Chunks: 2, Size: smallChunk, AtOnce: s.open},
			baseline: sideStub, compare: []comparison{{metric: memoryEach, goal: 1.25}, {metric: routines, limit: 2}}},
		{name: "both-1", work: "commands of 3 chunks into PostgreSQL and Redis, one at a time", unit: "commands", job: short(1), baseline: sideConnector,
			stores: true, compare: []comparison{{metric: halfWithin, goal: 0.5}}},
		{name: "both-256", work: "commands of 3 chunks into PostgreSQL and Redis, 256 at once", unit: "commands", job: stored(256), baseline: sideConnector,
			stores: true, compare: []comparison{{metric: perSecond, goal: 8}, {metric: cpuEach}, {metric: halfWithin}}},
		{name: "both-256-kept", work: "the same, Redis keeps the events (WithStream)", unit: "commands", job: stored(256), baseline: sideConnector,
			sdk: sideSDKStream, stores: true, compare: []comparison{{metric: perSecond}}},
		{name: "postgres-256", work: "commands of 3 chunks into PostgreSQL alone, 256 at once", unit: "commands", job: stored(256), baseline: sideFair,
			sdk: sideSDKPostgres, stores: true, noRedis: true, compare: []comparison{{metric: perSecond, goal: 3}, {metric: cpuEach}, {metric: halfWithin}}},
		{name: "both-5000", work: "commands of 5,000 chunks into PostgreSQL and Redis, one at a time", unit: "chunks", job: long, baseline: sideConnector,
			stores: true, compare: []comparison{{metric: perSecond, goal: 30}}},
		{name: "rows-1", work: "rows into responses, batches of 1,000, one writer", unit: "rows", job: batches(1), baseline: sideCopy,
			stores: true, noRedis: true, compare: []comparison{{metric: perSecond, goal: 0.8}}},
		{name: "rows-2", work: "rows into responses, batches of 1,000, two writers", unit: "rows", job: batches(2), baseline: sideCopy,
			stores: true, noRedis: true, compare: []comparison{{metric: perSecond, goal: 0.8}}},
	}
}

// scale is how much of everything there is.
type scale struct {
	rounds     int
	chunks     int // of a long answer
	long       int // chunks of a stored long answer
	open       int
	heap       int // bytes of an application's own
	capped     int
	atOnce     int // instead of 256, if not 0
	warmup     time.Duration
	window     time.Duration
	slowWindow time.Duration
}

var scales = map[string]scale{
	"full": {rounds: 5, chunks: 200_000, long: 5000, open: 10_000, heap: 32 << 20, capped: 1024,
		warmup: 400 * time.Millisecond, window: 1500 * time.Millisecond, slowWindow: 5 * time.Second},
	"quick": {rounds: 3, chunks: 200_000, long: 5000, open: 10_000, heap: 32 << 20, capped: 1024,
		warmup: 200 * time.Millisecond, window: 500 * time.Millisecond, slowWindow: 2 * time.Second},
	// Only to see that all of it works; the figures say nothing.
	"tiny": {rounds: 1, chunks: 200, long: 50, open: 50, heap: 1 << 20, capped: 128, atOnce: 16,
		warmup: 20 * time.Millisecond, window: 100 * time.Millisecond, slowWindow: 200 * time.Millisecond},
}
