package pgsink

import (
	"bytes"
	"testing"
	"unsafe"
)

// Whatever was lent before, what fits is kept for the next transaction of that size.
func TestMemoryThatIsLentIsKept(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before, size int
		kept         bool
	}{
		"for the first time":                {0, 4000, true},
		"a little more than before":         {4000, 4100, true},
		"much more than before":             {4000, 400_000, true},
		"less than before":                  {400_000, 4000, true},
		"all that a connection keeps":       {0, maxBuffer, true},
		"a little less than that, and more": {maxBuffer * 7 / 8, maxBuffer - 1, true},
		"more than that":                    {4000, maxBuffer + 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var kept []byte
			encoded := []byte("encoded")
			if test.before > 0 {
				lend(&kept, encoded, test.before-len(encoded))
			}
			lent := lend(&kept, encoded, test.size-len(encoded))
			if !bytes.Equal(lent, encoded) || cap(lent) < test.size {
				t.Errorf("what is lent: got %q and room for %d bytes, want %q and room for %d", lent, cap(lent), encoded, test.size)
			}
			if got := unsafe.SliceData(lent) == unsafe.SliceData(kept); got != test.kept {
				t.Errorf("whether it is kept: got %t, want %t (%d bytes)", got, test.kept, cap(lent))
			}
			if cap(kept) > maxBuffer {
				t.Errorf("what is kept: got %d bytes, want no more than %d", cap(kept), maxBuffer)
			}
			if again := lend(&kept, encoded, test.size-len(encoded)); test.kept && unsafe.SliceData(again) != unsafe.SliceData(lent) {
				t.Error("the next transaction of that size has other memory")
			}
		})
	}
}
