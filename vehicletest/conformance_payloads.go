package vehicletest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
)

// awkwardPayloads are valid JSON that has broken somebody's storage.
func awkwardPayloads() []struct{ name, text string } {
	const depth = 9_000 // encoding/json reads 10,000
	return []struct{ name, text string }{
		{"null, for an answer without data", `null`},
		{"true", `true`},
		{"a string", `"P0420"`},
		{"an empty string", `""`},
		{"an empty object", `{}`},
		{"an empty array", `[]`},
		{"zero with a sign", `[0,-0,-0.0]`},
		{"an integer beyond float64", `{"odometer":9007199254740993}`},
		{"more digits than a float64 has", `3.14159265358979323846264338327950288`},
		{"a number beyond float64", `1e400000`},
		{"a number too small for float64", `1e-400000`},
		{"decimals and exponents", `[1.50,15E-1,0.000001,1e+2]`},
		{"the escape of NUL in a padded serial number", `{"serial":"WAU1\u0000\u0000\u0000"}`},
		{"the escape of NUL in a key", `{"\u0000":1}`},
		{"a lone high surrogate", `"\ud83d"`},
		{"a lone low surrogate", `"\ude97 left over"`},
		{"surrogates in the wrong order", `"\ude97\ud83d"`},
		{"an escaped surrogate pair", `"\ud83d\ude97"`},
		{"characters beyond the basic plane", `"🚗🔧"`},
		{"Unicode line separators", "\"one\u2028two\u2029three\""},
		{"a byte order mark in a string", "\"\ufeffECU\""},
		{"DEL and C1 controls", "\"\u007f\u0085\u009f\""},
		{"escapes of every sort", `"\"\\\/\b\f\n\r\t\u001f\u00e9"`},
		{"HTML", `"<b>&amp;</b><script>"`},
		{"SQL and placeholders", `"'); DROP TABLE responses; -- $1 ? %s %v"`},
		{"white space and line breaks between tokens", " {\r\n\t\"dtc\" : [ \"P0420\" ,\n \"U0121\" ] }\n"},
		{"line breaks and a JSON line in a string", `"{\"event\":\"status\"}\n{\"event\":\"status\"}\r\n"`},
		{"the same key twice", `{"dtc":"P0420","dtc":"P0171"}`},
		{"an empty key and spaces in keys", `{"":1," ":2,"a b":3}`},
		{"keys in no order", `{"z":1,"a":2,"m":{"y":1,"b":2}}`},
		{"what a sink's own wrapper may look like", `{"$json":"{\"$json\":\"1\"}"}`},
		{"field names of events", `{"event":"status","status":"completed","is_final":true}`},
		{"nesting of 9,000 levels", strings.Repeat("[", depth) + strings.Repeat("]", depth)},
	}
}

// largePayload is a JSON string of n bytes that does not compress well.
func largePayload(n int) string {
	var b strings.Builder
	b.Grow(n + 64)
	b.WriteByte('"')
	for b.Len() < n-1 {
		id := uuid.New()
		fmt.Fprintf(&b, "%x", id[:])
	}
	return b.String()[:n-1] + `"`
}

// awkwardParams are what a command's parameters may be. They are made anew each time.
func awkwardParams() map[string]any {
	return map[string]any{
		"did":            "F190",
		"":               "an empty key",
		`the "key" '$1'`: `the "value" '$1' \`,
		"ключ":           "значение 🚗",
		"nul":            "\x00",
		"\x00":           "nul",
		"control":        "\x1b[31m\r\n\u2028",
		"html":           "<b>&",
		"nothing":        nil,
		"bool":           true,
		"int":            int64(9007199254740993),
		"float":          1e300,
		"number":         json.Number("1e400000"),
		"raw":            json.RawMessage(`{"b":1,"a":"\u0000"}`),
		"bytes":          []byte{0, 0xFF},
		"time":           time.Date(2025, 10, 31, 14, 30, 0, 0, time.UTC),
		"list":           []any{1, "two", nil},
		"nested":         map[string]any{"z": map[string]any{"y": []string{"x"}}},
	}
}

// newCommand is a command that nobody has seen.
func newCommand() vehicle.Command {
	return vehicle.Command{
		ID:        uuid.New(),
		VehicleID: uuid.New(),
		Name:      "ReadDTC",
		Params:    map[string]any{"ecu": "0x7E0", "mask": 255},
		UserID:    uuid.New(),
	}
}

// newChunks are an answer's chunks, numbered from first, of which the last is final.
func newChunks(cmd vehicle.Command, first int32, payloads ...string) []vehicle.Chunk {
	chunks := make([]vehicle.Chunk, 0, len(payloads))
	now := time.Now().UTC().Truncate(time.Millisecond)
	seq := first
	for _, payload := range payloads {
		chunks = append(chunks, vehicle.Chunk{
			CommandID:  cmd.ID,
			VehicleID:  cmd.VehicleID,
			Seq:        seq,
			Payload:    json.RawMessage(payload),
			Timestamp:  now.Add(-time.Hour),
			ReceivedAt: now,
		})
		seq++
	}
	if len(chunks) > 0 {
		chunks[len(chunks)-1].Final = true
	}
	return chunks
}

// troubleCodes are n payloads that tell a command's chunks from all others.
func troubleCodes(n int) []string {
	payloads := make([]string, n)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`{"code":"P%04X","snapshot":"%s"}`, i, uuid.New())
	}
	return payloads
}

// inBatches cuts chunks into batches of the given sizes, over and over.
func inBatches(chunks []vehicle.Chunk, sizes ...int) [][]vehicle.Chunk {
	var batches [][]vehicle.Chunk
	for i := 0; len(chunks) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(chunks))
		batches = append(batches, slices.Clip(chunks[:n]))
		chunks = chunks[n:]
	}
	return batches
}

// newRun is a run of a command nobody has seen, with n chunks from 0 on in batches of several sizes.
func newRun(n int) sinkRun {
	cmd := newCommand()
	return sinkRun{cmd: cmd, batches: inBatches(newChunks(cmd, 0, troubleCodes(n)...), 1, 3, 2, 7)}
}

// newFailure is an error as the SDK gives it.
func newFailure(cmd vehicle.Command, code codes.Code, message string, attempts, chunks int) error {
	return &vehicle.Error{
		Code:      code,
		Message:   message,
		CommandID: cmd.ID,
		VehicleID: cmd.VehicleID,
		Name:      cmd.Name,
		Attempts:  attempts,
		Chunks:    chunks,
	}
}
