package vehicle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// frame is a frame in short: its type, flags, stream and payload.
func frame(kind, flags, stream byte, payload string) string {
	return string([]byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags, 0, 0, 0, stream}) + payload
}

func data(stream byte, payload string) string { return frame(frameData, 0, stream, payload) }

func TestMerge(t *testing.T) {
	t.Parallel()
	const (
		headers, ping, windowUpdate, padded = 0x1, 0x6, 0x8, 0x8
	)
	last := func(stream byte, payload string) string { return frame(frameData, flagEndStream, stream, payload) }
	half := strings.Repeat("h", maxFramePayload/2)
	for _, tt := range []struct {
		name  string
		reads []string // what arrives together
		want  []string // of each read
	}{
		{"DATA of one stream becomes one frame", []string{data(1, "ab") + data(1, "c") + data(1, "def")}, []string{data(1, "abcdef")}},
		{"what came before is not waited for", []string{data(1, "ab"), data(1, "c")}, []string{data(1, "ab"), data(1, "c")}},
		{"streams stay apart", []string{data(1, "a") + data(3, "b") + data(3, "c") + data(1, "d")}, []string{data(1, "a") + data(3, "bc") + data(1, "d")}},
		{"the end of a stream is kept", []string{data(1, "a") + last(1, "b")}, []string{last(1, "ab")}},
		{"an end without data is kept", []string{data(1, "a") + last(1, "")}, []string{last(1, "a")}},
		{"nothing is added after the end of a stream", []string{last(1, "a") + data(1, "b")}, []string{last(1, "a") + data(1, "b")}},
		{"other frames stay where they are", []string{frame(headers, 4, 1, "h") + data(1, "a") + data(1, "b") + frame(ping, 0, 0, "12345678") + data(1, "c") + frame(headers, 5, 1, "t")},
			[]string{frame(headers, 4, 1, "h") + data(1, "ab") + frame(ping, 0, 0, "12345678") + data(1, "c") + frame(headers, 5, 1, "t")}},
		{"other frames are not merged", []string{frame(headers, 0, 1, "a") + frame(headers, 0, 1, "b")}, []string{frame(headers, 0, 1, "a") + frame(headers, 0, 1, "b")}},
		{"a frame of another kind with the same flags is not merged",
			[]string{data(1, "a") + frame(windowUpdate, 0, 1, "1234") + data(1, "b")}, []string{data(1, "a") + frame(windowUpdate, 0, 1, "1234") + data(1, "b")}},
		{"padding is nobody's data", []string{data(1, "a") + frame(frameData, padded, 1, "\x01b0") + data(1, "c")}, []string{data(1, "a") + frame(frameData, padded, 1, "\x01b0") + data(1, "c")}},
		{"a frame holds no more than it may", []string{data(1, half) + data(1, half) + data(1, "a") + data(1, "b")}, []string{data(1, half+half) + data(1, "ab")}},
		{"a frame that is too large stays so", []string{data(1, half+half+"a") + data(1, "b")}, []string{data(1, half+half+"a") + data(1, "b")}},
		{"a frame of which a part has come is not waited for", []string{data(1, "a") + data(1, "b") + data(1, "cdef")[:11], "ef" + data(1, "g") + data(1, "h")},
			[]string{data(1, "ab") + data(1, "cdef")[:11], "ef" + data(1, "gh")}},
		{"a frame comes in many pieces", []string{data(1, "abcdef")[:11], "cd", "ef" + data(1, "g") + data(1, "h"), data(1, "i") + data(1, "j")},
			[]string{data(1, "abcdef")[:11], "cd", "ef" + data(1, "gh"), data(1, "ij")}},
		{"a header of which a part has come is not waited for", []string{data(1, "a") + data(1, "b")[:4], data(1, "b")[4:] + data(1, "c") + data(1, "d")},
			[]string{data(1, "a") + data(1, "b")[:4], data(1, "b")[4:] + data(1, "cd")}},
		{"a header comes byte by byte", []string{data(1, "b")[:1], data(1, "b")[1:8], data(1, "b")[8:9], "b" + data(1, "c") + data(1, "d")},
			[]string{data(1, "b")[:1], data(1, "b")[1:8], data(1, "b")[8:9], "b" + data(1, "cd")}},
		{"what is no HTTP/2 is passed on", []string{"HTTP/1.1 400 Bad Request\r\n", "Connection: close\r\n\r\n"}, []string{"HTTP/1.1 400 Bad Request\r\n", "Connection: close\r\n\r\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := merger{limit: new(streamLimit)}
			var got []string
			for _, read := range tt.reads {
				p := []byte(read)
				got = append(got, string(p[:m.merge(p)]))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// readConn is a connection of which only Read is used.
type readConn struct {
	net.Conn
	from io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.from.Read(p) }

func TestMergerReadsWhatCameBeforeAnError(t *testing.T) {
	t.Parallel()
	m := &merger{limit: new(streamLimit), Conn: readConn{from: iotest.DataErrReader(strings.NewReader(data(1, "a") + data(1, "b")))}}
	p := make([]byte, 100)
	n, err := m.Read(p)
	if got, want := string(p[:n]), data(1, "ab"); got != want || !errors.Is(err, io.EOF) {
		t.Errorf("got %q, %v, want %q, EOF", got, err, want)
	}
}

// FuzzMerge reads bytes in pieces of all sizes. Whatever they are, what is read says the same: the same frames, but for DATA of
// one stream that follow each other. Nothing is held back, and SETTINGS are read where they came in one piece.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(data(1, "a")+data(1, "b")+data(3, "c")), []byte{100})
	f.Add([]byte(frame(frameSettings, 0, 0, setting(maxConcurrentStreams, 3))+data(1, "a")+frame(frameSettings, 0, 0, setting(maxConcurrentStreams, 4))), []byte{16, 15})
	f.Add([]byte(data(1, "a")+data(1, "b")+frame(1, 5, 1, "t")), []byte{12, 1, 3})
	f.Add([]byte(data(1, strings.Repeat("a", maxFramePayload-1))+data(1, "b")+frame(frameData, flagEndStream, 1, "")), []byte{255, 200})
	f.Fuzz(func(t *testing.T, sent []byte, sizes []byte) {
		if len(sizes) == 0 {
			return
		}
		m := merger{limit: new(streamLimit)}
		want, told := new(streamLimit), false
		var came, read []byte
		next := 0 // where in sent a frame begins
		for i := 0; len(came) < len(sent); i++ {
			n := min(max(1, int(sizes[i%len(sizes)]), len(sent)/32), len(sent)-len(came)) // each piece is compared with all before
			p := slices.Clone(sent[len(came) : len(came)+n])
			for begun := len(came); len(sent)-next >= frameHeader && next+frameHeader <= begun+n; next += frameHeader + payloadLen(sent[next:]) {
				switch frame := sent[next:]; {
				case !isSettings(frame):
					continue
				case next >= begun && next+frameHeader+payloadLen(frame) <= begun+n:
					want.read(frame[:wholeFrame(frame)], !told)
				default:
					want.forget()
				}
				told = true
			}
			came = sent[:len(came)+n]
			read = append(read, p[:m.merge(p)]...)
			if want, got := meaning(came), meaning(read); !slices.Equal(want, got) {
				t.Fatalf("after %d bytes (-sent +read):\n%s", len(came), cmp.Diff(want, got))
			}
			if want, got := want.Load(), m.limit.Load(); want != got {
				t.Fatalf("after %d bytes: a limit of %d streams, want %d", len(came), got, want)
			}
		}
	})
}

// meaning is what frames say, in which DATA of one stream that follow each other are one.
func meaning(p []byte) (said []string) {
	var open []byte // the stream whose DATA was the last to come, and may go on
	for len(p) > 0 {
		size := wholeFrame(p)
		if size == 0 {
			return append(said, fmt.Sprintf("begun: %q", p))
		}
		kind, flags, stream, payload := p[3], p[4], p[5:frameHeader], string(p[frameHeader:size])
		p = p[size:]
		switch plain := kind == frameData && flags&^flagEndStream == 0; {
		case plain && open != nil && bytes.Equal(open, stream):
			said[len(said)-1] += payload
		case plain:
			said = append(said, fmt.Sprintf("stream %x: ", stream)+payload)
		default:
			said = append(said, fmt.Sprintf("frame %d, flags %x, stream %x: %q", kind, flags, stream, payload))
		}
		if open = nil; kind == frameData && flags == 0 {
			open = stream
		} else if kind == frameData && flags == flagEndStream {
			said = append(said, "end")
		}
	}
	return said
}

// BenchmarkMerge merges what one Read of a fast stream of small chunks brings, and copies the same for comparison.
func BenchmarkMerge(b *testing.B) {
	for _, size := range []int{280, 4180} {
		sent := bytes.Repeat([]byte(data(1, strings.Repeat("a", size))), readBuffer/(frameHeader+size))
		p := make([]byte, len(sent))
		b.Run(fmt.Sprintf("%d B/copy", size), func(b *testing.B) {
			b.SetBytes(int64(len(sent)))
			for b.Loop() {
				copy(p, sent)
			}
		})
		b.Run(fmt.Sprintf("%d B/copy and merge", size), func(b *testing.B) {
			b.SetBytes(int64(len(sent)))
			m := merger{limit: new(streamLimit)}
			for b.Loop() {
				copy(p, sent)
				m.merge(p)
			}
		})
	}
}
