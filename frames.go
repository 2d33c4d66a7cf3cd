package vehicle

import "sync"

// frames is the memory that gRPC receives frames in, which it gives back once a message has been read: a mem.BufferPool that
// does not clear what is about to be overwritten, as gRPC's own does, 8 KiB for a message of 4. Of a message of 4 KiB that
// was a tenth of what receiving and checking it costs. It is safe for concurrent use.
type frames struct {
	sizes [maxFrame/frameStep + 1]sync.Pool // of *[]byte, by how many steps each holds
}

const (
	frameStep = 1 << 10  // bytes; no frame is larger by more than it has to be: large messages stay in theirs, see lasts
	maxFrame  = 32 << 10 // twice what a server may send unasked, and as much as gRPC decompresses at once
)

// Get implements mem.BufferPool.
func (f *frames) Get(length int) *[]byte {
	steps := (length + frameStep - 1) / frameStep
	if steps >= len(f.sizes) {
		frame := make([]byte, length)
		return &frame
	}
	if frame, ok := f.sizes[steps].Get().(*[]byte); ok {
		*frame = (*frame)[:length]
		return frame
	}
	frame := make([]byte, length, steps*frameStep)
	return &frame
}

// Put implements mem.BufferPool. The frame is one of Get's, or the beginning of one.
func (f *frames) Put(frame *[]byte) {
	if steps := cap(*frame) / frameStep; steps < len(f.sizes) {
		f.sizes[steps].Put(frame)
	}
}

// lasts says whether a message may stay for good in the frame that it was received in, which then does not go back to its pool. Who keeps
// a part of the message holds all of the frame in memory: up to four times as much as the message, or seven where gRPC has put many tiny frames into one.
func lasts(message, frame []byte) bool {
	return len(message) >= maxFramePayload/4 && cap(frame) <= maxFramePayload
}
