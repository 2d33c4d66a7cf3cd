package vehicletest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

func readMemory(m *sink.Memory) func(context.Context, uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
	return func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
		return m.Chunks(id), m.Status(id), nil
	}
}

func TestSinkPassesACorrectSink(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	begun := make(map[*sink.Memory]int)
	TestSink(t, func(*testing.T) Harness {
		m := &sink.Memory{}
		h := replacing(m, sink.Func{OnBegin: func(ctx context.Context, cmd vehicle.Command) error {
			mu.Lock()
			defer mu.Unlock()
			begun[m]++
			return m.Begin(ctx, cmd)
		}})
		h.Read = readMemory(m)
		return h
	})
	if want := len(sinkCases()); len(begun) != want {
		t.Errorf("got %d sinks that were used, want one for each of %d cases", len(begun), want)
	}
}

func TestSinkPassesACorrectSinkThatCannotBeRead(t *testing.T) {
	t.Parallel()
	TestSink(t, func(*testing.T) Harness { return Harness{Sink: &sink.Memory{}} })
}

func TestSinkPassesACorrectSinkThatCountsItsChunks(t *testing.T) {
	t.Parallel()
	TestSink(t, func(*testing.T) Harness {
		m := &sink.Memory{}
		h := replacing(m, sink.Func{
			OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return m.Write(ctx, chunks)
			},
			OnEnd: func(ctx context.Context, res vehicle.Result) error {
				if got := len(m.Chunks(res.Command.ID)); got != res.Chunks {
					return fmt.Errorf("got %d chunks, and the Result says %d", got, res.Chunks)
				}
				return m.End(ctx, res)
			},
		})
		h.Read = readMemory(m)
		return h
	})
}

// A sink may leave out what it does not need, and times may lose less than a millisecond.
func TestSinkPassesACorrectSinkThatKeepsTheLeast(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]func(vehicle.Chunk) vehicle.Chunk{
		"neither vehicle nor times": func(c vehicle.Chunk) vehicle.Chunk {
			return vehicle.Chunk{CommandID: c.CommandID, Seq: c.Seq, Final: c.Final, Payload: c.Payload}
		},
		"rounded times": func(c vehicle.Chunk) vehicle.Chunk {
			c.ReceivedAt = c.ReceivedAt.Add(time.Millisecond - 1)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			TestSink(t, func(*testing.T) Harness {
				m := &sink.Memory{}
				return Harness{Sink: m, Read: func(_ context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
					chunks := m.Chunks(id)
					for i, c := range chunks {
						chunks[i] = keep(c)
					}
					return chunks, m.Status(id), nil
				}}
			})
		})
	}
}

// recordingT stands in for the *testing.T of one subtest.
type recordingT struct {
	ctx    context.Context
	mu     sync.Mutex
	errors []string
}

func (r *recordingT) Helper()                  {}
func (r *recordingT) Context() context.Context { return r.ctx }
func (r *recordingT) FailNow()                 { runtime.Goexit() }
func (r *recordingT) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// failuresOf runs a case against a harness as t.Run would, and returns what it reported.
func failuresOf(ctx context.Context, c sinkCase, h Harness, hung *atomic.Bool) []string {
	rec := &recordingT{ctx: ctx}
	var wg sync.WaitGroup
	wg.Go(func() { c.run(rec, h, hung) })
	wg.Wait()
	return rec.errors
}

func caseNamed(t *testing.T, name string) sinkCase {
	t.Helper()
	cases := sinkCases()
	i := slices.IndexFunc(cases, func(c sinkCase) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("there is no case named %q", name)
	}
	return cases[i]
}

// TestSinkCatches proves the suite: each sink below is broken in one way, and the case that is about
// it must fail, for that reason. The bubble's clock makes calls that hang cost nothing.
func TestSinkCatches(t *testing.T) {
	t.Parallel()
	for _, b := range brokenSinks() {
		t.Run("a sink that "+b.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				defer close(release)
				m := &sink.Memory{}
				h := b.harness(m, release)
				if h.Read == nil {
					h.Read = readMemory(m)
				}
				c := caseNamed(t, b.caughtBy)
				got := failuresOf(t.Context(), c, h, new(atomic.Bool))
				if len(got) == 0 {
					t.Fatalf("%q: got no failure, want one that says %q", b.caughtBy, b.saying)
				}
				for _, text := range got {
					if !strings.HasSuffix(text, "The rule: "+c.rule+".") {
						t.Errorf("got %q, want the rule %q at its end", text, c.rule)
					}
				}
				if all := strings.Join(got, "\n"); !strings.Contains(all, b.saying) {
					t.Errorf("got the failures\n%s\nwant one that says %q", all, b.saying)
				}
			})
		})
	}
}

// go test ends a binary after ten minutes, and then says nothing of the failures so far.
func TestSinkEndsWithTheFirstCallThatHangs(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]func(payload string) bool{
		"always":             func(string) bool { return true },
		"over some payloads": func(payload string) bool { return payload == `{}` || payload == `[]` },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				defer close(release)
				start, failures := time.Now(), 0
				untilOneHangs(func(c sinkCase, hung *atomic.Bool) {
					m := &sink.Memory{}
					h := replacing(m, sink.Func{OnWrite: func(ctx context.Context, chunks []vehicle.Chunk) error {
						if hangs(string(chunks[0].Payload)) {
							<-release
						}
						return m.Write(ctx, chunks)
					}})
					failures += len(failuresOf(t.Context(), c, h, hung))
				})
				if took := time.Since(start); failures != 1 || took > 2*sinkPatience {
					t.Errorf("got %d failures in %v, want the first one, after %v", failures, took, sinkPatience)
				}
			})
		})
	}
}

func TestSinkHasACaseForEachBrokenSinkAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	for _, c := range sinkCases() {
		if !slices.ContainsFunc(brokenSinks(), func(b brokenSink) bool { return b.caughtBy == c.name }) {
			t.Errorf("no broken sink proves the case %q", c.name)
		}
	}
}

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		a, b  string
		equal bool
	}{
		{"white space between tokens does not count", " [ 1 ,\n2 ] ", "[1,2]", true},
		{"white space in strings does", `"a b"`, `"ab"`, false},
		{"the order of keys does not count", `{"a":1,"b":{"c":2,"d":3}}`, `{"b":{"d":3,"c":2},"a":1}`, true},
		{"the order of elements does", `[1,2]`, `[2,1]`, false},
		{"a missing key does", `{"a":1}`, `{}`, false},
		{"of a key that comes twice the last counts", `{"a":1,"a":2}`, `{"a":2}`, true},
		{"and not the first", `{"a":1,"a":2}`, `{"a":1}`, false},
		{"keys are compared unescaped", `{"\u0061":1}`, `{"a":1}`, true},
		{"trailing zeros do not count", `1.50`, `1.5`, true},
		{"nor does how the exponent is written", `15E-1`, `1.5`, true},
		{"nor where the point is", `0.00001e+5`, `1`, true},
		{"nor the sign of zero", `-0.0e7`, `0`, true},
		{"the sign of others does", `-1`, `1`, false},
		{"a power of ten does", `10`, `1`, false},
		{"every digit does", `9007199254740993`, `9007199254740992`, false},
		{"a number beyond float64 is a number", `1e400000`, `10E399999`, true},
		{"and differs from others", `1e400000`, `1e400001`, false},
		{"an exponent beyond int64 is kept", `1e99999999999999999999`, `1e99999999999999999998`, false},
		{"escapes equal what they stand for", `"\u00e9\u002f\/\n\b\f\r\t"`, `"é//\u000a\u0008\u000c\u000d\u0009"`, true},
		{"a surrogate pair equals its character", `"\ud83d\ude97"`, `"🚗"`, true},
		{"a lone surrogate is not the replacement character", `"\ud83d"`, `"\ufffd"`, false},
		{"nor another lone surrogate", `"\ud83d"`, `"\ud83e"`, false},
		{"nor one of another range", `"\ud83d"`, `"\ud93d"`, false},
		{"lone surrogates keep their order", `"\ude97\ud83d"`, `"\ud83d\ude97"`, false},
		{"what follows a lone surrogate is read", `"\ud83d\u0041\ud83dx"`, `"\ud83dA\ud83dx"`, true},
		{"NUL is a character", `"\u0000"`, `""`, false},
		{"a string is not a number", `"1"`, `1`, false},
		{"a string is not what it spells", `"[]"`, `[]`, false},
		{"elements cannot pass for one string", `["a","b"]`, `["a\",\"b"]`, false},
		{"nor for one number", `[10,0]`, `[1e10]`, false},
		{"null is not false", `null`, `false`, false},
		{"an empty object is not an empty array", `{}`, `[]`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, err := canonicalJSON([]byte(test.a))
			if err != nil {
				t.Fatal(err)
			}
			b, err := canonicalJSON([]byte(test.b))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(a) == string(b); got != test.equal {
				t.Errorf("%s and %s: got equal %t (%s, %s), want %t", test.a, test.b, got, a, b, test.equal)
			}
		})
	}
}

func TestCanonicalJSONRefusesWhatIsNotJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", "1 2", "\"\xff\"", "NaN"} {
		if got, err := canonicalJSON([]byte(text)); err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		}
	}
}
