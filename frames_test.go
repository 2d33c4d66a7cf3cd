package vehicle

import (
	"fmt"
	"sync"
	"testing"
)

func TestFrames(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 1, 2, 3, 1 << 10, 1<<10 + 1, 4 << 10, 4<<10 + 1, 16 << 10, 32<<10 - 1, 32 << 10, 32<<10 + 1, 1 << 20} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			t.Parallel()
			var f frames
			first, second := f.Get(length), f.Get(length)
			for i, frame := range []*[]byte{first, second} {
				if len(*frame) != length || cap(*frame) >= length+1<<10 {
					t.Errorf("got %d bytes of %d, want %d of less than a KiB more", len(*frame), cap(*frame), length)
				}
				for k := range *frame {
					(*frame)[k] = byte(i)
				}
			}
			for k, b := range *first {
				if b != 0 {
					t.Fatalf("byte %d of two frames in use is the same", k)
				}
			}
			*first = (*first)[:length/2] // gRPC cuts padding off
			f.Put(first)
			if again := f.Get(length); len(*again) != length {
				t.Errorf("after one was given back: got %d bytes, want %d", len(*again), length)
			}
		})
	}

	t.Run("one that is not of Get's sizes is of use for what it holds", func(t *testing.T) {
		t.Parallel()
		var f frames
		odd := make([]byte, 5000)
		f.Put(&odd)
		for _, length := range []int{5120, 4096, 5000, 8192} {
			if frame := f.Get(length); len(*frame) != length {
				t.Errorf("got %d bytes, want %d", len(*frame), length)
			}
		}
		nothing := []byte(nil)
		f.Put(&nothing)
	})

	t.Run("a frame in use is nobody else's", func(t *testing.T) {
		t.Parallel()
		var f frames
		var wg sync.WaitGroup
		for user := range 8 {
			wg.Go(func() {
				for length := 1; length < 9000; length += 7 {
					frame := f.Get(length)
					for i := range *frame {
						(*frame)[i] = byte(user)
					}
					for i, b := range *frame {
						if b != byte(user) {
							t.Errorf("byte %d of %d: got that of %d, want %d", i, length, b, user)
							return
						}
					}
					f.Put(frame)
				}
			})
		}
		wg.Wait()
	})
}
