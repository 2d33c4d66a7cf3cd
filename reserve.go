package vehicle

import "runtime/metrics"

// leastHeap is what the heap of a process with a client counts as at least, in bytes. Go collects garbage when the heap has doubled, or
// grown to 4 MiB: a process that does little but run commands had a heap of 2, was collected every 170 commands, and spent a
// fifth of its CPU on that.
const leastHeap = 16 << 20

// newReserve is what the heap lacks of leastHeap: nothing in a process that has more, or another client. A client holds it for its life.
// Nothing is ever written there, so that it takes addresses, and memory only for the garbage that may then lie elsewhere.
func newReserve() []byte {
	read := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/gomemlimit:bytes"}}
	metrics.Read(read)
	for _, sample := range read {
		if sample.Value.Kind() != metrics.KindUint64 { // a Go that has no such metric
			return nil
		}
	}
	return make([]byte, lacking(read[0].Value.Uint64(), read[1].Value.Uint64()))
}

// lacking is how many bytes a heap lacks of leastHeap, or of a sixteenth of GOMEMLIMIT, which the reserve counts towards.
func lacking(heap, limit uint64) uint64 {
	least := min(leastHeap, limit/16)
	return least - min(heap, least)
}
