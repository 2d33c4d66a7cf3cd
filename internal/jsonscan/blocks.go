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
	quote     uint64
	between   uint64 // from each odd quote to before the next
	backslash uint64

	open, closing uint64 // { or [, } or ]
	colon, comma  uint64
	space         uint64
	control       uint64

	digit, zero, point uint64
}

// windowBlocks is how many blocks are classified at once.
const windowBlocks = 4

// blocksDepth is how deep a text may be nested for scanBlocks.
const blocksDepth = 63

// scanBlocks is Scan, 64 characters at a time. Invalid means that it cannot tell: it knows neither what is wrong, nor texts that
// are nested more than 63 deep.
//
// What may follow what, and what a number is, is found out for all tokens of a block at once, from masks with a bit
// where a token begins or ends:
//
//   - a value follows a colon, a comma or an opening bracket, and after the first two there is one;
//   - nothing else follows an opening bracket but a closing one;
//   - a colon follows a key: a string that does not follow a colon.
//
// What is left are the words, and the brackets: they come in pairs, and between two of them, what does not follow a
// colon is a key if that is in an object, and otherwise is not. There are few branches, since what comes next is for
// nobody to foretell.
func scanBlocks(text []byte) Verdict {
	var (
		window [windowBlocks]block
		ahead  []block // of window, classified and not looked at

		// Of the blocks before: all ones, the next one begins in a string; 1, its first character is escaped, part of a number or
		// word that has begun, or of a key.
		quoted, escaped, inScalar, inKey uint64
		// 1: its first token follows an opening bracket, a colon or comma, a colon, a key. A text is a value, like what follows a comma.
		opened, separated, coloned, keyed uint64 = 0, 1, 0, 0

		// The brackets that are open, and in the lowest bits whether each is an object's.
		depth, objects uint64

		high  uint32 // not 0: a character is not ASCII
		plain = true
	)
	for base := 0; base < len(text); base += blockLen {
		if len(ahead) == 0 {
			n, other := fill(&window, text[base:])
			ahead, high = window[:n], high|other
		}
		b := &ahead[0]
		ahead = ahead[1:]

		quote, between := b.quote, b.between
		if quoted&^(quote|b.backslash|b.control) == ^uint64(0) && escaped == 0 { // all of it is in a string
			continue
		}
		if b.backslash|escaped != 0 {
			var now uint64
			if now, escaped = escapes(text, base, b.backslash, escaped, &plain); now == 0 {
				return Invalid
			}
			quote &^= now
			between = toggle(quote)
		}
		inside := between ^ quoted           // of a string: from its first quote to before its last one
		quoted = uint64(int64(inside) >> 63) //nolint:gosec // G115: all bits are the highest one
		outside := ^(inside | quote)

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
			b.control&inside

		// In an object, what does not follow a colon must not be anything but a key; elsewhere, nothing is one.
		notInObject := (scalars|open)&^afterColon | afterKey&^colon

		if scalars != 0 {
			if inScalar != 0 { // the last one goes on in the next block
				if last := bits.Len64(scalars) - 1; !isScalar(text, base+last, &plain) {
					return Invalid
				}
			}
			numbers := scalars & b.digit
			if !usualNumbers(b, numbers, scalar) {
				for at := numbers; at != 0; at &= at - 1 {
					if !isScalar(text, base+bits.TrailingZeros64(at), &plain) {
						return Invalid
					}
				}
			}
			for at := scalars &^ numbers; at != 0; at &= at - 1 {
				i := bits.TrailingZeros64(at)
				if n := wordLen(text[base+i:]); (n == 0 || scalar>>(i+n)&1 != 0) && !isScalar(text, base+i, &plain) {
					return Invalid
				}
			}
		}

		done := uint64(0) // the characters that have been looked at
		for brackets := open | closing; brackets != 0; brackets &= brackets - 1 {
			i, upTo := bits.TrailingZeros64(brackets), brackets^(brackets-1)
			wrong |= misplaced(depth, objects, notInObject, colon, comma) & upTo &^ done
			opens, object := open>>i&1, uint64(text[base+i]>>5)&1 // { and } are an object's, [ and ] are not
			wrong |= (objects&1 ^ object) &^ opens
			objects = (objects<<1|object)&-opens | objects>>1&(opens-1)
			depth += opens<<1 - 1
			wrong |= depth >> 6 // too many, or less than none
			done = upTo
		}
		wrong |= misplaced(depth, objects, notInObject, colon, comma) &^ done
		if wrong != 0 {
			return Invalid
		}
	}
	switch {
	case quoted|opened|separated|depth != 0,
		high != 0 && !utf8.Valid(text):
		return Invalid
	case plain:
		return Plain
	default:
		return Valid
	}
}

// misplaced is what cannot stand where it does, by the innermost bracket that is open.
func misplaced(depth, objects, notInObject, colon, comma uint64) uint64 {
	inObject, outermost := objects&1, (depth-1)>>63 // 1: it is so
	return notInObject&-inObject | colon&(inObject-1) | comma&-outermost
}

// fill classifies what text begins with, and returns how many blocks that is, and 0 where all of them are ASCII.
func fill(window *[windowBlocks]block, text []byte) (n int, high uint32) {
	n = min(len(text)/blockLen, windowBlocks)
	if n > 0 {
		high = classify(&text[0], &window[0], n)
	}
	if rest := text[n*blockLen:]; n < windowBlocks && len(rest) > 0 {
		last := [blockLen]byte([]byte("                                                                "))
		copy(last[:], rest)
		high |= classify(&last[0], &window[n], 1)
		n++
	}
	return n, high
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

// usualNumbers says whether all numbers of a block that begin at the bits of starts, with a digit, are usual ones, without
// exponents, which end where something else than a number or word does.
func usualNumbers(b *block, starts, scalar uint64) bool {
	// To add a digit to those that follow carries over to where they end.
	ends := (starts + b.digit) &^ b.digit
	fractions := ends & b.point << 1
	ends = ends&^b.point | (fractions&b.digit+b.digit)&^b.digit
	return fractions&^b.digit|starts&b.zero<<1&b.digit|ends&scalar == 0
}

// wordLen is the length of the word that text begins with; 0: it is none, or ends the text.
func wordLen(text []byte) int {
	if len(text) < len("false") {
		return 0
	}
	word := &words[text[0]>>1&7] // which tells t, f and n apart
	if text[0] != word.first || binary.LittleEndian.Uint32(text[word.more:]) != word.text {
		return 0
	}
	return 4 + word.more
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
	0:            {first: 't'}, // no word: the character is another one
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
