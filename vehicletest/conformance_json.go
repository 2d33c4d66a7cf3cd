package vehicletest

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// canonicalJSON spells a JSON value in the one way that equal values share. Values are equal as
// PostgreSQL's jsonb has it: objects are sets of keys, of which the last of several counts, and numbers
// are exact decimals. encoding/json does not serve: it makes the same of different lone surrogates.
func canonicalJSON(text []byte) ([]byte, error) {
	if !json.Valid(text) || !utf8.Valid(text) {
		return nil, errors.New("not valid JSON")
	}
	r := jsonReader{text: text}
	return r.value(nil), nil
}

// jsonReader reads text that is known to be valid.
type jsonReader struct {
	text []byte
	pos  int
}

func (r *jsonReader) value(dst []byte) []byte {
	switch c := r.next(); c {
	case '{':
		return r.object(dst)
	case '[':
		return r.array(dst)
	case '"':
		return strconv.AppendQuote(dst, r.quoted())
	case 't', 'f', 'n':
		return append(dst, r.word()...)
	default:
		return append(dst, canonicalNumber(string(r.word()))...)
	}
}

func (r *jsonReader) array(dst []byte) []byte {
	r.pos++ // [
	dst = append(dst, '[')
	for r.next() != ']' {
		if r.text[r.pos] == ',' {
			r.pos++
			dst = append(dst, ',')
			continue
		}
		dst = r.value(dst)
	}
	r.pos++
	return append(dst, ']')
}

func (r *jsonReader) object(dst []byte) []byte {
	members := make(map[string][]byte)
	r.pos++ // {
	for r.next() != '}' {
		if r.text[r.pos] == ',' {
			r.pos++
			continue
		}
		key := r.quoted()
		r.next()
		r.pos++ // :
		members[key] = r.value(nil)
	}
	r.pos++
	dst = append(dst, '{')
	for _, key := range slices.Sorted(maps.Keys(members)) {
		dst = strconv.AppendQuote(dst, key)
		dst = append(dst, ':')
		dst = append(dst, members[key]...)
		dst = append(dst, ',')
	}
	return append(dst, '}')
}

// next skips white space and returns the byte at pos.
func (r *jsonReader) next() byte {
	for {
		switch c := r.text[r.pos]; c {
		case ' ', '\t', '\r', '\n':
			r.pos++
		default:
			return c
		}
	}
}

// word reads a number or a literal.
func (r *jsonReader) word() []byte {
	start := r.pos
	for r.pos < len(r.text) && !strings.ContainsRune(",]} \t\r\n", rune(r.text[r.pos])) {
		r.pos++
	}
	return r.text[start:r.pos]
}

// quoted reads a string, in which a lone surrogate stays what it is, in three bytes that are not UTF-8
// (WTF-8 calls it so).
func (r *jsonReader) quoted() string {
	var b []byte
	for r.pos++; r.text[r.pos] != '"'; {
		c := r.text[r.pos]
		r.pos++
		if c != '\\' {
			b = append(b, c)
			continue
		}
		c = r.text[r.pos]
		r.pos++
		switch c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			b = r.escaped(b)
		default:
			b = append(b, c)
		}
	}
	r.pos++
	return string(b)
}

// escaped reads what follows \u, and the second half of a surrogate pair.
func (r *jsonReader) escaped(b []byte) []byte {
	unit := r.hex()
	if !utf16.IsSurrogate(unit) {
		return utf8.AppendRune(b, unit)
	}
	if r.text[r.pos] == '\\' && r.text[r.pos+1] == 'u' {
		before := r.pos
		r.pos += 2
		if pair := utf16.DecodeRune(unit, r.hex()); pair != utf8.RuneError {
			return utf8.AppendRune(b, pair)
		}
		r.pos = before
	}
	return append(b, 0xED, 0x80|byte(unit>>6&0x3F), 0x80|byte(unit&0x3F))
}

func (r *jsonReader) hex() rune {
	n, _ := strconv.ParseUint(string(r.text[r.pos:r.pos+4]), 16, 16) // it is valid JSON
	r.pos += 4
	return rune(n)
}

// canonicalNumber writes a decimal as an integer without trailing zeros and an exponent: 1.50 is 15e-1.
func canonicalNumber(text string) string {
	number, negative := strings.CutPrefix(text, "-")
	mantissa, exponentText, _ := strings.Cut(strings.ToLower(number), "e")
	exponent, err := strconv.ParseInt(exponentText, 10, 64)
	if err != nil && exponentText != "" {
		return text // an exponent of more than 18 digits: only the same text is equal
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	significant := strings.TrimRight(digits, "0")
	if significant == "" {
		return "0"
	}
	exponent += int64(len(digits) - len(significant) - len(fraction))
	sign := ""
	if negative {
		sign = "-"
	}
	return sign + significant + "e" + strconv.FormatInt(exponent, 10)
}
