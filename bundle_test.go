package vehicle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sovd-go/vehicle/internal/dialing"
	"github.com/sovd-go/vehicle/vehiclepb"
)

// message is a Length-Prefixed-Message.
func message(text string) string {
	return "\x00" + string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text
}

// messages are frames of a message each.
func messages(stream byte, texts ...string) (frames string) {
	for _, text := range texts {
		frames += data(stream, message(text))
	}
	return frames
}

// line is how said writes a message, or a bundle of several.
func line(stream byte, texts ...string) string {
	return fmt.Sprintf("stream %d: %q", stream, texts)
}

// said is what the frames in p say: their messages, the ends of their streams, and each frame that is not DATA.
func said(t *testing.T, p []byte) (lines []string) {
	t.Helper()
	begun := make(map[byte][]byte) // messages, by stream
	for size := wholeFrame(p); size > 0; size = wholeFrame(p) {
		kind, flags, stream, payload := p[3], p[4], p[8], p[frameHeader:size]
		p = p[size:]
		if kind != frameData || flags&^flagEndStream != 0 {
			lines = append(lines, fmt.Sprintf("frame %d, flags %x, stream %d: %q", kind, flags, stream, payload))
			if kind == frameReset {
				delete(begun, stream)
			}
			continue
		}
		rest := append(begun[stream], payload...)
		for len(rest) >= messageHeader && int64(binary.BigEndian.Uint32(rest[1:])) <= int64(len(rest)-messageHeader) {
			text := rest[messageHeader:messageLen(rest)]
			texts := []string{string(text)}
			switch {
			case rest[0] != 0:
				texts[0] = "compressed: " + texts[0]
			case isBundle(text):
				parts, err := unbundle(nil, mem.SliceBuffer(bytes.Clone(text)))
				if err != nil {
					t.Fatalf("a bundle that cannot be taken apart: %q: %v", text, err)
				}
				texts = nil
				for _, part := range slices.Backward(parts) {
					texts = append(texts, string(part))
				}
			}
			lines = append(lines, line(stream, texts...))
			rest = rest[messageLen(rest):]
		}
		if begun[stream] = rest; flags == flagEndStream {
			lines = append(lines, fmt.Sprintf("stream %d ends", stream))
		}
	}
	for stream := range byte(8) {
		if rest := begun[stream]; len(rest) > 0 {
			lines = append(lines, fmt.Sprintf("stream %d begun: %q", stream, rest))
		}
	}
	if len(p) > 0 {
		lines = append(lines, fmt.Sprintf("begun: %q", p))
	}
	return lines
}

// reserved is a frame whose reserved bit is set.
func reserved(frame string) string {
	p := []byte(frame)
	p[5] |= 0x80
	return string(p)
}

func TestBundle(t *testing.T) {
	t.Parallel()
	const (
		a, b, c = "\na", "\nbb", "\x12ccc" // the first two begin with field 1
		padded  = 0x8
	)
	long := "\n" + strings.Repeat("l", 150)
	for _, tt := range []struct {
		name  string
		reads []string // what arrives together
		want  []string
	}{
		{"messages that arrive together are one", []string{messages(1, a, b, c)}, []string{line(1, a, b, c)}},
		{"one alone is left as it is", []string{messages(1, a)}, []string{line(1, a)}},
		{"what comes later is not waited for", []string{messages(1, a, b), messages(1, a, c)}, []string{line(1, a, b), line(1, a, c)}},
		{"the end of the stream is kept", []string{messages(1, a) + frame(frameData, flagEndStream, 1, message(b))}, []string{line(1, a, b), "stream 1 ends"}},
		{"an end without data is kept", []string{messages(1, a, b) + frame(frameData, flagEndStream, 1, "")}, []string{line(1, a, b), "stream 1 ends"}},
		{"streams stay apart", []string{messages(1, a) + messages(3, b, c) + messages(1, a)}, []string{line(1, a), line(3, b, c), line(1, a)}},
		{"a bundle begins with field 1", []string{messages(1, c, a, b)}, []string{line(1, c), line(1, a), line(1, b)}},
		{"an empty message is in none", []string{messages(1, a, "", b)}, []string{line(1, a), line(1, ""), line(1, b)}},
		{"a compressed message is in none", []string{messages(1, a) + data(1, "\x01"+message(b)[1:])}, []string{line(1, a), line(1, "compressed: "+b)}},
		{"a bundle holds no more than it may", []string{messages(1, long, a, long)}, []string{line(1, long, a), line(1, long)}},
		{"a bundle holds as much as it may", []string{messages(1, long, "123456789")}, []string{line(1, long, "123456789")}},
		{"a bundle holds not a byte more", []string{messages(1, long, "1234567890")}, []string{line(1, long), line(1, "1234567890")}},
		{"a message in two frames is in none", []string{data(1, message(long)[:50]) + data(1, message(long)[50:]) + messages(1, a)}, []string{line(1, long), line(1, a)}},
		{"after a message in two frames there are bundles", []string{data(1, message(long)[:50]), data(1, message(long)[50:]), messages(1, a, b)}, []string{line(1, long), line(1, a, b)}},
		{"after a message in many frames there are bundles", []string{data(1, message(long)[:50]), data(1, message(long)[50:99]), data(1, message(long)[99:]), messages(1, a, b)}, []string{line(1, long), line(1, a, b)}},
		{"after two messages in a frame there are bundles", []string{data(1, message(a)+message(b)), messages(1, a, b)}, []string{line(1, a), line(1, b), line(1, a, b)}},
		{"what looks like a message in the midst of one is none",
			[]string{data(1, message("\n" + message(a) + message(b))[:6]), data(1, message(a)) + data(1, message(b)), messages(1, a, b)},
			[]string{line(1, "\n"+message(a)+message(b)), line(1, a, b)}},
		{"a header in two frames is the end of bundles there", []string{data(1, message(a)[:3]), data(1, message(a)[3:]), messages(1, a, b), messages(3, a, b)}, []string{line(1, a), line(1, a), line(1, b), line(3, a, b)}},
		{"padding is the end of bundles there", []string{frame(frameData, padded, 1, "\x00"), messages(1, a, b), messages(3, a, b)}, []string{`frame 0, flags 8, stream 1: "\x00"`, line(1, a), line(1, b), line(3, a, b)}},
		{"a length over a gigabyte is the end of bundles there", []string{data(1, "\x00\xff\xff\xff\xfb"+a), messages(1, a, b), messages(3, a, b)},
			[]string{line(3, a, b), fmt.Sprintf("stream 1 begun: %q", "\x00\xff\xff\xff\xfb"+a+message(a)+message(b))}},
		{"the first bit of a stream's number is none of it", []string{reserved(data(1, message("\n" + message(a) + message(b))[:6])), data(1, message(a)) + data(1, message(b))},
			[]string{line(1, "\n"+message(a)+message(b))}},
		{"a message with padding is the end of bundles there", []string{frame(frameData, padded, 1, message(a)), messages(1, a, b)},
			[]string{fmt.Sprintf("frame 0, flags 8, stream 1: %q", message(a)), line(1, a), line(1, b)}},
		{"all but a byte of a header is no header", []string{data(1, message(a)+message(b)[:4]), data(1, message(b)[4:]), messages(3, a, b)}, []string{line(1, a), line(1, b), line(3, a, b)}},
		{"a frame that is shorter than a header comes in pieces", []string{data(1, message(long)[:3])[:10], data(1, message(long)[:3])[10:] + data(1, message(long)[3:]) + messages(3, a, b)},
			[]string{line(1, long), line(3, a, b)}},
		{"a message comes in pieces", []string{messages(1, a, b) + messages(1, long)[:60], messages(1, long)[60:] + messages(1, a, b)}, []string{line(1, a, b), line(1, long), line(1, a, b)}},
		{"a frame's header comes in pieces", []string{messages(1, long)[:4], messages(1, long)[4:] + messages(1, a, b)}, []string{line(1, long), line(1, a, b)}},
		{"a message's header comes in pieces", []string{messages(1, long)[:11], messages(1, long)[11:] + messages(1, a, b)}, []string{line(1, long), line(1, a, b)}},
		{"headers come byte by byte", append(strings.Split(messages(1, long)[:14], ""), messages(1, long)[14:]+messages(1, a, b)), []string{line(1, long), line(1, a, b)}},
		{"a part of a message comes in pieces", []string{data(1, message(long)[:50]), data(1, message(long)[50:])[:12], data(1, message(long)[50:])[12:] + messages(1, a, b)}, []string{line(1, long), line(1, a, b)}},
		{"two messages in a frame in pieces are the end of bundles there", []string{data(1, message(a)+message(b))[:18], data(1, message(a)+message(b))[18:], messages(1, a, b)}, []string{line(1, a), line(1, b), line(1, a), line(1, b)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := merger{limit: new(streamLimit), bundler: bundler{most: 165}}
			var read []byte
			for _, arrived := range tt.reads {
				p := []byte(arrived)
				read = append(read, p[:m.merge(p)]...)
			}
			if diff := cmp.Diff(tt.want, said(t, read)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestABundlerForgetsStreamsThatHaveEnded(t *testing.T) {
	t.Parallel()
	part := data(1, message("\nabc")[:6])
	for name, end := range map[string]string{
		"by a frame of data":     frame(frameData, flagEndStream, 1, "x"),
		"by one without data":    frame(frameData, flagEndStream, 1, ""),
		"by trailers":            frame(frameHeaders, flagEndStream, 1, "t"),
		"by a reset":             frame(frameReset, 0, 1, "\x00\x00\x00\x08"),
		"by a reset with a flag": frame(frameReset, flagEndStream, 1, "\x00\x00\x00\x08"),
	} {
		m := merger{limit: new(streamLimit), bundler: bundler{most: 100}}
		m.merge([]byte(part + frame(frameHeaders, 0, 1, "h") + frame(0x8, flagEndStream, 1, "wind"))) // which end nothing
		if got := len(m.amid); got != 1 {
			t.Errorf("%s: before it %d streams were amid a message, want 1", name, got)
		}
		m.merge([]byte(end))
		if got := len(m.amid); got != 0 {
			t.Errorf("%s: after it %d streams are amid a message, want none", name, got)
		}
	}
}

func TestABundlerGivesUpBeforeItHoldsTooMuch(t *testing.T) {
	t.Parallel()
	m := merger{limit: new(streamLimit), bundler: bundler{most: 100}}
	begin := func(stream uint32) {
		p := []byte(data(0, message("\nabc")[:6]))
		binary.BigEndian.PutUint32(p[5:], stream)
		m.merge(p)
	}
	for stream := range uint32(maxAmid) {
		begin(2*stream + 11)
	}
	both := messages(1, "\na", "\nb")
	p := []byte(both)
	if got, want := said(t, p[:m.merge(p)]), []string{line(1, "\na", "\nb")}; !cmp.Equal(want, got) {
		t.Errorf("while there are few enough: got %q, want %q", got, want)
	}
	begin(7)
	p = []byte(both)
	if got, want := said(t, p[:m.merge(p)]), []string{line(1, "\na"), line(1, "\nb")}; !cmp.Equal(want, got) {
		t.Errorf("when there are too many: got %q, want %q", got, want)
	}
	if len(m.amid) > 0 {
		t.Errorf("%d streams are remembered, want none", len(m.amid))
	}
}

// FuzzBundle writes a script of messages, cut into frames, and reads them in pieces of all sizes. What is read says the same as what was
// sent, but that some messages are in bundles, and nothing is held back.
func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 5, 0, 5, 8, 90, 0, 7}, []byte{255}, uint16(100))
	f.Add([]byte{0, 5, 3, 200, 0, 5, 0, 5, 1, 9, 0, 5}, []byte{30, 1, 17}, uint16(16384))
	f.Add([]byte{4, 40, 0, 5, 0, 5, 5, 0, 0, 5, 0, 5, 6, 0, 0, 9, 7, 3, 0, 4, 0, 4}, []byte{14, 13, 12, 100}, uint16(60))
	f.Fuzz(func(t *testing.T, script, sizes []byte, most uint16) {
		if len(sizes) == 0 || len(script) > 200 {
			return
		}
		sent := []byte(written(script))
		m := merger{limit: new(streamLimit), bundler: bundler{most: int(most)}}
		var read []byte
		for i, came := 0, 0; came < len(sent); i++ {
			n := min(max(1, int(sizes[i%len(sizes)]), len(sent)/16), len(sent)-came)
			p := bytes.Clone(sent[came : came+n])
			came += n
			read = append(read, p[:m.merge(p)]...)
			if diff := cmp.Diff(apart(said(t, sent[:came])), apart(said(t, read))); diff != "" {
				t.Fatalf("after %d bytes (-sent +read):\n%s", came, diff)
			}
		}
	})
}

// written is the frames that a script tells to write: of each two bytes the first says what, and the second how long.
func written(script []byte) string {
	var frames strings.Builder
	for i := 0; i+1 < len(script); i += 2 {
		what, size := script[i]%8, int(script[i+1])
		stream := 1 + 2*(script[i]/8%3)
		text := "\n" + strings.Repeat(string(rune('a'+i%26)), size)
		whole := message(text)
		cut := size % len(whole)
		switch what {
		default:
			frames.WriteString(data(stream, whole))
		case 2: // in two frames
			frames.WriteString(data(stream, whole[:cut]) + data(stream, whole[cut:]))
		case 3: // the second looks like a message
			frames.WriteString(data(stream, message(text + whole)[:messageHeader+len(text)]) + data(stream, whole))
		case 4: // two in a frame
			frames.WriteString(data(stream, whole+message("\x12"+text)))
		case 5:
			frames.WriteString(frame(0x6, 0, 0, "a ping's"))
		case 6:
			frames.WriteString(data(stream, message("")) + data(stream, message("\x12"+text)) + data(stream, "\x01"+whole[1:]))
		case 7: // three more, of which the last one is large
			frames.WriteString(messages(stream, text, text, text+strings.Repeat("z", 40*size)))
		}
	}
	return frames.String()
}

// apart is lines in which no messages are in bundles.
func apart(lines []string) (single []string) {
	for _, l := range lines {
		if head, texts, ok := strings.Cut(l, ": ["); ok {
			for text := range strings.SplitSeq(strings.TrimSuffix(texts, "]"), `" "`) {
				single = append(single, head+": "+strings.Trim(text, `"`))
			}
			continue
		}
		single = append(single, l)
	}
	return single
}

// bundle is what a codec gets of messages that arrived together.
func bundle(t *testing.T, responses ...*vehiclepb.CommandResponse) []byte {
	t.Helper()
	var texts []string
	for _, r := range responses {
		text, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	m := merger{limit: new(streamLimit), bundler: bundler{most: maxFramePayload}}
	p := []byte(messages(1, texts...))
	return p[frameHeader+messageHeader : m.merge(p)]
}

// pooled is a pool whose memory is overwritten when it comes back.
type pooled struct{ mem.NopBufferPool }

func (pooled) Put(p *[]byte) {
	for i := range *p {
		(*p)[i] = 'X'
	}
}

func TestCodecReadsBundles(t *testing.T) {
	t.Parallel()
	var sent []*vehiclepb.CommandResponse
	for i := range int32(20) {
		sent = append(sent, &vehiclepb.CommandResponse{
			CommandId: "7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5", ResponsePayload: `"` + strings.Repeat("p", 100*int(i%7)) + `"`, SequenceNumber: i, IsFinal: i == 19, Timestamp: "2026-03-01T12:30:45",
		})
	}
	for _, n := range []int{2, 3, 20} {
		for name, made := range map[string]func([]byte) mem.Buffer{
			"in memory of its own": func(data []byte) mem.Buffer { return mem.SliceBuffer(data) },
			"in a pool's memory":   func(data []byte) mem.Buffer { return mem.NewBuffer(&data, pooled{}) },
		} {
			data := bundle(t, sent[:n]...)
			if size := cap(data); size <= 1<<10 {
				data = append(make([]byte, 0, 2<<10), data...) // gRPC keeps small buffers apart from pools
			}
			c := testCodec(&vehiclepb.CommandRequest{})
			buffer := made(data)
			if err := c.Unmarshal(mem.BufferSlice{buffer}, c.scratch()); err != nil {
				t.Fatalf("%d %s: %v", n, name, err)
			}
			buffer.Free()
			var got []*vehiclepb.CommandResponse
			var payloads [][]byte
			for {
				got = append(got, proto.CloneOf(c.scratch()))
				payloads = append(payloads, c.payload(c.scratch()))
				if len(c.waiting) == 0 {
					break
				}
				if err := c.next(c.scratch()); err != nil {
					t.Fatalf("%d %s: %v", n, name, err)
				}
			}
			if diff := cmp.Diff(sent[:n], got, protocmp.Transform()); diff != "" {
				t.Errorf("%d %s (-sent +got):\n%s", n, name, diff)
			}
			for i, p := range payloads {
				p = append(p, "grown"...) // nobody else's memory
				if want := sent[i].GetResponsePayload() + "grown"; string(p) != want {
					t.Errorf("%d %s: payload %d: got %q, want %q", n, name, i, p, want)
				}
			}
		}
	}
}

func TestCodecSaysWhatIsWrongInABundle(t *testing.T) {
	t.Parallel()
	c := testCodec(&vehiclepb.CommandRequest{})
	good, bad := []byte("\n\x01a"), []byte("\n\x01\xff")
	m := merger{limit: new(streamLimit), bundler: bundler{most: maxFramePayload}}
	p := []byte(messages(1, string(good), string(bad)))
	p = p[frameHeader+messageHeader : m.merge(p)]
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(p)}, c.scratch()); err != nil || c.malformed != nil {
		t.Fatalf("the first message: got %v and %v, want no error", err, c.malformed)
	}
	if err := c.next(c.scratch()); !errors.Is(err, errUTF8) || !errors.Is(c.malformed, errUTF8) {
		t.Errorf("the second message: got %v and %v, want %v", err, c.malformed, errUTF8)
	}
}

func TestUnbundleRefusesWhatIsNoBundle(t *testing.T) {
	t.Parallel()
	for name, bundle := range map[string]string{
		"a trailer of another kind":   "\x02ab\x07\x00\x00\x00\x01",
		"an empty first message":      "\x02\x01\x00\x00\x00\x01",
		"a length beyond its start":   "\x02a\x01\x00\x00\x00\x09",
		"more than bundles ever hold": "\x02" + strings.Repeat("a", maxFramePayload) + "\x01\x00\x00\x00\x01",
	} {
		if parts, err := unbundle(nil, mem.SliceBuffer(bundle)); err == nil {
			t.Errorf("%s: got %d messages, want an error", name, len(parts))
		}
	}
}

func TestSmallMessagesShareCopiesOfOneKiB(t *testing.T) {
	messages, message := make([][]byte, 20), make([]byte, 300)
	if got, want := testing.AllocsPerRun(100, func() {
		for i := range messages {
			messages[i] = message
		}
		own(messages, nil)
	}), 7.0; got != want {
		t.Errorf("20 messages of 300 bytes: got %v copies, want %v", got, want)
	}
}

// FuzzUnbundle takes apart what is no bundle of ours: a server may send anything.
func FuzzUnbundle(f *testing.F) {
	f.Add([]byte("\x02a\x12b\x01\x00\x00\x00\x02"))
	f.Add([]byte("\x02"))
	f.Add([]byte("\x02a\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x02\x01\xff\xff\xff\xff"))
	f.Add([]byte("\x02\x01\x00\x00\x00\x01"))
	f.Add([]byte("\x02aaaaaaaa\x01\xff\xff\xff\xf0"))
	f.Fuzz(func(t *testing.T, bundle []byte) {
		parts, err := unbundle(nil, mem.SliceBuffer(bytes.Clone(bundle)))
		if err != nil {
			return
		}
		size := messageHeader * (len(parts) - 1)
		for _, part := range parts {
			size += len(part)
		}
		if size != len(bundle) {
			t.Errorf("%d messages and their trailers have %d bytes, want %d", len(parts), size, len(bundle))
		}
		if first := parts[len(parts)-1]; first[0] != firstByte {
			t.Errorf("the first message begins with %d, want %d", first[0], firstByte)
		}
	})
}

func TestBundlesAreMadeOnlyWhereNobodyLooks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		filter string // of gRPC's binary log
		opts   []Option
		want   int
	}{
		{"nobody looks", "", nil, maxFramePayload},
		{"a way to connect", "", []Option{WithDialOptions(dialing.Way{DialOption: grpc.EmptyDialOption{}})}, maxFramePayload},
		{"messages have to be small", "", []Option{WithMaxMessageSize(1000)}, 1000},
		{"an option", "", []Option{WithDialOptions(grpc.EmptyDialOption{})}, 0},
		{"a way to connect and an option", "", []Option{WithDialOptions(dialing.Way{DialOption: grpc.EmptyDialOption{}}, grpc.EmptyDialOption{})}, 0},
		{"a logger at Debug", "", []Option{WithLogger(slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})))}, 0},
		{"gRPC's binary log", "*", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GRPC_BINARY_LOG_FILTER", tt.filter)
			client, err := New("localhost:50051", append(tt.opts, WithInsecure())...)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Close() }()
			if got := client.config.bundle; got != tt.want {
				t.Errorf("got bundles of %d bytes, want %d", got, tt.want)
			}
		})
	}
}
