package vehicletest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// Harness is a sink under test and a way to look into it.
type Harness struct {
	Sink vehicle.Sink
	// Read returns what the sink holds of a command: its chunks in order and its status ("" before Begin).
	// nil where a sink cannot be read back: then only its behaviour is tested, not what it kept.
	Read func(ctx context.Context, commandID uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error)
}

// TestSink checks that a sink keeps the rules of [vehicle.Sink]:
//
//	func TestMySink(t *testing.T) {
//		vehicletest.TestSink(t, func(t *testing.T) vehicletest.Harness {
//			s := newMySink(t)
//			return vehicletest.Harness{Sink: s, Read: s.read}
//		})
//	}
//
// Each rule is a subtest with a harness of its own, and each failure says which rule was broken. The
// subtests run one after the other and use random ids, so the harnesses may share a database. Commands
// have random vehicles, of which one may have several commands at once, and random users: where the schema
// wants those to exist, let the harness wrap the sink and insert them in Begin. Read is called while commands run, too; where the sink has no status
// in_progress, let the harness note Begin and say so. Run it with -race, which finds a sink that reads
// a batch after Write.
//
// Of a chunk that comes back, CommandID, Seq and Final must be as they were. VehicleID, Timestamp and
// ReceivedAt may be zero, where the sink does not keep them, and otherwise must be right, the times to
// the millisecond. A payload must be the same JSON value: the order of an object's keys, white space
// and the spelling of strings and numbers (1.50, 15e-1) may differ, and of a key that comes twice the
// last counts, all as PostgreSQL's jsonb has it; no digit and no character may be lost.
//
// A call that does not return within 30 s is reported by name and left behind. The rules after it are not tried, so that go test
// lives to report it.
func TestSink(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	untried := untilOneHangs(func(c sinkCase, hung *atomic.Bool) {
		t.Run(c.name, func(t *testing.T) {
			t.Helper()
			c.run(t, newHarness(t), hung)
		})
	})
	if untried > 0 {
		t.Logf("the sink hangs: %d rules were not tried", untried)
	}
}

// untilOneHangs runs the cases up to the one that says that a call has hung, and says how many are left.
func untilOneHangs(run func(c sinkCase, hung *atomic.Bool)) (untried int) {
	cases := sinkCases()
	for i, c := range cases {
		var hung atomic.Bool // the case may be parallel, for all we know
		if run(c, &hung); hung.Load() {
			return len(cases) - i - 1
		}
	}
	return 0
}

// sinkCase checks one rule.
type sinkCase struct {
	name  string // of the subtest
	rule  string // what a failure comes down to
	check func(p *sinkProbe)
}

func (c sinkCase) run(t sinkT, h Harness, hung *atomic.Bool) {
	t.Helper()
	c.check(&sinkProbe{Harness: h, t: t, rule: c.rule, hung: hung})
}

func sinkCases() []sinkCase {
	return []sinkCase{
		{
			name:  "chunks are kept in order and once",
			rule:  "Write takes chunks in the order of their sequence numbers, each exactly once, in batches of any size",
			check: (*sinkProbe).checkOrder,
		},
		{
			name:  "equal chunks are kept each",
			rule:  "chunks with the same payload are different chunks",
			check: (*sinkProbe).checkEqual,
		},
		{
			name:  "chunks without a timestamp",
			rule:  "a chunk's Timestamp is zero where the vehicle's was absent or unreadable",
			check: (*sinkProbe).checkWithoutTimestamp,
		},
		{
			name:  "answers may be numbered from one",
			rule:  "sequence numbers count up from 0 or from 1, and a sink keeps them as they are",
			check: (*sinkProbe).checkNumberedFromOne,
		},
		{
			name:  "only the final chunk is final",
			rule:  "a chunk is kept with its Final flag; a failed command may have none that is final",
			check: (*sinkProbe).checkFinal,
		},
		{
			name:  "a batch is kept when Write returns",
			rule:  "a nil error from Write says that the sink has taken the batch: sinks after it may now announce it",
			check: (*sinkProbe).checkKeptOnReturn,
		},
		{
			name:  "5,000 chunks",
			rule:  "an answer may have thousands of chunks",
			check: (*sinkProbe).checkManyChunks,
		},
		{
			name:  "a payload of 1 MiB",
			rule:  "a payload may be as large as a message (10 MiB by default)",
			check: (*sinkProbe).checkLargePayload,
		},
		{
			name:  "awkward payloads",
			rule:  "a payload may be any valid JSON, and is kept as the same JSON value",
			check: (*sinkProbe).checkPayloads,
		},
		{
			name:  "awkward parameters",
			rule:  "a command that passed the SDK's checks is not refused for its name, its parameters or Once, and belongs to the caller",
			check: (*sinkProbe).checkParameters,
		},
		{
			name:  "the status follows the command",
			rule:  `a command is unknown ("") before Begin, in_progress after it, and completed or failed after End`,
			check: (*sinkProbe).checkStatus,
		},
		{
			name:  "commands without chunks",
			rule:  "there may be no Write between Begin and End",
			check: (*sinkProbe).checkNoChunks,
		},
		{
			name:  "failed commands end failed",
			rule:  "End comes with a failed Result whatever made the command fail, and what was written before stays",
			check: (*sinkProbe).checkFailures,
		},
		{
			name:  "the batch slice is reused",
			rule:  "the slice given to Write is reused after Write returns: copy the chunks; their payloads may be kept",
			check: (*sinkProbe).checkReuse,
		},
		{
			name:  "the batch is not changed",
			rule:  "the slice given to Write, its spare capacity and the payloads must not be changed, then or later: others read them",
			check: (*sinkProbe).checkUnchanged,
		},
		{
			name:  "Begin under a canceled context",
			rule:  "Begin under a context that has ended returns promptly, and one that refused leaves nothing in the way of the next",
			check: (*sinkProbe).checkCanceledBegin,
		},
		{
			name:  "Write under a canceled context",
			rule:  "Write under a context that has ended returns promptly, and End, whose context is a fresh one, still records the failure",
			check: (*sinkProbe).checkCanceledWrite,
		},
		{
			name:  "a deadline that passes during Write",
			rule:  "a Write that is cut short keeps nothing but the beginning of its batch, and End still records the failure",
			check: (*sinkProbe).checkDeadline,
		},
		{
			name:  "concurrent commands are not mixed",
			rule:  "different commands call concurrently, also those of one vehicle",
			check: (*sinkProbe).checkConcurrent,
		},
		{
			name:  "a canceled command leaves its neighbours alone",
			rule:  "what ends or fails one command does nothing to the others that run at the time",
			check: (*sinkProbe).checkNeighbours,
		},
		{
			name:  "a command run again replaces its chunks",
			rule:  "a command that is run again under the same id replaces what was kept: one run's answer, never a mix of two",
			check: (*sinkProbe).checkRunAgain,
		},
	}
}
