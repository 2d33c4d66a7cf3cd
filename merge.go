package vehicle

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// merger is a connection whose Read makes one DATA frame of those that have arrived together and follow each other on one
// stream. Servers send each message in a frame of its own, and gRPC takes more than a microsecond for a frame: of a long answer of
// small chunks, most of what it costs. To HTTP/2 it is the same: where frames end means nothing, and windows count what is in
// them. Nothing waits for a frame that has not come. With TLS those have arrived together that share a record of up to 16 KiB.
type merger struct {
	net.Conn

	limit *streamLimit // reads the SETTINGS that pass by
	told  bool         // some have
	bundler

	// The last frame that came in pieces.
	head [frameHeader + messageHeader]byte // what is looked at of it
	have int                               // bytes of head that have come; 0: all, or there is no such frame
	rest int                               // bytes behind head that have not come
}

// Of frames; see RFC 9113, sections 4.1, 4.2 and 6.
const (
	frameHeader     = 9 // bytes: length (3), type, flags, stream (4)
	frameData       = 0x0
	frameHeaders    = 0x1
	frameReset      = 0x3 // RST_STREAM
	flagEndStream   = 0x1
	maxFramePayload = 1 << 14 // unless a client allows more, which gRPC does not
)

// Read implements net.Conn.
func (m *merger) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	return m.merge(p[:n]), err
}

// merge merges the frames in p, the connection's next bytes, and returns how many bytes they are then.
func (m *merger) merge(p []byte) int {
	if m.limit.apart.Load() {
		m.most = 0
	}
	at := m.goOn(p)
	end := at       // of what is done
	var into []byte // the frame before
	for size := wholeFrame(p[at:]); size > 0; size = wholeFrame(p[at:]) {
		frame := p[at : at+size]
		at += size
		message := m.look(frame)
		if mergeable(into, frame) {
			into[4] = frame[4]
			n := m.add(into, frame, message, p[end:])
			end += n
			into = into[:len(into)+n]
			binary.BigEndian.PutUint16(into[1:], uint16(len(into)-frameHeader)) //nolint:gosec // G115: up to maxFramePayload
			continue
		}
		if isSettings(frame) {
			m.limit.read(frame, !m.told)
			m.told = true
		}
		into = p[end : end+copy(p[end:], frame)]
		end += size
		m.begin(into, message)
	}
	if begun := p[at:]; len(begun) > 0 {
		n := m.takeHead(begun)
		m.rest -= len(begun) - n
		end += copy(p[end:], begun)
	}
	return end
}

// goOn returns where in p the frame ends that had begun before.
func (m *merger) goOn(p []byte) int {
	at := 0
	if m.have > 0 {
		at = m.takeHead(p)
	}
	n := min(m.rest, len(p)-at)
	m.rest -= n
	return at + n
}

// takeHead takes what p has of the head of a frame that comes in pieces, and returns how much that is.
func (m *merger) takeHead(p []byte) int {
	at := 0
	for wanted := frameHeader; ; wanted += messageHeader {
		if m.have < wanted {
			n := copy(m.head[m.have:wanted], p[at:])
			m.have += n
			at += n
		}
		if m.have < wanted {
			return at
		}
		if wanted > frameHeader || m.head[3] != frameData || payloadLen(m.head[:]) < messageHeader {
			break
		}
	}
	head := m.head[:m.have]
	m.have, m.rest = 0, payloadLen(head)-(len(head)-frameHeader)
	m.look(head)
	if isSettings(head) {
		m.limit.forget()
		m.told = true
	}
	return at
}

// wholeFrame is the size of the frame that p begins with; 0: not all of it has come.
func wholeFrame(p []byte) int {
	if len(p) < frameHeader {
		return 0
	}
	size := frameHeader + payloadLen(p)
	if size > len(p) {
		return 0
	}
	return size
}

// mergeable says whether next can be added to frame: both are DATA of one stream, of which frame is not the end, and neither has
// padding.
func mergeable(frame, next []byte) bool {
	return len(frame) > 0 &&
		frame[3] == frameData && frame[4] == 0 && next[3] == frameData && next[4]&^flagEndStream == 0 &&
		bytes.Equal(frame[5:frameHeader], next[5:frameHeader]) &&
		len(frame)+len(next)-2*frameHeader <= maxFramePayload
}

func payloadLen(head []byte) int { return int(head[0])<<16 | int(head[1])<<8 | int(head[2]) }

// SyscallConn implements syscall.Conn: channelz shows socket options through it.
func (m *merger) SyscallConn() (syscall.RawConn, error) {
	if sys, ok := m.Conn.(syscall.Conn); ok {
		return sys.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// merging is credentials whose connections merge frames: that is where gRPC gets a connection from, once it is decrypted.
type merging struct {
	credentials.TransportCredentials
	limit  *streamLimit // of the connection that is made last
	bundle int          // how large a bundle may be, in bytes; 0: none are made
}

// ClientHandshake implements credentials.TransportCredentials.
func (m merging) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := m.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return &merger{Conn: conn, limit: m.limit, bundler: bundler{most: m.bundle}}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (m merging) Clone() credentials.TransportCredentials {
	return merging{m.TransportCredentials.Clone(), m.limit, m.bundle}
}
