package within_test

import (
	"testing"

	"github.com/sovd-go/vehicle/internal/within"
)

func TestInside(t *testing.T) {
	t.Parallel()
	if within.Inside() {
		t.Error("Inside outside of a sink: got true, want false")
	}
	for _, depth := range []int{0, 1, 63, 64, 65, 500} {
		got := false
		_ = within.Sink(func() error { got = deep(depth); return nil })
		if !got {
			t.Errorf("Inside %d calls below a sink: got false, want true", depth)
		}
		if deep(depth) {
			t.Errorf("Inside %d calls deep, outside of a sink: got true, want false", depth)
		}
	}
}

//go:noinline
func deep(n int) bool {
	if n == 0 {
		return within.Inside()
	}
	return deep(n-1) || false
}
