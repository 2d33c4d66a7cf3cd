// Package jsonquote writes JSON strings.
package jsonquote

import (
	"bytes"
	"encoding/json"
)

// Append appends s as a JSON string, as encoding/json writes it without escapes for HTML.
func Append(b []byte, s string) []byte {
	if isPlain(s) {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// isPlain says whether s is printable ASCII without what JSON escapes: a status, nearly every command's name.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
