package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Conn is one connection of the gateway: as much of HTTP/2 and gRPC as an answer of a server stream needs.
type http2Conn struct {
	conn   net.Conn
	answer func(s *http2Stream, request []byte) error
	ready  chan struct{} // there is something to flush

	unacked uint32 // of what was received, bytes that have not been given back to the client's window

	writing sync.Mutex // guards what is written; held across writes
	out     *bufio.Writer
	framer  *http2.Framer
	encoder *hpack.Encoder // into block; a header that has been sent before takes a byte or two, as in grpc-go
	block   bytes.Buffer

	mu      sync.Mutex // guards the windows; never held across I/O
	opened  sync.Cond  // a window has, or a stream has ended
	window  int64
	initial int64 // of a stream's window
	streams map[uint32]*http2Stream
}

// http2Stream is one answer.
type http2Stream struct {
	conn    *http2Conn
	id      uint32
	request bytes.Buffer
	window  int64         // guarded by conn.mu
	over    bool          // likewise
	ended   chan struct{} // closed when over is set
}

const (
	http2Window = 65535    // until the client says otherwise
	writeBuffer = 32 << 10 // as in grpc-go
	maxFrame    = 16 << 10
	dataHeader  = 9
)

func newHTTP2(conn net.Conn, answer func(*http2Stream, []byte) error) *http2Conn {
	c := &http2Conn{conn: conn, answer: answer, ready: make(chan struct{}, 1), out: bufio.NewWriterSize(conn, writeBuffer),
		window: http2Window, initial: http2Window, streams: make(map[uint32]*http2Stream)}
	c.opened.L = &c.mu
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(conn, writeBuffer))
	c.framer.SetReuseFrames()
	return c
}

// serve serves the connection until it ends.
func (c *http2Conn) serve(maxStreams uint32) error {
	defer c.close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.conn, preface); err != nil { // before the framer's reader has read anything
		return err
	}
	var settings []http2.Setting
	if maxStreams > 0 {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams})
	}
	if err := c.control(func() error { return c.framer.WriteSettings(settings...) }); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go c.flushing(done)
	for {
		frame, err := c.framer.ReadFrame()
		if err == nil {
			err = c.handle(frame)
		}
		if err != nil {
			return err
		}
	}
}

// close ends the streams with the connection.
func (c *http2Conn) close() {
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.endLocked()
	}
}

func (c *http2Conn) handle(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if initial, ok := f.Value(http2.SettingInitialWindowSize); ok {
			c.setInitial(int64(initial))
		}
		return c.control(c.framer.WriteSettingsAck)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return c.control(func() error { return c.framer.WritePing(true, f.Data) })
	case *http2.WindowUpdateFrame:
		c.widen(f.StreamID, int64(f.Increment))
	case *http2.HeadersFrame: // whatever they say, it is the one method
		c.mu.Lock()
		defer c.mu.Unlock()
		c.streams[f.StreamID] = &http2Stream{conn: c, id: f.StreamID, window: c.initial, ended: make(chan struct{})}
	case *http2.DataFrame:
		return c.receive(f)
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.streams[f.StreamID]; s != nil {
			s.endLocked()
		}
	}
	return nil
}

// receive takes a part of a request, and answers when it is whole.
func (c *http2Conn) receive(f *http2.DataFrame) error {
	c.mu.Lock()
	s := c.streams[f.StreamID]
	c.mu.Unlock()
	if c.unacked += f.Length; c.unacked >= http2Window/4 { // what requests take of the connection's window is given back, as in grpc-go
		n := c.unacked
		c.unacked = 0
		if err := c.control(func() error { return c.framer.WriteWindowUpdate(0, n) }); err != nil {
			return err
		}
	}
	if s == nil {
		return nil
	}
	s.request.Write(f.Data())
	if f.StreamEnded() {
		go s.run()
	}
	return nil
}

func (c *http2Conn) setInitial(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.window += n - c.initial
	}
	c.initial = n
	c.opened.Broadcast()
}

func (c *http2Conn) widen(id uint32, by int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		c.window += by
	} else if s := c.streams[id]; s != nil {
		s.window += by
	}
	c.opened.Broadcast()
}

// control writes a frame, and has it flushed.
func (c *http2Conn) control(write func() error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.flushSoon()
	return write()
}

func (c *http2Conn) flushSoon() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// flushing writes what has been buffered when nobody has more, as grpc-go does.
func (c *http2Conn) flushing(done <-chan struct{}) {
	for {
		select {
		case <-c.ready:
		case <-done:
			return
		}
		runtime.Gosched() // those who are about to write more
		c.writing.Lock()
		err := c.out.Flush()
		c.writing.Unlock()
		if err != nil {
			_ = c.conn.Close()
			return
		}
	}
}

var errStreamEnded = errors.New("the client has ended the stream")

// The headers of each answer.
var (
	answerHeaders  = []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}
	answerTrailers = []hpack.HeaderField{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}}
)

// run answers the request.
func (s *http2Stream) run() {
	const prefix = 5
	err := errors.New("the request is not one message")
	if request := s.request.Bytes(); len(request) >= prefix {
		err = s.headers(answerHeaders, false)
		if err == nil {
			err = s.conn.answer(s, request[prefix:])
		}
	}
	if err == nil {
		err = s.headers(answerTrailers, true)
	}
	c := s.conn
	c.mu.Lock()
	over := s.over
	s.endLocked()
	delete(c.streams, s.id)
	c.mu.Unlock()
	if err != nil && !over {
		_ = c.control(func() error { return c.framer.WriteRSTStream(s.id, http2.ErrCodeInternal) })
	}
}

func (s *http2Stream) endLocked() {
	if !s.over {
		s.over = true
		close(s.ended)
		s.conn.opened.Broadcast()
	}
}

func (s *http2Stream) headers(fields []hpack.HeaderField, last bool) error {
	c := s.conn
	if last {
		defer c.flushSoon()
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.block.Reset()
	for _, field := range fields {
		_ = c.encoder.WriteField(field) // into memory: it does not fail
	}
	return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: last})
}

// send sends a message, in as many frames as the windows ask for.
func (s *http2Stream) send(parts ...[]byte) error {
	left := 0
	for _, part := range parts {
		left += len(part)
	}
	for left > 0 {
		n, err := s.reserve(min(left, maxFrame))
		if err != nil {
			return err
		}
		left -= n
		if err := s.frame(n, parts); err != nil {
			return err
		}
	}
	return nil
}

// frame writes the next n bytes of parts, and takes them off.
func (s *http2Stream) frame(n int, parts [][]byte) error {
	c := s.conn
	c.writing.Lock()
	defer c.writing.Unlock()
	id := s.id
	header := [dataHeader]byte{byte(n >> 16), byte(n >> 8), byte(n), 5: byte(id >> 24), 6: byte(id >> 16), 7: byte(id >> 8), 8: byte(id)}
	_, err := c.out.Write(header[:])
	for i, part := range parts {
		m := min(n, len(part))
		if err == nil {
			_, err = c.out.Write(part[:m])
		}
		parts[i], n = part[m:], n-m
	}
	return err
}

// reserve takes up to n bytes off the windows, and waits while there is no room in them.
func (s *http2Stream) reserve(n int) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for !s.over && (c.window <= 0 || s.window <= 0) {
		c.flushSoon()
		c.opened.Wait()
	}
	if s.over {
		return 0, errStreamEnded
	}
	n = int(min(int64(n), c.window, s.window))
	c.window -= int64(n)
	s.window -= int64(n)
	return n, nil
}

// flush has what was sent go out, where it will be a while until more is.
func (s *http2Stream) flush() { s.conn.flushSoon() }

// wait waits for d, unless the client ends the stream before.
func (s *http2Stream) wait(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ended:
		return errStreamEnded
	}
}
