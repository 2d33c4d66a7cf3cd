package vehicle

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sovd-go/vehicle/vehiclepb"
)

func testCodec(request *vehiclepb.CommandRequest) *codec {
	c := new(codec)
	c.init(&config{maxMessageSize: 1 << 20, bundle: maxFramePayload}, request)
	return c
}

// FuzzUnmarshal holds the codec's decoding, together with the check of the payload, to protobuf's own and to
// encoding/json's: for a message in one piece, and in pieces from a pool.
func FuzzUnmarshal(f *testing.F) {
	message := func(m *vehiclepb.CommandResponse) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	whole := message(&vehiclepb.CommandResponse{
		CommandId: "7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5", ResponsePayload: `{"dtc":"P0420"}`, SequenceNumber: 7, IsFinal: true, Timestamp: "2026-03-01T12:30:45",
	})
	for _, data := range [][]byte{
		nil, whole, whole[:len(whole)-3],
		bytes.Repeat(whole, 2), // the last value of each field counts
		message(&vehiclepb.CommandResponse{SequenceNumber: -1}),
		append(message(&vehiclepb.CommandResponse{ResponsePayload: "1"}), 0x12, 1, 0xff), // a payload that is not UTF-8
		append([]byte{0x12, 1, 0xff}, message(&vehiclepb.CommandResponse{ResponsePayload: "1"})...),
		{0x0a, 1, 0xff},                // a command id that is not
		{0x0a, 2, 'a'},                 // it breaks off
		{0x10, 7},                      // the payload's number with a number's type
		{0x9a, 0x06, 3, 'n', 'e', 'w'}, // a field of a later version
		{0x1b, 0x08, 1, 0x1c},          // a group
		{0x1c},                         // the end of one that has not begun
		{0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},    // 48 bits
		{0x50, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, // true in many bytes
		{0xd0, 0x00, 1}, {0x83, 0x80, 0x00, 0x1c}, // tags in more bytes than they take
		{0x00, 0x00}, // no field has number 0
	} {
		f.Add(data, 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var want vehiclepb.CommandResponse
		wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, &want)
		cut = min(max(cut, 0), len(data))
		for name, pieces := range map[string]mem.BufferSlice{
			"one piece":  {mem.SliceBuffer(bytes.Clone(data))},
			"two pieces": {mem.SliceBuffer(bytes.Clone(data[:cut])), mem.SliceBuffer(bytes.Clone(data[cut:]))},
		} {
			c := testCodec(&vehiclepb.CommandRequest{})
			got := c.scratch()
			got.CommandId, got.ResponsePayload, got.SequenceNumber, got.IsFinal, got.Timestamp = "left", "over", 1, true, "before" // it is used again and again
			err := c.Unmarshal(pieces, got)
			if err == nil && !utf8.Valid(c.payload(got)) { // jsonscan's to find
				err = errUTF8
			}
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%s: got error %v, want %v", name, err, wantErr)
			}
			if err != nil {
				continue
			}
			if diff := cmp.Diff(&want, got, protocmp.Transform()); diff != "" {
				t.Errorf("%s (-proto +ours):\n%s", name, diff)
			}
			if got := c.payload(got); string(got) != want.GetResponsePayload() {
				t.Errorf("%s: got payload %q, want %q", name, got, want.GetResponsePayload())
			}
		}
	})
}

// FuzzMarshal holds the codec's encoding to protobuf's own.
func FuzzMarshal(f *testing.F) {
	f.Add("7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5", "6a1f0c7e-9d58-4c9b-8d3e-1f2a3b4c5d6e", "ReadDTC", "ecuAddress", "0x10", "", "")
	f.Add("", "", "", "", "", "", "")
	f.Add("\xff", "", "", "", "", "", "")
	f.Add("", "", "x", "\xff", "", "", "")
	f.Add("", "", "x", "", "\xff", "", "")
	f.Add("", "", strings.Repeat("x", 200), "a", strings.Repeat("y", 20000), "b", "")
	f.Fuzz(func(t *testing.T, id, vehicle, name, key1, value1, key2, value2 string) {
		want := &vehiclepb.CommandRequest{CommandId: id, VehicleId: vehicle, CommandName: name, CommandParams: map[string]string{key1: value1, key2: value2}}
		theirs, wantErr := proto.Marshal(want)
		data, err := testCodec(want).Marshal(want)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("got error %v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		var got vehiclepb.CommandRequest
		if err := proto.Unmarshal(data.Materialize(), &got); err != nil || data.Len() != len(theirs) {
			t.Fatalf("got %d bytes, %v, want %d", data.Len(), err, len(theirs))
		}
		if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Errorf("(-sent +received):\n%s", diff)
		}
	})
}

// What an interceptor adds to a request is sent.
func TestFieldsThatAreNotKnownAreSent(t *testing.T) {
	t.Parallel()
	m := &vehiclepb.CommandRequest{CommandName: "ReadDTC"}
	m.ProtoReflect().SetUnknown([]byte{0x9a, 0x06, 3, 'n', 'e', 'w'})
	want, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := testCodec(m).Marshal(m)
	if err != nil || !bytes.Equal(got.Materialize(), want) {
		t.Errorf("got %x, %v, want %x", got.Materialize(), err, want)
	}
}

// What is given out stays as it was, whatever is received next, and whatever gRPC does with its buffers.
func TestAPayloadIsNotReused(t *testing.T) {
	t.Parallel()
	small, large, larger := `"small"`, `"`+strings.Repeat("x", 4000)+`"`, `"`+strings.Repeat("y", 5000)+`"`
	for name, sizes := range map[string][]string{
		"small messages":                      {small, small, small},
		"messages from the pool":              {large, large, large},
		"messages that stay in their frames":  {larger, larger, larger},
		"messages that stay there, or do not": {small, larger, large, small, larger, large},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := new(frames)
			c := testCodec(&vehiclepb.CommandRequest{})
			var kept []json.RawMessage
			for _, text := range sizes {
				data, err := proto.Marshal(&vehiclepb.CommandResponse{ResponsePayload: text})
				if err != nil {
					t.Fatal(err)
				}
				frame := mem.Copy(data, pool) // as gRPC receives it
				if err := c.Unmarshal(mem.BufferSlice{frame}, c.scratch()); err != nil {
					t.Fatal(err)
				}
				kept = append(kept, c.payload(c.scratch()))
				frame.Free()
				buf := pool.Get(len(data)) // the next one may get the same memory
				clear(*buf)
				pool.Put(buf)
			}
			for i, want := range sizes {
				if string(kept[i]) != want {
					t.Errorf("payload %d: got %.40q, want %.40q", i, kept[i], want)
				}
			}
		})
	}
}

// countingPool is a pool that notes whether frames go back to it.
type countingPool struct {
	frames

	back int
}

func (p *countingPool) Put(frame *[]byte) {
	p.back++
	clear((*frame)[:cap(*frame)]) // whoever holds on to it has it no longer
	p.frames.Put(frame)
}

// Large messages stay in the frame that they were received in, which then is not used again. What is kept of one holds up to four times its
// size in memory, and of a small one up to 1 KiB more.
func TestLargeMessagesStayInTheirFrames(t *testing.T) {
	t.Parallel()
	const k = 1 << 10
	for _, tt := range []struct {
		name     string
		messages []int // how large
		room     int   // in the frame; 0: what the pool gives
		back     bool  // it goes back to the pool
		copied   int   // bytes
	}{
		{name: "a message of 4 KiB", messages: []int{4 * k}},
		{name: "one that is smaller", messages: []int{4*k - 1}, back: true, copied: 4*k - 1},
		{name: "three in a bundle", messages: []int{5 * k, 4 * k, 5 * k}},
		{name: "large and small ones in a bundle", messages: []int{300, 4 * k, 3 * k, 5 * k, 200, 150}, copied: 3*k + 650},
		{name: "small ones in a bundle", messages: []int{3 * k, 3 * k, 3 * k, 3 * k, 3 * k}, back: true, copied: 15 * k},
		{name: "a frame that is much larger", messages: []int{5 * k}, room: 32 * k, back: true, copied: 5 * k},
		{name: "a bundle in one", messages: []int{5 * k, 5 * k}, room: 32 * k, back: true, copied: 10 * k},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var want []string
			var text []byte
			for i, size := range tt.messages {
				payload := strings.Repeat(string('a'+rune(i)), size-5)
				message := protowire.AppendString([]byte{firstByte, 0, fieldPayload<<3 | byte(protowire.BytesType)}, payload)
				want, text = append(want, payload), append(text, message...)
				if i > 0 {
					kind := byte(laterTrailer)
					if i == 1 {
						kind, text[0] = firstTrailer, bundleMark
					}
					text = binary.BigEndian.AppendUint32(append(text, kind), uint32(len(message)))
				}
			}
			pool := new(countingPool)
			memory := pool.Get(max(tt.room, len(text)))
			*memory = (*memory)[:copy(*memory, text)]
			frame := mem.NewBuffer(memory, pool)

			c := testCodec(&vehiclepb.CommandRequest{})
			err := c.Unmarshal(mem.BufferSlice{frame}, c.scratch())
			payloads := []json.RawMessage{c.payload(c.scratch())}
			for err == nil && len(c.waiting) > 0 {
				err = c.next(c.scratch())
				payloads = append(payloads, c.payload(c.scratch()))
			}
			if err != nil {
				t.Fatal(err)
			}
			frame.Free()
			var got []string
			for i, payload := range payloads {
				got = append(got, string(payload))
				if cap(payload) != len(payload) {
					t.Errorf("payload %d: got room for %d bytes more, want none: they are others'", i, cap(payload)-len(payload))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("payloads after gRPC has freed the frame (-want +got):\n%s", diff)
			}
			clear((*memory)[:cap(*memory)])
			copied := 0
			for i, payload := range payloads {
				if string(payload) == want[i] {
					copied += tt.messages[i]
				}
			}
			if back := pool.back > 0; back != tt.back || copied != tt.copied {
				t.Errorf("got %d bytes copied, the frame back in its pool: %t; want %d, %t", copied, back, tt.copied, tt.back)
			}
		})
	}
}

// An interceptor may put another payload into a message. It is copied: its owner may change or keep it.
func TestAPayloadOfAnInterceptorIsCopied(t *testing.T) {
	t.Parallel()
	c := testCodec(&vehiclepb.CommandRequest{})
	data, err := proto.Marshal(&vehiclepb.CommandResponse{ResponsePayload: `{"a":1}`})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, c.scratch()); err != nil {
		t.Fatal(err)
	}
	m := c.scratch()
	m.ResponsePayload = `{"b":2}` // in memory that cannot be written to
	got := c.payload(m)
	got[2] = 'c'
	if want := `{"c":2}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
