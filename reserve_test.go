package vehicle

import (
	"math"
	"os"
	"os/exec"
	"testing"
)

// A process of its own: in this one other tests decide how large the heap is.
func TestClientsOfASmallProcessReserveTogetherAsMuchAsOne(t *testing.T) {
	t.Parallel()
	const alone = "TEST_RESERVE_ALONE"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), alone+"=yes", "GOMEMLIMIT=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	reserved := 0
	for i := range 50 {
		c, err := New("localhost:1")
		if err != nil {
			t.Fatal(err)
		}
		reserved += len(c.reserve)
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
	if reserved > leastHeap {
		t.Errorf("50 clients reserved %d bytes, want no more than %d", reserved, leastHeap)
	}
}

func TestAHeapIsFilledUpToItsLeast(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		heap, limit, want uint64
	}{
		"an empty one":         {heap: 0, limit: math.MaxInt64, want: 16 << 20},
		"a small one":          {heap: 2 << 20, limit: math.MaxInt64, want: 14 << 20},
		"one that has as much": {heap: 16 << 20, limit: math.MaxInt64, want: 0},
		"one that has more":    {heap: 1 << 30, limit: math.MaxInt64, want: 0},
		"a small one under a GOMEMLIMIT of 64 MiB":     {heap: 1 << 20, limit: 64 << 20, want: 3 << 20},
		"a large one under a GOMEMLIMIT of 64 MiB":     {heap: 8 << 20, limit: 64 << 20, want: 0},
		"one under a GOMEMLIMIT that leaves no choice": {heap: 1 << 20, limit: 0, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := lacking(test.heap, test.limit); got != test.want {
				t.Errorf("a heap of %d bytes lacks %d, want %d", test.heap, got, test.want)
			}
		})
	}
}
