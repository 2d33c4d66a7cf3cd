package jsonscan

import (
	"math/bits"
	"unicode/utf8"
)

// blockLen is how many characters are looked at together: as many as a mask has bits.
const blockLen = 64

// windowBlocks is how many blocks are looked at before their doubts are.
const windowBlocks = 8

// blocksDepth is how deep a text may be nested for scanBlocks.
const blocksDepth = 61

// before is what is to be known of the blocks before one.
//
//nolint:unused // lookAt is in assembly
type before struct {
	quoted uint64 // all ones: it begins in a string

	// 1: its first character is escaped, part of a number or word that has begun, or of a key.
	escaped, inScalar, inKey uint64
	// 1: its first token follows an opening bracket, a colon or comma, a colon, a key.
	opened, separated, coloned, keyed uint64

	objects uint64 // the brackets that are open, as outermost begins: in the lowest bits, 1 is an object's
	deepest uint64 // all that objects has been, one upon the other

	wrong uint64 // not 0: there was something that cannot stand where it does

	sum [2]uint64 // of all characters; it begins as a seed
}

// outermost is objects where no bracket is open: what is not in an object, behind a bit that says where they end.
const outermost = 0b10

// doubts are what lookAt leaves to be looked at: a bit for each of a block's characters, the first in the lowest one.
type doubts struct {
	scalars uint64 // numbers that are unusual or go on in the next block, words at its end, and what may be neither
	escaped uint64 // what is behind a backslash
}

// scanBlocks is Hash, 64 characters at a time. Invalid means that it cannot tell: it knows neither what is wrong, nor texts that
// are nested more than 61 deep.
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
func scanBlocks(text []byte, seed uint64) (Verdict, uint64) {
	var (
		window [windowBlocks]doubts
		before = before{separated: 1, objects: outermost, sum: [2]uint64{seed, ^seed}} // a text is a value, like what follows a comma
		high   uint32                                                                  // not 0: a character is not ASCII
		plain  = true
	)
	for base := 0; base < len(text); base += windowBlocks * blockLen {
		n, other := fill(&window, text[base:], &before)
		if high |= other; before.wrong != 0 {
			return Invalid, 0
		}
		for i := range window[:n] {
			if d := &window[i]; d.scalars|d.escaped != 0 && !d.settle(text, base+i*blockLen, &plain) {
				return Invalid, 0
			}
		}
	}
	switch {
	case before.objects != outermost,
		before.quoted|before.opened|before.separated != 0,
		bits.Len64(before.deepest) > bits.Len64(outermost)+blocksDepth,
		high != 0 && !utf8.Valid(text):
		return Invalid, 0
	case plain:
		return Plain, before.hash(len(text))
	default:
		return Valid, before.hash(len(text))
	}
}

// hash makes the sum one number: a product, whose halves depend on all of both factors' bits. The length tells space behind a text
// from that which fills its last block. It is added last: characters could make up for it in the sum.
func (b *before) hash(length int) uint64 {
	high, low := bits.Mul64(b.sum[0], b.sum[1])
	return high ^ low ^ uint64(length)<<32 //nolint:gosec // G115: a length
}

// fill looks at what text begins with, and returns how many blocks that is, and 0 where all of them are ASCII.
func fill(window *[windowBlocks]doubts, text []byte, before *before) (n int, high uint32) {
	n = min(len(text)/blockLen, windowBlocks)
	if n > 0 {
		high = lookAt(&text[0], &window[0], n, before)
	}
	if rest := text[n*blockLen:]; n < windowBlocks && len(rest) > 0 {
		last := [blockLen]byte([]byte("                                                                "))
		copy(last[:], rest)
		high |= lookAt(&last[0], &window[n], 1, before)
		n++
	}
	return n, high
}

// settle looks at the doubts of the block that begins at text[base].
func (d *doubts) settle(text []byte, base int, plain *bool) bool {
	for at := d.scalars; at != 0; at &= at - 1 {
		if !isScalar(text, base+bits.TrailingZeros64(at), plain) {
			return false
		}
	}
	for at := d.escaped; at != 0; at &= at - 1 {
		if escapeLen(text[min(base+bits.TrailingZeros64(at), len(text)):], plain) == 0 {
			return false
		}
	}
	return true
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
