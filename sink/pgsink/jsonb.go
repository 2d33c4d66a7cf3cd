package pgsink

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/sovd-go/vehicle/internal/jsonscan"
)

// What jsonb holds less of than JSON has, https://www.postgresql.org/docs/current/datatype-json.html and
// https://www.postgresql.org/docs/current/datatype-numeric.html.
const (
	// maxDepth is how deeply arrays and objects may be nested. PostgreSQL's limit is its stack
	// (max_stack_depth): some 6,000 levels by default.
	maxDepth = 512
	// maxIntegerDigits and maxFractionDigits are what numeric has before and after the point.
	maxIntegerDigits  = 131072
	maxFractionDigits = 16383
	// maxGrowth bounds the zeros that the exponents of one payload may stand for: jsonb writes them
	// out, and a payload of many small 1e131071 could never be read again.
	maxGrowth = 16 << 10
)

// wrapKey is the key of the object that a text is wrapped in.
const wrapKey = "$json"

// toJSONB returns a JSON text that jsonb can hold: text itself, in its memory, or text wrapped as {"$json": "text"}. It
// returns false where text is not UTF-8, which can be held in no way.
func toJSONB(text []byte) (string, bool) {
	switch {
	case jsonscan.Scan(text) == jsonscan.Plain && !bytes.Contains(text, []byte(wrapKey)): // nearly all
		return alias(text), true
	case !utf8.Valid(text):
		return "", false
	case len(text) == 0:
		return "null", true
	case isJSONB(text):
		return alias(text), true
	default:
		return wrap(text), true
	}
}

// alias is text as a string, without copying it.
func alias(text []byte) string {
	return unsafe.String(unsafe.SliceData(text), len(text)) //nolint:gosec // G103: a Sink may keep payloads, and nobody changes them
}

func wrap(text []byte) string {
	quoted, err := json.Marshal(string(text))
	if err != nil { // a string always can be
		return "null"
	}
	return `{"` + wrapKey + `":` + string(quoted) + `}`
}

// unwrap gives back the text as it was before toJSONB.
func unwrap(stored []byte) []byte {
	if !bytes.HasPrefix(stored, []byte(`{"`+wrapKey+`":`)) {
		return stored
	}
	var object map[string]json.RawMessage
	var text string
	if json.Unmarshal(stored, &object) != nil || len(object) != 1 || json.Unmarshal(object[wrapKey], &text) != nil {
		return stored
	}
	return []byte(text)
}

// isJSONB says whether jsonb can hold a valid JSON text, and that the text does not look wrapped. It
// takes one pass. What it says of invalid JSON means nothing.
func isJSONB(text []byte) bool {
	depth, growth := 0, 0
	key := false // the next string is a key of the outermost object
	object := false
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
			if depth == 1 {
				object = c == '{'
				key = object
			}
			i++
		case '}', ']':
			depth--
			i++
		case ',':
			key = object && depth == 1
			i++
		case '"':
			end, ok := scanString(text, i)
			if !ok || key && isWrapKey(text[i:end]) {
				return false
			}
			key = false
			i = end
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			end, zeros, ok := scanNumber(text, i)
			if growth += zeros; !ok || growth > maxGrowth {
				return false
			}
			i = end
		default: // white space, a colon, true, false, null
			i++
		}
	}
	return true
}

// scanString returns where the string that begins at text[i] ends, and whether jsonb can hold it: it refuses NUL and
// surrogates without a partner.
func scanString(text []byte, i int) (end int, ok bool) {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i + 1, true
		case '\\':
			i++
			if i >= len(text) || text[i] != 'u' {
				continue
			}
			switch r := hex4(text[i+1:]); {
			case r <= 0, isLowSurrogate(r):
				return 0, false
			case isHighSurrogate(r):
				if len(text) < i+7 || text[i+5] != '\\' || text[i+6] != 'u' || !isLowSurrogate(hex4(text[i+7:])) {
					return 0, false
				}
				i += 6
			}
			i += 4
		}
	}
	return len(text), true
}

func isHighSurrogate(r int) bool { return 0xD800 <= r && r < 0xDC00 }
func isLowSurrogate(r int) bool  { return 0xDC00 <= r && r < 0xE000 }

// hex4 reads four hexadecimal digits; -1 if there are none.
func hex4(text []byte) int {
	if len(text) < 4 {
		return -1
	}
	n, err := strconv.ParseUint(string(text[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// isWrapKey says whether a string, in its quotes, is wrapKey in any spelling.
func isWrapKey(quoted []byte) bool {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted) == `"`+wrapKey+`"`
	}
	var key string
	return json.Unmarshal(quoted, &key) == nil && key == wrapKey
}

// scanNumber returns where the number that begins at text[i] ends, how many zeros its exponent stands for, and
// whether numeric can hold it.
func scanNumber(text []byte, i int) (end, zeros int, ok bool) {
	if text[i] == '-' {
		i++
	}
	integer, i := scanDigits(text, i)
	fraction, exponent := 0, 0
	if i < len(text) && text[i] == '.' {
		fraction, i = scanDigits(text, i+1)
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		sign := 1
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			if text[i] == '-' {
				sign = -1
			}
			i++
		}
		for ; i < len(text) && isDigit(text[i]); i++ {
			exponent = min(exponent*10+int(text[i]-'0'), 10*maxIntegerDigits)
		}
		exponent *= sign
		zeros = max(exponent-fraction, -exponent-integer, 0)
	}
	return i, zeros, integer+exponent <= maxIntegerDigits && fraction-exponent <= maxFractionDigits
}

func scanDigits(text []byte, i int) (n, end int) {
	start := i
	for i < len(text) && isDigit(text[i]) {
		i++
	}
	return i - start, i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
