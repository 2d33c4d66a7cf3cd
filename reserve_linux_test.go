package vehicle

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// The second reserve lies where the first one was.
func TestAReserveIsNotTouched(t *testing.T) {
	t.Parallel()
	if !inProcessOfItsOwn(t) {
		return
	}
	for _, which := range []string{"first", "second"} {
		before := resident(t)
		c, err := New("localhost:1")
		if err != nil {
			t.Fatal(err)
		}
		if grown := resident(t) - before; grown > leastHeap/2 {
			t.Errorf("the %s reserve brought %d bytes into memory, want next to none", which, grown)
		}
		if c.reserve == nil || c.reserve.Cap() < leastHeap/2 {
			t.Errorf("got no %s reserve, want most of %d bytes", which, leastHeap)
		}
		_ = c.Close()
		runtime.GC()
	}
}

// resident is how many bytes of this process are in memory.
func resident(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var all, pages int
	if _, err := fmt.Sscan(string(statm), &all, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
