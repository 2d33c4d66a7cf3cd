package vehicle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/prose"
	"github.com/sovd-go/vehicle/internal/sinkcall"
)

// Defaults and limits that a document or a comment tells are those that hold.
func TestTheNumbersInTheDocumentsHold(t *testing.T) {
	t.Parallel()
	c, policy := defaultConfig(), RetryPolicy{}.withDefaults()
	env := environment{lookup: func(string) string { return "" }}
	fromEnv, err := c.with(env.options())
	if err != nil {
		t.Fatal(err)
	}
	attempt, end, reload := seconds(c.call.attemptTimeout), seconds(sinkcall.EndTime), seconds(reloadInterval)
	messages, queue := fmt.Sprintf("%d MiB", c.maxMessageSize>>20), fmt.Sprintf("%s chunks or %d MiB", thousands(queueChunks), queueBytes>>20)
	var waits []string
	for range policy.MaxRetries {
		waits = append(waits, seconds(policy.BaseDelay))
		policy.BaseDelay = time.Duration(policy.Multiplier * float64(policy.BaseDelay))
	}
	policy = RetryPolicy{}.withDefaults()
	for _, fault := range prose.Missing(map[string][]string{
		"README.md": {
			fmt.Sprintf("| `WithPoolSize(n)` | client | at most %d connections", c.poolSize),
			fmt.Sprintf("a ping after %s of silence, %s for its answer", seconds(c.keepalive.Time), seconds(c.keepalive.Timeout)),
			"| `WithMaxMessageSize(bytes)` | client | " + messages + " |",
			"| `WithAttemptTimeout(d)` | call | " + attempt + " for each attempt",
			fmt.Sprintf("| `WithReorderWindow(n)` | call | %d chunks may wait", c.call.reorderWindow),
			fmt.Sprintf("| `WithConcurrency(n)` | `ExecuteAll` | %d commands at once", c.call.concurrency),
			fmt.Sprintf("| UNAVAILABLE | %d times: after %s, each ±%.0f %% |", policy.MaxRetries, strings.Join(waits, ", "), 100*policy.Jitter),
			"the attempt's deadline (" + attempt + ")",
			"Its context ends after " + end,
			fmt.Sprintf("| seconds for an attempt | `%v` |", fromEnv.call.attemptTimeout.Seconds()),
			fmt.Sprintf("0 means none | `%d` |", fromEnv.call.retry.withDefaults().MaxRetries),
			fmt.Sprintf("| seconds before the first retry | `%.1f` |", fromEnv.call.retry.withDefaults().BaseDelay.Seconds()),
			fmt.Sprintf("| connections at most | `%d` |", fromEnv.poolSize),
		},
		"SECURITY.md": {
			"all new commands within " + reload, "`WithAttemptTimeout` (" + attempt + " by default)",
		},
		"docs/how-it-works.md": {
			"The queue holds " + queue, "pump's queue<br/>" + queue, fmt.Sprintf("Up to the %dth chunk", aheadAfter),
			fmt.Sprintf("waited for %d ms on a ready connection", patience.Milliseconds()),
			"outlives the caller's and ends after " + end, fmt.Sprintf("are free**, up to %d", freeRetries),
		},
		"docs/operations.md": {
			fmt.Sprintf("At most %d (`WithPoolSize`), opened as load asks: with fewer than %d commands in flight", c.poolSize, streamsPerConn),
			fmt.Sprintf("pings after %s without traffic, and waits %s", seconds(c.keepalive.Time), seconds(c.keepalive.Timeout)),
			"`WithAttemptTimeout` (" + attempt + ")", "before each handshake and every " + reload,
			fmt.Sprintf("received and not read | %d MiB |", streamWindow>>20), "| `WithMaxMessageSize`, " + messages + " |",
			fmt.Sprintf("| %d MiB or %s chunks, and one message |", queueBytes>>20, thousands(queueChunks)),
			fmt.Sprintf("| %d messages (`WithReorderWindow`) |", c.call.reorderWindow),
			fmt.Sprintf("read buffers of %d KiB", readBuffer>>10), "`End` may take " + end,
			fmt.Sprintf("what the heap lacks of %d MiB, or of a sixteenth of `GOMEMLIMIT`", leastHeap>>20),
		},
		"docs/troubleshooting.md": {
			"`WithMaxMessageSize` (" + messages + " by default)", fmt.Sprintf("overtake each other by more than %d,", c.call.reorderWindow),
		},
		"client.go": {fmt.Sprintf("a heap of less than %d MiB", leastHeap>>20)},
		"options.go": {
			fmt.Sprintf("connections that the client opens; the default is %d,", c.poolSize), fmt.Sprintf("about %d streams in flight", streamsPerConn),
			fmt.Sprintf("a ping after %s without traffic, %s for its answer", seconds(c.keepalive.Time), seconds(c.keepalive.Timeout)),
			"in bytes; the default is " + messages + ".", "are replaced within " + reload,
			fmt.Sprintf("windows of %d MiB for a stream and %d MiB for a connection, and read buffers of %d KiB", streamWindow>>20, connWindow>>20, readBuffer>>10),
			"writing included; the default is " + attempt + ".", fmt.Sprintf("one that is late; the default is %d,", c.call.reorderWindow),
			fmt.Sprintf("runs at once; the default is %d,", c.call.concurrency),
		},
		"retry.go": {
			fmt.Sprintf("keeps going. The default is %d.", policy.MaxRetries), fmt.Sprintf("DEADLINE_EXCEEDED. The default is %d.", policy.TimeoutRetries),
			"first retry; the default is " + seconds(policy.BaseDelay) + ".", "chooses; the default is " + seconds(policy.MaxDelay) + ",",
			fmt.Sprintf("one before; the default is %v,", policy.Multiplier), fmt.Sprintf("than MaxDelay. The default is %v.", policy.Jitter),
		},
		"env.go": {
			fmt.Sprintf("seconds for an attempt (%v)", fromEnv.call.attemptTimeout.Seconds()),
			fmt.Sprintf("0 means none (%d)", fromEnv.call.retry.withDefaults().MaxRetries),
			fmt.Sprintf("seconds before the first retry (%.1f)", fromEnv.call.retry.withDefaults().BaseDelay.Seconds()),
		},
		"errors.go": {fmt.Sprintf("is cut to %d bytes", len(foreign.Text(strings.Repeat("a ", 1000))))},
		"sink.go":   {"a bound of its own, " + end},
		"stream.go": {"a long answer: up to " + queue},
	}) {
		t.Error(fault)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%v s", d.Seconds()) }

func thousands(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
