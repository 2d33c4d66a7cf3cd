// Package foreign makes texts that others wrote fit for our errors and logs.
package foreign

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is how much of a foreign text is kept, in bytes.
const maxText = 512

// vinLength is the length of a vehicle identification number, ISO 3779.
const vinLength = 17

// Text makes a foreign text fit for a log line: one line, valid UTF-8, at most maxText bytes, and
// without vehicle identification numbers, which are personal data. The masking comes before the
// cutting, so that no part of one is left at the end.
func Text(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = maskVINs(strings.TrimSpace(text))
	if len(text) > maxText {
		end := maxText - len("…")
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return text
}

// maskVINs replaces each word of 17 letters and digits without I, O and Q (ISO 3779, in any case).
func maskVINs(text string) string {
	if len(text) < vinLength {
		return text
	}
	var b strings.Builder
	start := 0 // of the word
	shaped := true
	for i := 0; i <= len(text); i++ {
		if i < len(text) && isWordByte(text[i]) {
			shaped = shaped && strings.IndexByte("IOQioq", text[i]) < 0
			continue
		}
		if word := text[start:i]; shaped && len(word) == vinLength {
			b.WriteString("[VIN]")
		} else {
			b.WriteString(word)
		}
		if i < len(text) {
			b.WriteByte(text[i])
		}
		start, shaped = i+1, true
	}
	return b.String()
}

func isWordByte(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}
