package jsonscan

import (
	"encoding/binary"
	"math/bits"
)

// specials finds the characters that a string does not simply contain: a quote, a backslash, a control character, or a
// part of a character that is not ASCII. Where the machine can look at many bytes at once, it does so for a window of the
// text, and remembers what it saw.
type specials struct {
	text  []byte
	base  int  // where the window begins; a multiple of 64
	size  uint // of the window
	masks [windowBlocks]uint64
}

// The window is as large as what a chunk's payload usually is, or larger.
const (
	blockLen     = 64
	windowBlocks = 16
)

// near has a bit set for each special character from text[i] to the end of its block; none where that is not known.
func (s *specials) near(i int) uint64 {
	k := uint(i - s.base)
	if k >= s.size {
		return 0
	}
	return s.masks[k/blockLen%windowBlocks] >> (k % blockLen)
}

// search returns where the first special character from text[i] on is; len(text) where there is none.
func (s *specials) search(i int) int {
	if !canClassify || len(s.text) < blockLen {
		return nextSpecial(s.text, i)
	}
	for i < len(s.text) {
		if uint(i-s.base) >= s.size {
			s.look(i)
		}
		if mask := s.near(i); mask != 0 {
			return i + bits.TrailingZeros64(mask)
		}
		i = (i/blockLen + 1) * blockLen
	}
	return len(s.text)
}

// look moves the window to where text[i] is.
func (s *specials) look(i int) {
	s.base = i / blockLen * blockLen
	rest := s.text[s.base:]
	n := min(len(rest)/blockLen, windowBlocks)
	if n > 0 {
		classify(&rest[0], n, &s.masks[0])
	}
	if rest = rest[n*blockLen:]; n < windowBlocks && len(rest) > 0 {
		last := [blockLen]byte([]byte(spaces))
		copy(last[:], rest)
		classify(&last[0], 1, &s.masks[n])
		n++
	}
	s.size = uint(n * blockLen)
}

// spaces stand behind the text in its last block: they are not special.
const spaces = "                                                                "

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
