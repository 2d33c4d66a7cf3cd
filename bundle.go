package vehicle

import (
	"bytes"
	"encoding/binary"

	"google.golang.org/grpc/mem"
)

// bundler makes one gRPC message of several that arrived together: gRPC takes as long for a small message as for a large one, and longer than
// it takes to check it. The codec takes the bundle apart. A bundle has as many bytes as what it was made of:
//
//	header | message, its first byte replaced by bundleMark | message | trailer | message | trailer ...
//
// It is made of messages that each fill a frame, which is how gRPC servers send small ones. To know that a frame begins with a message it has
// to be known where the one before ended. A connection that speaks no gRPC may carry something that looks like messages; gRPC only quotes it.
type bundler struct {
	most int            // bytes in a bundle; 0: none are made
	amid map[uint32]int // of a stream that is amid a message: how many bytes of that are to come, or unknown
	size int            // of the frame before, if that is a message or a bundle; else 0
}

// A message on the wire is a Length-Prefixed-Message (gRPC over HTTP2, Responses). The trailer that stands for the header in a
// bundle has the length too, and tells whether it is the first of the bundle.
const (
	messageHeader = 5 // bytes: compressed or not, length (4)

	firstByte  = fieldCommandID<<3 | 2 // of messages that a bundle can begin with: protobuf writes fields in the order of their numbers
	bundleMark = 0<<3 | 2              // no message begins with it, since no field has the number 0

	firstTrailer = 1
	laterTrailer = 2
)

const (
	unknown = -1
	// maxAmid bounds amid. Streams may stay there that this side has reset. There are no more bundles on a connection that has more than so
	// many there.
	maxAmid = 1024
	// maxFollowed is the longest message that is followed, in bytes.
	maxFollowed = 1 << 30
)

// look is told of each frame, or of its first bytes where it comes in pieces. It says whether it is a message that may become part of a
// bundle.
func (b *bundler) look(frame []byte) (message bool) {
	if b.most == 0 {
		return false
	}
	ended := frame[4]&flagEndStream != 0
	switch frame[3] {
	case frameData:
		message = b.follow(frame)
	case frameHeaders:
	case frameReset:
		ended = true
	default:
		return false
	}
	if ended && len(b.amid) > 0 {
		delete(b.amid, streamOf(frame))
	}
	return message
}

// follow follows a stream's messages through a DATA frame. It says whether that is a message.
func (b *bundler) follow(frame []byte) bool {
	at := 0 // where in payload a message begins
	if len(b.amid) > 0 {
		at = b.amid[streamOf(frame)]
	}
	size, payload := payloadLen(frame), frame[frameHeader:]
	plain := frame[4]&^flagEndStream == 0
	if at == 0 && plain && len(payload) >= messageHeader && payload[0] == 0 && messageLen(payload) == size && size > messageHeader {
		return true
	}
	for at != unknown && at < size {
		if !plain || len(payload)-at < messageHeader || binary.BigEndian.Uint32(payload[at+1:]) > maxFollowed {
			at = unknown
			break
		}
		at += messageLen(payload[at:])
	}
	b.note(streamOf(frame), at, size)
	return false
}

// note notes how much is to come of a stream's message: its next one begins at a place that is counted from the beginning of a DATA frame's payload of so
// many bytes.
func (b *bundler) note(stream uint32, next, size int) {
	rest := next - size
	switch {
	case rest == 0:
		delete(b.amid, stream)
		return
	case next == unknown:
		rest = unknown
	}
	if b.amid == nil {
		b.amid = make(map[uint32]int)
	}
	b.amid[stream] = rest
	if len(b.amid) > maxAmid {
		b.most, b.amid = 0, nil
	}
}

// begin is told of the frame that the next ones may be added to.
func (b *bundler) begin(frame []byte, message bool) {
	b.size = 0
	if message && frame[frameHeader+messageHeader] == firstByte {
		b.size = len(frame) - frameHeader
	}
}

// add adds a frame's payload to the frame before, which ends where to begins. It returns how many bytes that are.
func (b *bundler) add(before, frame []byte, message bool, to []byte) int {
	payload := frame[frameHeader:]
	switch {
	case len(payload) == 0: // the end of the stream
		return 0
	case !message || b.size == 0 || b.size-messageHeader+len(payload) > b.most:
		b.size = 0
		return copy(to, payload)
	}
	n := copy(to, payload[messageHeader:])
	to[n] = laterTrailer
	if first := &before[frameHeader+messageHeader]; *first == firstByte {
		*first, to[n] = bundleMark, firstTrailer
	}
	binary.BigEndian.PutUint32(to[n+1:], uint32(n)) //nolint:gosec // G115: within a frame
	b.size += len(payload)
	binary.BigEndian.PutUint32(before[frameHeader+1:], uint32(b.size-messageHeader)) //nolint:gosec // G115: up to maxFramePayload
	return len(payload)
}

// streamOf is a frame's stream; the first bit is none of it.
func streamOf(frame []byte) uint32 { return binary.BigEndian.Uint32(frame[5:]) &^ (1 << 31) }

// messageLen is the length of a message with its header. Of one over maxFollowed it may be anything, where an int has 32 bits.
func messageLen(header []byte) int { return messageHeader + int(binary.BigEndian.Uint32(header[1:])) }

func isBundle(message []byte) bool { return len(message) > 0 && message[0] == bundleMark }

// maxShared is how many bytes a small payload that is kept may hold in memory beside itself; see owned.
const maxShared = 1 << 10

// unbundle returns the messages of a bundle that was received in frame, the last one first, in the array of messages if they fit. They last.
func unbundle(messages [][]byte, frame mem.Buffer) ([][]byte, error) {
	bundle := frame.ReadOnlyData()
	if messages = messages[:0]; cap(messages) == 0 {
		messages = make([][]byte, 0, 4) // most are of a short answer
	}
	if len(bundle) > maxFramePayload {
		return messages, errNumber // a bundle would not be
	}
	end := len(bundle)
	for kind := byte(laterTrailer); kind != firstTrailer; {
		if end -= messageHeader; end < 0 {
			return messages[:0], errNumber
		}
		trailer := bundle[end:]
		kind = trailer[0]
		start := end - int(min(binary.BigEndian.Uint32(trailer[1:]), maxFramePayload))
		if start <= 0 || kind != firstTrailer && kind != laterTrailer {
			return messages[:0], errNumber
		}
		messages = append(messages, bundle[start:end:end])
		end = start
	}
	messages = append(messages, bundle[:end:end])
	if _, plain := frame.(mem.SliceBuffer); !plain && own(messages, bundle) {
		frame.Ref() // for good
	}
	messages[len(messages)-1][0] = firstByte
	return messages, nil
}

// own makes a bundle's messages last: small ones are copied, together, and it says whether there are large ones, which stay in the bundle.
func own(messages [][]byte, bundle []byte) (stay bool) {
	for len(messages) > 0 {
		if lasts(messages[0], bundle) {
			stay = true
			messages = messages[1:]
			continue
		}
		n, size := 1, len(messages[0])
		for n < len(messages) && size+len(messages[n]) <= maxShared {
			size += len(messages[n])
			n++
		}
		if n == 1 {
			messages[0] = bytes.Clone(messages[0])
		} else {
			room := make([]byte, 0, size)
			for i, m := range messages[:n] {
				room = append(room, m...)
				messages[i] = room[len(room)-len(m):]
			}
		}
		messages = messages[n:]
	}
	return stay
}
