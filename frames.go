package vehicle

import (
	"math/bits"
	"sync"
)

// frames is the memory that gRPC receives frames in, which it gives back once a message has been read: a mem.BufferPool that
// does not clear what is about to be overwritten, as gRPC's own does, 8 KiB for a message of 4. Of a message of 4 KiB that
// was a tenth of what receiving and checking it costs. It is safe for concurrent use.
type frames struct {
	sizes [maxFrameBits + 1]sync.Pool // of *[]byte, by the power of two that each holds
}

// maxFrameBits is for frames of up to 32 KiB, twice what a server may send unasked, and as much as gRPC decompresses at once.
const maxFrameBits = 15

// Get implements mem.BufferPool.
func (f *frames) Get(length int) *[]byte {
	size := bits.Len(uint(max(length, 1) - 1))
	if size > maxFrameBits {
		frame := make([]byte, length)
		return &frame
	}
	if frame, ok := f.sizes[size].Get().(*[]byte); ok {
		*frame = (*frame)[:length]
		return frame
	}
	frame := make([]byte, length, 1<<size)
	return &frame
}

// Put implements mem.BufferPool. The frame is one of Get's, or the beginning of one.
func (f *frames) Put(frame *[]byte) {
	if size := bits.Len(uint(cap(*frame))) - 1; size >= 0 && size <= maxFrameBits {
		f.sizes[size].Put(frame)
	}
}
