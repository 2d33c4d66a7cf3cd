package jsonscan

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// scanTokens is Scan, token by token.
func scanTokens(text []byte) Verdict {
	var open nesting
	closer := byte(0) // of the innermost array or object that is open: ']' or '}'; 0: none is
	plain := true
	i := skipSpace(text, 0)
	for {
		// A value begins at text[i].
		if i >= len(text) {
			return Invalid
		}
		switch c := text[i]; c {
		case '"':
			end := stringEnd(text, i+1, &plain)
			if end < 0 {
				return Invalid
			}
			i = end
		case '{', '[':
			i = skipSpace(text, i+1)
			if closer = c + 2; !open.push(closer) { // in ASCII, brackets are two apart
				return Invalid
			}
			if i < len(text) && text[i] == closer {
				break
			}
			if c == '{' {
				if i = memberValue(text, i, &plain); i < 0 {
					return Invalid
				}
			}
			continue
		default:
			if i = scalarEnd(text, i, &plain); i < 0 {
				return Invalid
			}
		}
		// It has ended; so may what it is in.
		i = skipSpace(text, i)
		for closer != 0 && i < len(text) && text[i] == closer {
			closer = open.pop()
			i = skipSpace(text, i+1)
		}
		switch {
		case closer == 0 && i == len(text):
			if plain && open.deepest <= plainDepth {
				return Plain
			}
			return Valid
		case closer == 0 || i >= len(text) || text[i] != ',':
			return Invalid
		}
		i = skipSpace(text, i+1)
		if closer == '}' {
			if i = memberValue(text, i, &plain); i < 0 {
				return Invalid
			}
		}
	}
}

// nesting is the arrays and objects that are open.
type nesting struct {
	depth, deepest int
	objects        [plainDepth / 64]uint64 // bit n: whether what is open at depth n is an object
	deeper         []byte                  // the closers, from plainDepth on
}

func (n *nesting) push(closer byte) bool {
	switch bit := uint64(1) << (n.depth % 64); {
	case n.depth >= maxDepth:
		return false
	case n.depth >= plainDepth:
		n.deeper = append(n.deeper, closer)
	case closer == '}':
		n.objects[n.depth/64] |= bit
	default:
		n.objects[n.depth/64] &^= bit
	}
	n.depth++
	n.deepest = max(n.deepest, n.depth)
	return true
}

// pop returns the closer of what is then the innermost one.
func (n *nesting) pop() byte {
	n.depth--
	outer := n.depth - 1
	switch {
	case outer < 0:
		return 0
	case outer >= plainDepth:
		n.deeper = n.deeper[:outer-plainDepth+1]
		return n.deeper[outer-plainDepth]
	}
	n.deeper = n.deeper[:0]
	if n.objects[outer/64]>>(outer%64)&1 != 0 {
		return '}'
	}
	return ']'
}

// memberValue returns where the value of the member begins whose key does at text[i]; negative: there is none.
func memberValue(text []byte, i int, plain *bool) int {
	if i >= len(text) || text[i] != '"' {
		return -1
	}
	if i = stringEnd(text, i+1, plain); i < 0 {
		return -1
	}
	if i = skipSpace(text, i); i >= len(text) || text[i] != ':' {
		return -1
	}
	return skipSpace(text, i+1)
}

// stringEnd returns where the string ends whose first character is text[i]; negative: nowhere.
func stringEnd(text []byte, i int, plain *bool) int {
	for {
		if i = nextSpecial(text, i); i >= len(text) {
			return -1
		}
		switch c := text[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			n := escapeLen(text[i+1:], plain)
			if n == 0 {
				return -1
			}
			i += 1 + n
		case c < ' ':
			return -1
		default:
			if i = runesEnd(text, i); i < 0 {
				return -1
			}
		}
	}
}

// nextSpecial is the same for every machine, eight bytes at a time.
func nextSpecial(text []byte, i int) int {
	for ; i+8 <= len(text); i += 8 {
		if special := specialIn(binary.LittleEndian.Uint64(text[i:])); special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(text); i++ {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			return i
		}
	}
	return len(text)
}

// specialIn has the highest bit of a byte set where x has a special character. What is above the lowest of them means
// nothing.
func specialIn(x uint64) uint64 {
	const ones, highest = 0x0101010101010101, 0x8080808080808080
	quoteOrControl := (x ^ ones*2) - ones*0x21 // 2 is what tells a quote (0x22) from a space, the first after the control characters
	backslash := (x ^ ones*'\\') - ones
	return (quoteOrControl | backslash | x) & highest
}

// runesEnd returns where the characters end that are not ASCII, of which the first is text[i]; negative: they are not UTF-8.
func runesEnd(text []byte, i int) int {
	for i < len(text) && text[i] >= utf8.RuneSelf {
		_, n := utf8.DecodeRune(text[i:])
		if n == 1 {
			return -1
		}
		i += n
	}
	return i
}

// escapeLen returns how long the escape is that text begins with, behind the backslash; 0: there is none.
func escapeLen(text []byte, plain *bool) int {
	if len(text) == 0 {
		return 0
	}
	switch text[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(text) < 5 || !isHex(text[1]) || !isHex(text[2]) || !isHex(text[3]) || !isHex(text[4]) {
			return 0
		}
		*plain = false
		return 5
	default:
		return 0
	}
}

// scalarEnd returns where the number or word ends that begins at text[i]; negative: it is neither.
func scalarEnd(text []byte, i int, plain *bool) int {
	rest := text[i:]
	switch {
	case rest[0] == '-' || isDigit(rest[0]):
		return numberEnd(text, i, plain)
	case len(rest) >= 4 && (string(rest[:4]) == "true" || string(rest[:4]) == "null"):
		return i + 4
	case len(rest) >= 5 && string(rest[:5]) == "false":
		return i + 5
	default:
		return -1
	}
}

// numberEnd returns where the number ends that begins at text[i]; negative: it is none.
func numberEnd(text []byte, i int, plain *bool) int {
	if text[i] == '-' {
		i++
	}
	first := i
	if i = skipDigits(text, i); i == first || i > first+1 && text[first] == '0' {
		return -1
	}
	if i < len(text) && text[i] == '.' {
		fraction := i + 1
		if i = skipDigits(text, fraction); i == fraction {
			return -1
		}
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		*plain = false
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		exponent := i
		if i = skipDigits(text, exponent); i == exponent {
			return -1
		}
	}
	if i-first > plainNumber {
		*plain = false
	}
	return i
}

func skipDigits(text []byte, i int) int {
	for i < len(text) && isDigit(text[i]) {
		i++
	}
	return i
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && text[i] <= ' ' && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

func isDigit(c byte) bool { return c-'0' <= 9 }

func isHex(c byte) bool { return isDigit(c) || c|0x20-'a' <= 5 }
