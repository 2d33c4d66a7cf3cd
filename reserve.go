package vehicle

import (
	"runtime/metrics"
	"strings"
)

// leastHeap is what the heap of a process with a client counts as at least, in bytes. Go collects garbage when the heap has doubled, or
// grown to 4 MiB: a process that does little but run commands had a heap of 2, was collected every 170 commands, and spent a
// fifth of its CPU on that.
const leastHeap = 16 << 20

// newReserve is what the heap lacks of leastHeap: nothing in a process that has more, or another client's reserve. A client holds it until it
// is closed. Nothing is ever written there, so that it takes addresses, and memory only for the garbage that may then lie elsewhere.
func newReserve() *strings.Builder {
	read := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/gomemlimit:bytes"}, {Name: "/gc/gogc:percent"}}
	metrics.Read(read)
	for _, sample := range read {
		if sample.Value.Kind() != metrics.KindUint64 { // a Go that has no such metric
			return nil
		}
	}
	lacks := lacking(read[0].Value.Uint64(), read[1].Value.Uint64(), read[2].Value.Uint64())
	if lacks == 0 {
		return nil
	}
	reserve := &strings.Builder{} // make would write zeros over what lay there before
	reserve.Grow(int(lacks))      //nolint:gosec // G115: up to leastHeap
	return reserve
}

// lacking is how many bytes a heap lacks of leastHeap, or of a sixteenth of GOMEMLIMIT, which the reserve counts towards. A GOGC of over 100
// lets garbage grow to so much more than the heap that the less will do, and with GOGC=off, the greatest number, nothing has to.
func lacking(heap, limit, gogc uint64) uint64 {
	least := min(leastHeap*100/max(gogc, 100), limit/16)
	return least - min(heap, least)
}
