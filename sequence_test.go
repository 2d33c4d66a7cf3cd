package vehicle

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovd-go/vehicle/internal/jsonscan"
)

// chunks makes one chunk for each number; a number below -100 ends it: -(100+n) is the final chunk n.
func chunks(numbers ...int) []Chunk {
	made := make([]Chunk, len(numbers))
	for i, n := range numbers {
		if n <= -100 {
			n, made[i].Final = -n-100, true
		}
		made[i].Seq = int32(n)
		made[i].Payload = json.RawMessage(fmt.Sprint(n))
	}
	return made
}

func final(n int) int { return -100 - n }

func TestSequencer(t *testing.T) {
	t.Parallel()
	type attempt struct {
		in  []Chunk
		eof bool // the server ended the stream with OK
	}
	cut := func(in ...int) attempt { return attempt{in: chunks(in...)} }
	whole := func(in ...int) attempt { return attempt{in: chunks(in...), eof: true} }
	other := func(a attempt, at int, payload string) attempt {
		a.in[at].Payload = json.RawMessage(payload)
		return a
	}
	tests := map[string]struct {
		window   int // 0: 4
		mode     ResumeMode
		attempts []attempt
		want     []int32
		replayed int
		err      error
		text     string // in it
	}{
		"an answer in order from 0 is passed on":                        {attempts: []attempt{whole(0, 1, final(2))}, want: []int32{0, 1, 2}},
		"an answer in order from 1 is passed on":                        {attempts: []attempt{whole(1, 2, final(3))}, want: []int32{1, 2, 3}},
		"an answer of one chunk is passed on":                           {attempts: []attempt{whole(final(0))}, want: []int32{0}},
		"an answer from 5 has a gap before it":                          {attempts: []attempt{whole(5, 6, final(7))}, err: ErrSequence},
		"a 0 after a first 1 is out of sequence":                        {attempts: []attempt{whole(1, 0, final(2))}, want: []int32{1}, err: ErrSequence},
		"a negative number is out of sequence":                          {attempts: []attempt{whole(0, -1)}, want: []int32{0}, err: ErrSequence, text: "chunk number -1 is negative"},
		"a chunk that comes twice is dropped and counted":               {attempts: []attempt{whole(0, 1, 1, 0, final(2))}, want: []int32{0, 1, 2}, replayed: 2},
		"a chunk that waits and comes again is dropped and counted":     {attempts: []attempt{whole(0, 2, 2, 1, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 1},
		"chunks shuffled inside the window are put in order":            {attempts: []attempt{whole(0, 3, 4, 2, 1, final(5))}, want: []int32{0, 1, 2, 3, 4, 5}},
		"a reversed answer from 0 is put in order":                      {attempts: []attempt{whole(final(3), 2, 1, 0)}, want: []int32{0, 1, 2, 3}},
		"a reversed answer from 1 is put in order when it ends":         {attempts: []attempt{whole(final(4), 3, 2, 1)}, want: []int32{1, 2, 3, 4}},
		"a shuffled answer from 1 is settled when the window is full":   {attempts: []attempt{whole(2, 3, 4, 5, 1, final(6))}, want: []int32{1, 2, 3, 4, 5, 6}},
		"one that waited for a 0 is settled when the window is full":    {attempts: []attempt{whole(2, 1, 3, 4, 5, final(6))}, want: []int32{1, 2, 3, 4, 5, 6}},
		"one that was settled so may be replayed":                       {attempts: []attempt{cut(2, 3, 4, 5, 1), whole(1, 2, 3, 4, 5, final(6))}, want: []int32{1, 2, 3, 4, 5, 6}, replayed: 5},
		"chunks shuffled beyond the window are out of sequence":         {attempts: []attempt{whole(0, 2, 3, 4, 5, 6, 1)}, want: []int32{0}, err: ErrSequence},
		"without a window a chunk ahead is out of sequence":             {window: -1, attempts: []attempt{whole(0, 2, 1)}, want: []int32{0}, err: ErrSequence},
		"a gap that is open at the end is out of sequence":              {attempts: []attempt{whole(0, 1, final(3))}, want: []int32{0, 1}, err: ErrSequence},
		"an end without a final chunk is incomplete":                    {attempts: []attempt{whole(0, 1)}, want: []int32{0, 1}, err: ErrIncomplete},
		"an end without any chunk is incomplete":                        {attempts: []attempt{whole()}, err: ErrIncomplete},
		"what comes after the final chunk does not matter":              {attempts: []attempt{whole(0, 3, final(1), 2)}, want: []int32{0, 1}},
		"what waits behind the final chunk does not matter":             {attempts: []attempt{whole(0, 2, final(1))}, want: []int32{0, 1}},
		"nor does what fills the window behind it":                      {window: 2, attempts: []attempt{whole(3, final(1), 2)}, want: []int32{1}},
		"a replay from 0 is dropped, and the answer goes on":            {attempts: []attempt{cut(0, 1), whole(0, 1, 2, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 2},
		"a replay from 1 is dropped, and the answer goes on":            {attempts: []attempt{cut(1, 2), whole(1, 2, final(3))}, want: []int32{1, 2, 3}, replayed: 2},
		"a server that resumes where it was asked to replays nothing":   {attempts: []attempt{cut(0, 1), whole(2, final(3))}, want: []int32{0, 1, 2, 3}},
		"what waited when the link broke comes again":                   {attempts: []attempt{cut(0, 2, 3), whole(0, 1, 2, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 1},
		"three broken attempts make one answer":                         {attempts: []attempt{cut(0), cut(0, 1), cut(2), whole(0, 1, 2, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 4},
		"a replay that broke off before it brought news is dropped":     {attempts: []attempt{cut(0, 1, 2), cut(0), whole(0, 1, 2, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 4},
		"a shuffled replay is compared in order":                        {attempts: []attempt{cut(0, 1, 2), whole(1, 0, 3, 2, final(4))}, want: []int32{0, 1, 2, 3, 4}, replayed: 3},
		"a first attempt without chunks leaves the beginning open":      {attempts: []attempt{cut(), whole(1, final(2))}, want: []int32{1, 2}},
		"a replay with another payload has diverged":                    {attempts: []attempt{cut(0, 1), other(whole(0, 1, final(2)), 0, `"other"`)}, want: []int32{0, 1}, replayed: 2, err: ErrReplayDiverged, text: "the 2 chunks sent again"},
		"a shuffled replay with another payload has diverged":           {attempts: []attempt{cut(0, 1, 2), other(whole(1, 0, 3, 2, final(4)), 0, `"other"`)}, want: []int32{0, 1, 2}, replayed: 3, err: ErrReplayDiverged},
		"a replay that diverged in its last part passes nothing on":     {attempts: []attempt{cut(0, 1, 2), other(whole(0, 1, 2, final(3)), 2, `"other"`)}, want: []int32{0, 1, 2}, replayed: 3, err: ErrReplayDiverged},
		"a replay that ends earlier has diverged":                       {attempts: []attempt{cut(0, 1, 2), whole(0, final(1))}, want: []int32{0, 1, 2}, replayed: 2, err: ErrReplayDiverged},
		"a replay that ends with OK before its final chunk":             {attempts: []attempt{cut(0, 1, 2), whole(0, 1)}, want: []int32{0, 1, 2}, replayed: 2, err: ErrIncomplete},
		"a replay shuffled beyond the window is out of sequence":        {window: 1, attempts: []attempt{cut(0, 1, 2), whole(2, 1, 0, final(3))}, want: []int32{0, 1, 2}, err: ErrSequence},
		"a replay from 1 of an answer from 0 has a gap":                 {attempts: []attempt{cut(0, 1, 2), whole(1, 2, final(3))}, want: []int32{0, 1, 2}, err: ErrSequence},
		"a replay from 0 of an answer from 1 is out of sequence":        {attempts: []attempt{cut(1, 2), whole(0, 1, final(2))}, want: []int32{1, 2}, err: ErrSequence},
		"a resumed answer that goes back cannot be verified":            {attempts: []attempt{cut(0, 1), whole(2, 1, final(3))}, want: []int32{0, 1, 2}, err: ErrReplayDiverged},
		"a resumed answer that goes back is trusted where that is said": {mode: ResumeTrust, attempts: []attempt{cut(0, 1), whole(2, 1, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 1},
		"a replay with another payload is trusted where that is said":   {mode: ResumeTrust, attempts: []attempt{cut(0, 1), other(whole(0, 1, final(2)), 0, `"other"`)}, want: []int32{0, 1, 2}, replayed: 2},
		"a trusted answer may overlap with what was delivered":          {mode: ResumeTrust, attempts: []attempt{cut(0, 1, 2), whole(1, 2, final(3))}, want: []int32{0, 1, 2, 3}, replayed: 2},
		"an overlap out of order is trusted too":                        {mode: ResumeTrust, attempts: []attempt{cut(0, 1, 2), whole(2, 4, 1, 3, final(5))}, want: []int32{0, 1, 2, 3, 4, 5}, replayed: 2},
		"a trusted replay may leave out what was delivered":             {mode: ResumeTrust, attempts: []attempt{cut(0, 1, 2), whole(0, 2, 3, final(4))}, want: []int32{0, 1, 2, 3, 4}, replayed: 2},
		"a trusted replay may be shuffled beyond the window":            {mode: ResumeTrust, attempts: []attempt{cut(0, 1, 2, 3, 4, 5, 6), whole(0, 2, 3, 4, 5, 6, 1, final(7))}, want: []int32{0, 1, 2, 3, 4, 5, 6, 7}, replayed: 7},
		"a trusted replay from 0 of an answer from 1 is none":           {mode: ResumeTrust, attempts: []attempt{cut(1, 2), whole(0, 1, final(2))}, want: []int32{1, 2}, err: ErrSequence},
		"a trusted replay that ends earlier is incomplete":              {mode: ResumeTrust, attempts: []attempt{cut(0, 1, 2), whole(0, final(1))}, want: []int32{0, 1, 2}, replayed: 2, err: ErrIncomplete},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			window := 4
			if tt.window != 0 {
				window = max(tt.window, 0)
			}
			var s sequencer
			s.init(window, tt.mode)
			got, err := play(&s, func(yield func([]Chunk, bool) bool) {
				for _, a := range tt.attempts {
					if !yield(a.in, a.eof) {
						return
					}
				}
			})
			var numbers []int32
			for _, c := range got {
				numbers = append(numbers, c.Seq)
			}
			if diff := cmp.Diff(tt.want, numbers); diff != "" {
				t.Errorf("chunks passed on (-want +got):\n%s", diff)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("error: got %v, want %v", err, tt.err)
			}
			if tt.text != "" && !strings.Contains(fmt.Sprint(err), tt.text) {
				t.Errorf("error: got %v, want %q in it", err, tt.text)
			}
			if s.replayed != tt.replayed {
				t.Errorf("replayed: got %d, want %d", s.replayed, tt.replayed)
			}
			if complete := tt.err == nil; s.complete != complete {
				t.Errorf("complete: got %t, want %t", s.complete, complete)
			}
		})
	}
}

// play feeds attempts to s as the receiver does.
func play(s *sequencer, attempts func(yield func(in []Chunk, eof bool) bool)) (got []Chunk, _ error) {
	for in, eof := range attempts {
		s.restart()
		for _, c := range in {
			var err *Error
			_, hash := jsonscan.Hash(s.seed, c.Payload)
			if got, err = s.accept(&c, hash, got); err != nil {
				return got, err
			}
			if s.complete {
				return got, nil
			}
		}
		if eof {
			var err *Error
			if got, err = s.end(got); err != nil {
				return got, err
			}
			return got, nil
		}
	}
	return got, nil
}

// FuzzSequencer holds the sequencer to its invariants, whatever comes in and wherever the link breaks: what is passed on
// counts up by one from 0 or 1, it is complete or there is an error once the server ended the stream, and no more than
// the window waits.
func FuzzSequencer(f *testing.F) {
	const cut, eof, last = 0xff, 0xfe, 0x80
	f.Add([]byte{0, 1, 2 | last, eof}, uint8(4), uint8(0))
	f.Add([]byte{1, 2, cut, 1, 2, 3 | last, eof}, uint8(4), uint8(0))
	f.Add([]byte{3, 2, 1, 0, 4 | last, eof}, uint8(4), uint8(1))
	f.Add([]byte{0, 1, cut, 2, 0, 1, eof}, uint8(2), uint8(0))
	f.Add([]byte{5, 6, 7, 8, 9, eof}, uint8(3), uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, window, mode uint8) {
		var s sequencer
		s.init(int(window), ResumeMode(mode%3))
		s.restart()
		var got []Chunk
		var failure *Error
		ended := false
		for _, b := range script {
			if failure != nil || s.complete || ended {
				break
			}
			switch b {
			case cut:
				s.restart()
			case eof:
				got, failure = s.end(got)
				ended = true
			default:
				c := Chunk{Seq: int32(b &^ last), Final: b&last != 0, Payload: json.RawMessage("0")}
				got, failure = s.accept(&c, 0, got)
			}
			if len(s.held) > int(window) {
				t.Fatalf("%d chunks wait, with a window of %d", len(s.held), window)
			}
		}
		for i, c := range got {
			if want := got[0].Seq + int32(i); c.Seq != want || got[0].Seq > 1 {
				t.Fatalf("chunk %d of the answer has number %d; the first has %d", i, c.Seq, got[0].Seq)
			}
			if c.Final != (i == len(got)-1 && s.complete) {
				t.Fatalf("chunk %d of %d: final %t, and the answer complete: %t", i, len(got), c.Final, s.complete)
			}
		}
		if ended && s.complete == (failure != nil) {
			t.Fatalf("the stream has ended: complete %t, error %v", s.complete, failure)
		}
		if s.count != len(got) {
			t.Fatalf("count: got %d, want %d", s.count, len(got))
		}
	})
}
