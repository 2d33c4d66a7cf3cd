package vehicle

import (
	"testing"
	"testing/synctest"
)

func TestAQueueHoldsSoMuchAndNoMore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		payload int // bytes
		want    int // chunks
	}{
		{"chunks without payload", 0, 4096},
		{"small chunks", 200, 4096},
		{"chunks of 1 KiB", 1 << 10, 4096},
		{"chunks of 1 MiB", 1 << 20, 4},
		{"chunks of a little more than 1 MiB", 1<<20 + 1, 4},
		{"one chunk that is larger than all it may hold", 8 << 20, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var q queue
				q.init()
				one := []Chunk{{Payload: make([]byte, tt.payload)}}
				go func() {
					for q.put(one, false, nil) {
					}
					q.put(nil, true, nil)
				}()
				for _, when := range []string{"first", "after all was taken"} {
					synctest.Wait()
					if got, err := q.take(); len(got) != tt.want || err != nil {
						t.Errorf("%s: took %d chunks, %v, want %d", when, len(got), err, tt.want)
					}
				}
				q.stop()
			})
		})
	}
}
