package vehicle

import (
	"encoding/binary"
	"math"
	"sync/atomic"
)

// streamLimit is how many streams at once a server takes on a connection. It says so in its SETTINGS, which gRPC heeds and tells
// nobody; they are read where they pass by. 0: it is not known. Safe for concurrent use.
type streamLimit struct {
	atomic.Uint32

	// What the connection has to know of the pool, on the same way: gRPC takes no message that is as large as a bundle may be.
	apart atomic.Bool
}

// Of SETTINGS; see RFC 9113, sections 6.5 and 6.5.2.
const (
	frameSettings        = 0x4
	flagAck              = 0x1
	maxConcurrentStreams = 0x3 // SETTINGS_MAX_CONCURRENT_STREAMS
	settingLen           = 6   // bytes: identifier (2), value (4)
)

// isSettings says whether a frame with this header sets something: it is no acknowledgement.
func isSettings(head []byte) bool { return head[3] == frameSettings && head[4]&flagAck == 0 }

// read is told of a SETTINGS frame. A connection's first one says that there is no limit where it sets none; gRPC awaits it before
// it calls the connection ready.
func (l *streamLimit) read(frame []byte, first bool) {
	limit := l.Load()
	if first {
		limit = math.MaxUint32
	}
	for settings := frame[frameHeader:]; len(settings) >= settingLen; settings = settings[settingLen:] {
		if binary.BigEndian.Uint16(settings) == maxConcurrentStreams {
			limit = binary.BigEndian.Uint32(settings[2:])
		}
	}
	l.Store(limit)
}

// forget is told of a SETTINGS frame that came in pieces.
func (l *streamLimit) forget() { l.Store(0) }

// allows says whether a connection that has so many streams may have another, as far as is known. One without streams may.
func (l *streamLimit) allows(streams int) bool {
	return streams == 0 || int64(streams) < int64(l.Load())
}
