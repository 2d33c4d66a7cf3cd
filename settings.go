package vehicle

import (
	"encoding/binary"
	"math"
	"sync/atomic"
)

// streamLimit is how many streams at once a server takes on a connection. It says so in its SETTINGS, which gRPC heeds and tells
// nobody; they are read where they pass by. 0: it is not known. Safe for concurrent use.
type streamLimit struct{ atomic.Uint32 }

// Of SETTINGS; see RFC 9113, sections 6.5 and 6.5.2.
const (
	frameSettings        = 0x4
	flagAck              = 0x1
	maxConcurrentStreams = 0x3 // SETTINGS_MAX_CONCURRENT_STREAMS
	settingLen           = 6   // bytes: identifier (2), value (4)
)

// begin is told of a new connection. Until its server says otherwise there is no limit; that it has said what it says first,
// gRPC awaits before it calls the connection ready.
func (l *streamLimit) begin() { l.Store(math.MaxUint32) }

// read is told of a SETTINGS frame.
func (l *streamLimit) read(frame []byte) {
	if frame[4]&flagAck != 0 {
		return
	}
	for settings := frame[frameHeader:]; len(settings) >= settingLen; settings = settings[settingLen:] {
		if binary.BigEndian.Uint16(settings) == maxConcurrentStreams {
			l.Store(binary.BigEndian.Uint32(settings[2:]))
		}
	}
}

// forget is told of a SETTINGS frame that came in pieces.
func (l *streamLimit) forget() { l.Store(0) }

// allows says whether a connection that has so many streams may have another, as far as is known.
func (l *streamLimit) allows(streams int) bool { return int64(streams) < int64(l.Load()) }
