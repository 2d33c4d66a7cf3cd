package jsonscan

import (
	"fmt"
	"math/bits"
)

// NextSpecial asks both ways.
func NextSpecial(text []byte, i int) int {
	s := specials{text: text}
	got := s.search(i)
	if mask := s.near(i); mask != 0 && i+bits.TrailingZeros64(mask) != got {
		panic(fmt.Sprintf("%q from %d: %d, and %b near it", text, i, got, mask))
	}
	if slow := nextSpecial(text, i); slow != got {
		panic(fmt.Sprintf("%q from %d: %d at once, %d eight by eight", text, i, got, slow))
	}
	return got
}
