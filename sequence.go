package vehicle

import (
	"fmt"
	"hash/maphash"
	"math/bits"
)

// sequencer turns the chunks of one command's attempts, as they come in, into one answer: each chunk
// once, in order. It holds the reorder window and compares replays. It knows nothing of time or of gRPC.
type sequencer struct {
	window int
	mode   ResumeMode

	// The answer so far.
	base     int64 // its first number, 0 or 1; unknown before the first chunk
	next     int64 // the number that is wanted next
	count    int   // chunks passed on
	replayed int   // chunks that came again
	sum      uint64
	seed     maphash.Seed // of the hashes that accept is given
	complete bool         // the final chunk has been passed on

	// The current attempt.
	begun     bool  // it is known where it begins
	from      int64 // where it begins: the answer's base, or next
	at        int64 // the number that it brings next
	replaySum uint64
	held      map[int64]heldChunk // ahead of at
}

func (s *sequencer) init(window int, mode ResumeMode) {
	s.window, s.mode, s.seed = window, mode, maphash.MakeSeed()
}

// restart prepares for the next attempt's chunks.
func (s *sequencer) restart() {
	s.begun, s.replaySum = false, 0
	clear(s.held)
}

// accept takes a chunk as it came in, with the hash of its payload, and appends to ready those that are now in order.
func (s *sequencer) accept(c *Chunk, hash uint64, ready []Chunk) ([]Chunk, *Error) {
	n := int64(c.Seq)
	if n < 0 {
		return ready, sequenceError("chunk number %d is negative", n)
	}
	if !s.begun {
		s.locate(n)
	}
	switch {
	case !s.begun || n > s.at:
		return s.hold(n, c, hash, ready)
	case n < s.at:
		return ready, s.drop(n)
	}
	return s.pass(c, hash, ready)
}

// locate finds out where the attempt begins, if n tells. A first attempt begins at 0, or at 1 where a
// chunk numbered 1 is the first to come; when others came before it, a 0 may still be on its way. A later one begins where
// it was asked to, or at the answer's beginning. Of one that is trusted what was delivered does not count, whatever of it comes.
func (s *sequencer) locate(n int64) {
	switch {
	case s.count == 0 && (n == 0 || n == 1 && len(s.held) == 0):
		s.begin(n)
	case s.count > 0 && (n == s.next || s.mode == ResumeTrust):
		s.begin(s.next)
	case s.count > 0 && n < s.next:
		s.begin(s.base)
	}
}

func (s *sequencer) begin(n int64) {
	if s.count == 0 {
		s.base, s.next = n, n
	}
	s.begun, s.from, s.at = true, n, n
}

// heldChunk is a chunk that waits for those before it.
type heldChunk struct {
	Chunk
	hash uint64
}

// hold keeps a chunk that is ahead.
func (s *sequencer) hold(n int64, c *Chunk, hash uint64, ready []Chunk) ([]Chunk, *Error) {
	if _, twice := s.held[n]; twice {
		s.replayed++
		return ready, nil
	}
	if len(s.held) >= s.window {
		_, one := s.held[1]
		if s.begun || n != 1 && !one {
			return ready, sequenceError("chunk %d came where %s was wanted, and %s already (see WithReorderWindow)", n, s.wanted(), s.waiting())
		}
		s.begin(1) // there is no room to wait for a 0 any longer
		var err *Error
		if ready, err = s.release(ready); err != nil || s.complete {
			return ready, err
		}
		return s.accept(c, hash, ready)
	}
	if s.held == nil {
		s.held = make(map[int64]heldChunk)
	}
	s.held[n] = heldChunk{*c, hash}
	return ready, nil
}

// drop counts a chunk that came before.
func (s *sequencer) drop(n int64) *Error {
	switch {
	case n >= s.from:
		s.replayed++
		return nil
	case n < s.base:
		return sequenceError("chunk %d came after the answer had begun with chunk %d", n, s.base)
	case s.mode == ResumeVerified:
		// The attempt began where it was asked to and then went back: nothing tells whether it is the same answer.
		return newError(ErrReplayDiverged, fmt.Sprintf("chunk %d came from an answer that had resumed at %d", n, s.from), nil)
	default:
		s.replayed++
		return nil
	}
}

// pass takes the chunk that the attempt was to bring next, and what has waited for it.
func (s *sequencer) pass(c *Chunk, hash uint64, ready []Chunk) ([]Chunk, *Error) {
	ready, err := s.passOne(c, hash, ready)
	if err != nil {
		return ready, err
	}
	return s.release(ready)
}

// passOne is pass without what has waited.
func (s *sequencer) passOne(c *Chunk, hash uint64, ready []Chunk) ([]Chunk, *Error) {
	if s.at < s.next {
		if err := s.compare(c, hash); err != nil {
			return ready, err
		}
	} else {
		if s.mode == ResumeVerified {
			s.sum = mix(s.sum, c, hash)
		}
		s.next++
		s.count++
		s.complete = c.Final
		ready = append(ready, *c)
	}
	s.at++
	return ready, nil
}

// release passes the held chunks that are in order now.
func (s *sequencer) release(ready []Chunk) (_ []Chunk, err *Error) {
	for len(s.held) > 0 && !s.complete { // nearly never
		c, ok := s.held[s.at]
		if !ok {
			break
		}
		delete(s.held, s.at)
		if ready, err = s.passOne(&c.Chunk, c.hash, ready); err != nil {
			return ready, err
		}
	}
	return ready, nil
}

// compare takes a chunk of the part that was passed on before.
func (s *sequencer) compare(c *Chunk, hash uint64) *Error {
	s.replayed++
	s.replaySum = mix(s.replaySum, c, hash)
	last := int64(c.Seq) == s.next-1
	if c.Final || last && s.replaySum != s.sum {
		return newError(ErrReplayDiverged, fmt.Sprintf("the %s sent again are not those that were delivered: the vehicle ran the command a second time",
			count(int(s.at-s.base)+1, "chunk")), nil)
	}
	return nil
}

// mix adds a chunk to a running hash. The vehicle's timestamp is left out: it tells when, not what.
func mix(sum uint64, c *Chunk, hash uint64) uint64 {
	x := hash ^ uint64(uint32(c.Seq))<<1 //nolint:gosec // G115: never negative here
	if c.Final {
		x ^= 1
	}
	return (bits.RotateLeft64(sum, 25) ^ x) * 0x9E3779B97F4A7C15 // the golden ratio: an odd multiplier that mixes well
}

// end is told that the server ended the stream with OK.
func (s *sequencer) end(ready []Chunk) ([]Chunk, *Error) {
	if _, one := s.held[1]; one && !s.begun { // shuffled, and no 0 has come
		s.begin(1)
		var err *Error
		if ready, err = s.release(ready); err != nil {
			return ready, err
		}
	}
	switch {
	case s.complete:
		return ready, nil
	case len(s.held) > 0:
		return ready, sequenceError("the answer ended where %s was wanted, and %s", s.wanted(), s.waiting())
	default:
		return ready, newError(ErrIncomplete, "the answer ended normally, without a final chunk", nil)
	}
}

func (s *sequencer) wanted() string {
	switch {
	case s.begun:
		return fmt.Sprintf("chunk %d", s.at)
	case s.count > 0:
		return fmt.Sprintf("chunk %d", s.next)
	default:
		return "chunk 0 or 1"
	}
}

func (s *sequencer) waiting() string {
	return count(len(s.held), "later chunk") + " waited"
}

func sequenceError(format string, args ...any) *Error {
	return newError(ErrSequence, fmt.Sprintf(format, args...), nil)
}
