package vehicle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/internal/foreign"
	"github.com/sovd-go/vehicle/internal/jsonscan"
	"github.com/sovd-go/vehicle/vehiclepb"
)

// decode makes a message a Chunk, whose payload is not checked yet. Its errors hold nothing of the payload.
func (r *receiver) decode(m *vehiclepb.CommandResponse, c *Chunk) error {
	*c = Chunk{
		CommandID:  r.cmd.ID,
		VehicleID:  r.cmd.VehicleID,
		Seq:        m.GetSequenceNumber(),
		Final:      m.GetIsFinal(),
		Timestamp:  r.clock.parse(m.GetTimestamp()),
		ReceivedAt: r.clock.now(),
	}
	if echo := m.GetCommandId(); echo != r.cmd.request.GetCommandId() {
		if id, err := uuid.Parse(echo); err != nil || id != r.cmd.ID { // another spelling of it is fine
			return fmt.Errorf("chunk %d answers command %q", c.Seq, foreign.Text(echo))
		}
	}
	if c.Payload = r.wire.payload(m); len(c.Payload) == 0 {
		c.Payload = json.RawMessage("null")
	}
	return nil
}

// check is what is left to check of a decoded chunk, and most of the work. It returns a hash of the payload.
func check(c *Chunk, seed maphash.Seed) (uint64, error) {
	verdict, hash := jsonscan.Hash(seed, c.Payload)
	switch {
	case verdict != jsonscan.Invalid:
		return hash, nil
	case !utf8.Valid(c.Payload):
		return 0, fmt.Errorf("the payload of chunk %d (%s) contains invalid UTF-8", c.Seq, count(len(c.Payload), "byte"))
	default:
		return 0, fmt.Errorf("the payload of chunk %d (%s) is not JSON", c.Seq, count(len(c.Payload), "byte"))
	}
}

// codec takes the place of gRPC's protobuf codec in each call, and is the same but for what is done for each command and each chunk: it encodes a
// CommandRequest without reflection, and the strings of a CommandResponse refer to the memory that gRPC received them in. It
// also notes what it could not read: gRPC reports
// that as INTERNAL, like any trouble of the server's. One command uses it, in one goroutine at a time: that of the receiver or of its
// lookahead, and then that of the stream's farewell.
//
// It leaves out one of protobuf's checks: whether the payload is UTF-8, which jsonscan finds out.
type codec struct {
	message   vehiclepb.CommandResponse // received into, again and again
	text      []byte                    // the payload of the last message
	malformed error                     // what was wrong with it
	waiting   [][]byte                  // messages of the last bundle, from the last one to the next
	request   *vehiclepb.CommandRequest
	config    *config
}

func (c *codec) init(config *config, request *vehiclepb.CommandRequest) {
	c.config, c.request = config, request
}

func (c *codec) scratch() *vehiclepb.CommandResponse { return &c.message }

// payload is the payload of a message that was received, as bytes that nothing else refers to. An interceptor may have
// put another one there.
func (c *codec) payload(m *vehiclepb.CommandResponse) json.RawMessage {
	text := m.GetResponsePayload()
	if len(text) == len(c.text) && unsafe.StringData(text) == unsafe.SliceData(c.text) { //nolint:gosec // G103: compared, not read
		return c.text
	}
	return json.RawMessage(text)
}

// protobuf is gRPC's own codec.
func protobuf() encoding.CodecV2 { return encoding.GetCodecV2(encodingproto.Name) }

// Name implements encoding.CodecV2.
func (c *codec) Name() string { return encodingproto.Name }

// Marshal implements encoding.CodecV2.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*vehiclepb.CommandRequest); ok {
		if data := marshal(m); data != nil {
			return mem.BufferSlice{mem.SliceBuffer(data)}, nil
		}
	}
	return protobuf().Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	var err error
	if m, ok := v.(*vehiclepb.CommandResponse); ok {
		err = c.read(data, m)
	} else {
		err = protobuf().Unmarshal(data, v)
	}
	c.malformed = err
	return err
}

// read reads a message, or the first one of a bundle.
func (c *codec) read(data mem.BufferSlice, m *vehiclepb.CommandResponse) error {
	if len(data) != 1 || c.config.bundle == 0 || !isBundle(data[0].ReadOnlyData()) { // a bundle came in one frame
		return c.unmarshal(owned(data), m)
	}
	var err error
	if c.waiting, err = unbundle(c.waiting, data[0]); err != nil {
		return err
	}
	return c.next(m)
}

// next reads the next message that waits. One does.
func (c *codec) next(m *vehiclepb.CommandResponse) error {
	last := len(c.waiting) - 1
	data := c.waiting[last]
	c.waiting[last], c.waiting = nil, c.waiting[:last]
	c.malformed = c.unmarshal(data, m)
	return c.malformed
}

// owned is data in one piece, for good. gRPC keeps frames of up to 1 KiB in memory of their own, which it leaves to the
// garbage collector; larger ones come from a pool, and go back there unless somebody holds on to them.
func owned(data mem.BufferSlice) []byte {
	if len(data) != 1 {
		return data.Materialize()
	}
	if plain, ok := data[0].(mem.SliceBuffer); ok {
		return plain
	}
	message := data[0].ReadOnlyData()
	if lasts(message, message) {
		data[0].Ref()
		return message
	}
	return bytes.Clone(message) // Materialize would clear the memory first
}

// The fields of a CommandRequest and a CommandResponse, as vehiclepb's .proto has them.
const (
	fieldParams = 10
	paramKey    = 1
	paramValue  = 2
	// The request's command_id, vehicle_id and command_name are fields 1 to 3.

	fieldCommandID = 1
	fieldPayload   = 2
	fieldSequence  = 3
	fieldFinal     = 10
	fieldTimestamp = 11
)

// marshal is proto.Marshal; nil: only that can say what is wrong, or an interceptor has added fields. FuzzMarshal holds
// it to that.
func marshal(m *vehiclepb.CommandRequest) []byte {
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return nil
	}
	fields := [...]string{m.GetCommandId(), m.GetVehicleId(), m.GetCommandName()}
	size := 0
	for _, text := range fields {
		if !utf8.ValidString(text) {
			return nil
		}
		size += 1 + protowire.SizeBytes(len(text))
	}
	for key, value := range m.GetCommandParams() {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return nil
		}
		size += 1 + protowire.SizeBytes(paramSize(key, value))
	}
	data := make([]byte, 0, size)
	for i, text := range fields {
		if text != "" {
			data = appendText(data, protowire.Number(i+1), text)
		}
	}
	for key, value := range m.GetCommandParams() {
		data = protowire.AppendTag(data, fieldParams, protowire.BytesType)
		data = protowire.AppendVarint(data, uint64(paramSize(key, value))) //nolint:gosec // G115: a length
		data = appendText(data, paramKey, key)
		data = appendText(data, paramValue, value)
	}
	return data
}

func appendText(data []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(data, number, protowire.BytesType), text)
}

func paramSize(key, value string) int {
	return 2 + protowire.SizeBytes(len(key)) + protowire.SizeBytes(len(value))
}

var (
	errUTF8   = errors.New("string field contains invalid UTF-8")
	errNumber = errors.New("invalid field number")
)

// unmarshal is proto.Unmarshal for a message that keeps data. FuzzUnmarshal holds it to that.
func (c *codec) unmarshal(data []byte, m *vehiclepb.CommandResponse) error {
	c.text = nil
	m.CommandId, m.ResponsePayload, m.SequenceNumber, m.IsFinal, m.Timestamp = "", "", 0, false, ""
	for len(data) > 0 {
		tag, n := uint64(data[0]), 1
		if tag >= 0x80 { // of a later version, or in more bytes than it takes
			if tag, n = protowire.ConsumeVarint(data); n < 0 {
				return protowire.ParseError(n)
			}
		}
		data = data[n:]
		switch tag {
		case fieldCommandID<<3 | uint64(protowire.BytesType), fieldPayload<<3 | uint64(protowire.BytesType), fieldTimestamp<<3 | uint64(protowire.BytesType):
			var text []byte
			if text, n = protowire.ConsumeBytes(data); n < 0 {
				return protowire.ParseError(n)
			}
			if !c.setText(m, tag>>3, text) {
				return errUTF8
			}
		case fieldSequence<<3 | uint64(protowire.VarintType), fieldFinal<<3 | uint64(protowire.VarintType):
			var x uint64
			if x, n = protowire.ConsumeVarint(data); n < 0 {
				return protowire.ParseError(n)
			}
			if tag>>3 == fieldSequence {
				m.SequenceNumber = int32(x) //nolint:gosec // G115: protobuf keeps the low 32 bits
			} else {
				m.IsFinal = protowire.DecodeBool(x)
			}
		default: // a field of a later version
			number, kind := protowire.DecodeTag(tag)
			if !number.IsValid() {
				return errNumber
			}
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return protowire.ParseError(n)
			}
		}
		data = data[n:]
	}
	return nil
}

// setText sets one of the fields that are strings. It says false where text is not UTF-8.
func (c *codec) setText(m *vehiclepb.CommandResponse, field uint64, text []byte) bool {
	switch field {
	case fieldCommandID:
		if id := c.request.GetCommandId(); string(text) == id {
			m.CommandId = id
			return true
		}
		m.CommandId = alias(text)
	case fieldTimestamp:
		m.Timestamp = alias(text)
	default:
		before := c.text
		c.text, m.ResponsePayload = slices.Clip(text), alias(text)
		return len(before) == 0 || utf8.Valid(before) // of several only the last one is looked at
	}
	return utf8.Valid(text)
}

// alias is text as a string, without copying it.
func alias(text []byte) string {
	return unsafe.String(unsafe.SliceData(text), len(text)) //nolint:gosec // G103: text is ours, and changes no more
}

// isMalformed says whether err is that of a message that could not be read: gRPC's, or next's. An interceptor may have asked again since, on
// another stream.
func (c *codec) isMalformed(err error, st *status.Status) bool {
	return c.malformed != nil && (st.Code() == codes.Internal || errors.Is(err, c.malformed))
}

// tooLarge says whether st is this side's refusal of a message over the limit. gRPC gives it the code
// that an overloaded server sends, and no other mark than its text. A server that refuses a request of
// ours as too large says the same words, but only of a request over the limit that they name.
func (c *codec) tooLarge(st *status.Status) bool {
	return st.Code() == codes.ResourceExhausted &&
		strings.HasPrefix(st.Message(), "grpc: received message ") &&
		strings.Contains(st.Message(), strconv.Itoa(c.config.maxMessageSize)) &&
		proto.Size(c.request) <= c.config.maxMessageSize
}
