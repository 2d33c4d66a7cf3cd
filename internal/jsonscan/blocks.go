package jsonscan

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// blockLen is how many characters are looked at together: as many as a mask has bits.
const blockLen = 64

// block is what 64 characters are, by their bytes alone: a bit for each, the first in the lowest one.
type block struct {
	quote, backslash uint64
	open, closing    uint64 // { or [, } or ]
	colon, comma     uint64
	space            uint64
	low              uint64 // control characters, and what is not ASCII
	high             uint64 // what is not ASCII
	digit            uint64
}

// windowBlocks is how many blocks are classified at once.
const windowBlocks = 8

// blocksDepth is how deep a text may be nested for scanBlocks.
const blocksDepth = 32

// scanBlocks is Scan, 64 characters at a time. Invalid means that it cannot tell: it knows neither what is wrong, nor texts that
// are nested more than 32 deep.
//
// No token is looked at for itself but brackets, numbers and words. What may follow what is found out for all tokens of a block
// at once, from masks with a bit where a token begins or ends:
//
//   - a value follows a colon, a comma or an opening bracket, and after the first two there is one;
//   - nothing else follows an opening bracket but a closing one;
//   - a colon follows a key: a string that does not follow a colon.
//
// What is left are the brackets: they come in pairs, an array has no colon, and an object one more than commas.
func scanBlocks(text []byte) Verdict {
	var (
		window [windowBlocks]block
		ahead  []block // of window, classified and not looked at

		// Of the blocks before: all ones, the next one begins in a string; 1, its first character is escaped, part of a number or
		// word that has begun, or of a key.
		quoted, escaped, inScalar, inKey uint64
		// 1: its first token follows an opening bracket, a colon or comma, a colon, a key. A text is a value, like what follows a comma.
		opened, separated, coloned, keyed uint64 = 0, 1, 0, 0

		nest  containers
		high  uint64
		plain = true
	)
	for base := 0; base < len(text); base += blockLen {
		if len(ahead) == 0 {
			ahead = window[:fill(&window, text[base:])]
		}
		b := &ahead[0]
		ahead = ahead[1:]

		quote := b.quote
		if quoted&^(quote|b.backslash|b.low) == ^uint64(0) && escaped == 0 { // all of it is in a string
			continue
		}
		if b.backslash|escaped != 0 {
			var now uint64
			if now, escaped = escapes(text, base, b.backslash, escaped, &plain); now == 0 {
				return Invalid
			}
			quote &^= now
		}
		inside := toggle(quote) ^ quoted     // of a string: from its first quote to before its last one
		quoted = uint64(int64(inside) >> 63) //nolint:gosec // G115: all bits are the highest one
		outside := ^(inside | quote)
		high |= b.high

		open, closing, colon, comma, space := b.open&outside, b.closing&outside, b.colon&outside, b.comma&outside, b.space&outside
		scalar := outside &^ (open | closing | colon | comma | space)
		scalars := scalar &^ (scalar<<1 | inScalar) // where numbers and words begin
		inScalar = scalar >> 63
		values := quote&inside | scalars | open

		var afterOpen, afterSeparator, afterColon, afterKey, passed uint64
		if space == 0 {
			afterOpen, opened = open<<1|opened, open>>63
			afterSeparator, separated = (colon|comma)<<1|separated, (colon|comma)>>63
			afterColon, coloned = colon<<1|coloned, colon>>63
			// To add a key's beginning to its characters carries over to its end.
			passed, inKey = bits.Add64(inside, quote&inside&^afterColon, inKey)
			passed = passed &^ inside & quote
			afterKey, keyed = passed<<1|keyed, passed>>63
		} else {
			afterOpen, opened = follow(open, opened, space)
			afterSeparator, separated = follow(colon|comma, separated, space)
			afterColon, coloned = follow(colon, coloned, space)
			// To add a key's beginning to its characters carries over to its end.
			passed, inKey = bits.Add64(inside, quote&inside&^afterColon, inKey)
			afterKey, keyed = follow(passed&^inside&quote, keyed, space)
		}

		wrong := afterSeparator&^values |
			afterOpen&^(values|closing) |
			values&^(afterOpen|afterSeparator) |
			colon&^afterKey |
			b.low&^b.high&inside // a control character
		if wrong != 0 {
			return Invalid
		}
		for ; scalars != 0; scalars &= scalars - 1 {
			i := bits.TrailingZeros64(scalars)
			if end := usualEnd(text, base+i, i, b.digit); (end == 0 || end >= blockLen || scalar>>end&1 != 0) && !isScalar(text, base+i, &plain) {
				return Invalid
			}
		}
		for brackets := open | closing; brackets != 0; brackets &= brackets - 1 {
			bit := brackets & -brackets
			nest.count(colon&(bit-1), comma&(bit-1))
			colon, comma = colon&^(bit-1), comma&^(bit-1)
			if !nest.bracket(text[base+bits.TrailingZeros64(bit)], open&bit != 0, afterOpen&bit != 0) {
				return Invalid
			}
		}
		nest.count(colon, comma)
	}
	switch {
	case quoted|opened|separated|nest.own != 0 || nest.depth > 0,
		high != 0 && !utf8.Valid(text):
		return Invalid
	case plain:
		return Plain
	default:
		return Valid
	}
}

// fill classifies what text begins with, and returns how many blocks that is.
func fill(window *[windowBlocks]block, text []byte) int {
	if len(text) >= blockLen {
		n := min(len(text)/blockLen, windowBlocks)
		classify(&text[0], &window[0], n)
		return n
	}
	last := [blockLen]byte([]byte("                                                                "))
	copy(last[:], text)
	classify(&last[0], &window[0], 1)
	return 1
}

// follow returns where the tokens begin that follow those that end at ends, with space between them or not. The carries
// tell the same of the first token of a block.
func follow(ends, carry, space uint64) (begins, next uint64) {
	at := ends<<1 | carry
	passed, over := bits.Add64(space, at&space, 0) // the sum carries through the space, to what is behind it
	return (at | passed) &^ space, ends>>63 | over
}

// toggle sets the bits from each odd one of x to before the next.
func toggle(x uint64) uint64 {
	x ^= x << 1
	x ^= x << 2
	x ^= x << 4
	x ^= x << 8
	x ^= x << 16
	x ^= x << 32
	return x
}

// escapes returns which characters of a block are escaped, 0 where one cannot be, and whether the next block's first one is.
func escapes(text []byte, base int, backslash, carry uint64, plain *bool) (escaped, next uint64) {
	escaped = carry
	for backslash &^= escaped; backslash != 0; {
		i := bits.TrailingZeros64(backslash)
		if escapeLen(text[min(base+i+1, len(text)):], plain) == 0 {
			return 0, 0
		}
		if i == blockLen-1 {
			return escaped | 1<<63, 1 // of no use as a quote either
		}
		escaped |= 2 << i
		backslash &^= 3 << i
	}
	return escaped, 0
}

// usualEnd returns the bit where the number or word ends that begins at bit i, which is text[at]; 0: it is an unusual one, or
// reaches into the next block.
func usualEnd(text []byte, at, i int, digit uint64) int {
	if len(text)-at < len("false") {
		return 0
	}
	if digit>>i&1 == 0 {
		if text[at] != '-' {
			word := &words[text[at]>>1&7] // which tells t, f and n apart
			if word.text == 0 || text[at] != word.first || binary.LittleEndian.Uint32(text[at+word.more:]) != word.text {
				return 0
			}
			return i + 4 + word.more
		}
		i, at = i+1, at+1
	}
	n := bits.TrailingZeros64(^(digit >> i))
	if n == 0 || n > 1 && text[at] == '0' {
		return 0
	}
	if i += n; i < blockLen && at+n < len(text) && text[at+n] == '.' {
		fraction := bits.TrailingZeros64(^(digit >> (i + 1)))
		if fraction == 0 {
			return 0
		}
		i += 1 + fraction
	}
	return i
}

// words are the three, by the bits of their first character that differ.
var words = [8]struct {
	first byte
	more  int    // than four characters
	text  uint32 // the last four
}{
	't' >> 1 & 7: {'t', 0, 't' | 'r'<<8 | 'u'<<16 | 'e'<<24},
	'f' >> 1 & 7: {'f', 1, 'a' | 'l'<<8 | 's'<<16 | 'e'<<24},
	'n' >> 1 & 7: {'n', 0, 'n' | 'u'<<8 | 'l'<<16 | 'l'<<24},
}

// isScalar says whether a number or a word begins at text[i], and ends where something else begins.
func isScalar(text []byte, i int, plain *bool) bool {
	if i = scalarEnd(text, i, plain); i < 0 {
		return false
	}
	if i == len(text) {
		return true
	}
	switch text[i] {
	case ',', ']', '}', ' ', '\t', '\n', '\r':
		return true
	default:
		return false
	}
}

// containers is the arrays and objects that are open, with the colons and commas of each (both in one number, 32 bits each).
type containers struct {
	own     uint64 // of the innermost one
	objects uint64 // the lowest bit: whether that is an object
	depth   int
	outer   [blocksDepth]uint64
}

func (n *containers) count(colon, comma uint64) {
	n.own += uint64(bits.OnesCount64(colon))<<32 + uint64(bits.OnesCount64(comma)) //nolint:gosec // G115: not negative
}

// bracket enters or leaves an array or object.
func (n *containers) bracket(c byte, opens, empty bool) bool {
	object := uint64(c>>5) & 1 // of { and }, not of [ and ]
	if opens {
		if n.depth == blocksDepth {
			return false
		}
		n.outer[n.depth], n.own = n.own, 0
		n.objects = n.objects<<1 | object
		n.depth++
		return true
	}
	colons, commas := n.own>>32, n.own&(1<<32-1)
	if n.depth == 0 || object != n.objects&1 || !empty && colons != (commas+1)*object {
		return false
	}
	n.depth--
	n.own = n.outer[n.depth]
	n.objects >>= 1
	return true
}
