package vehicle

import (
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
)

// inProcessOfItsOwn runs the test in another process, and says whether this is that one: elsewhere other tests decide how large the heap is.
func inProcessOfItsOwn(t *testing.T) bool {
	t.Helper()
	const alone = "TEST_RESERVE_ALONE"
	if os.Getenv(alone) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), alone+"=yes", "GOMEMLIMIT=off", "GOGC=100")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return false
}

func TestClientsOfASmallProcessReserveTogetherAsMuchAsOne(t *testing.T) {
	t.Parallel()
	if !inProcessOfItsOwn(t) {
		return
	}
	reserved := 0
	for i := range 50 {
		c, err := New("localhost:1")
		if err != nil {
			t.Fatal(err)
		}
		if c.reserve != nil {
			reserved += c.reserve.Cap()
		}
		if i == 0 && reserved < leastHeap/2 {
			t.Errorf("the first client reserved %d bytes, want most of %d: a heap at its beginning has next to nothing", reserved, leastHeap)
		}
		defer func() {
			_ = c.Close()
			if c.reserve != nil {
				t.Error("a client that is closed keeps its reserve")
			}
		}()
	}
	if reserved > leastHeap+leastHeap/8 { // the allocator may give somewhat more than it is asked for
		t.Errorf("50 clients reserved %d bytes, want no more than %d", reserved, leastHeap)
	}
}

func TestAProcessThatIsCollectedSeldomReservesNothing(t *testing.T) {
	t.Parallel()
	if !inProcessOfItsOwn(t) {
		return
	}
	reserves := func(when string) {
		c, err := New("localhost:1")
		if err != nil {
			t.Fatal(err)
		}
		if c.reserve != nil {
			t.Errorf("%s the first client reserved %d bytes, want none", when, c.reserve.Cap())
		}
		_ = c.Close()
	}
	before := debug.SetGCPercent(-1)
	reserves("without garbage collection")
	debug.SetGCPercent(before)
	heap := make([]byte, leastHeap)
	reserves("beside a large heap")
	runtime.KeepAlive(heap)
}

func TestAHeapIsFilledUpToItsLeast(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		heap, limit, gogc, want uint64
	}{
		"an empty one":         {heap: 0, limit: math.MaxInt64, gogc: 100, want: 16 << 20},
		"a small one":          {heap: 2 << 20, limit: math.MaxInt64, gogc: 100, want: 14 << 20},
		"one that has as much": {heap: 16 << 20, limit: math.MaxInt64, gogc: 100, want: 0},
		"one that has more":    {heap: 1 << 30, limit: math.MaxInt64, gogc: 100, want: 0},
		"a small one under a GOMEMLIMIT of 64 MiB":     {heap: 1 << 20, limit: 64 << 20, gogc: 100, want: 3 << 20},
		"a large one under a GOMEMLIMIT of 64 MiB":     {heap: 8 << 20, limit: 64 << 20, gogc: 100, want: 0},
		"one under a GOMEMLIMIT that leaves no choice": {heap: 1 << 20, limit: 0, gogc: 100, want: 0},
		"a small one that GOGC=50 keeps small":         {heap: 2 << 20, limit: math.MaxInt64, gogc: 50, want: 14 << 20},
		"a small one that GOGC=400 lets grow":          {heap: 1 << 20, limit: math.MaxInt64, gogc: 400, want: 3 << 20},
		"one that GOGC=400 lets grow as far":           {heap: 4 << 20, limit: math.MaxInt64, gogc: 400, want: 0},
		"one that GOGC=off leaves alone":               {heap: 1 << 20, limit: 1 << 30, gogc: math.MaxUint64, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := lacking(test.heap, test.limit, test.gogc); got != test.want {
				t.Errorf("a heap of %d bytes lacks %d, want %d", test.heap, got, test.want)
			}
		})
	}
}
