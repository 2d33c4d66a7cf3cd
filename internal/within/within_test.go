package within_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sovd-go/vehicle/internal/within"
)

func TestInside(t *testing.T) {
	t.Parallel()
	if within.Inside(run) > 0 {
		t.Error("Inside outside of a sink: got some, want none")
	}
	for depth := range 200 { // the stack is looked at in parts of 64
		got := false
		_ = within.Call(func() error { got = deep(depth); return nil })
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
		return within.Inside(run) > 0
	}
	return deep(n-1) || false
}

func TestInsideOfSeveral(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{"": 0, "r": 0, "c": 1, "cc": 1, "rc": 1, "cr": 1, "rcrc": 2, "rccrc": 2, "rcr": 1, "crrc": 2, "rcrcrc": 3} {
		if got := along(path); got != want {
			t.Errorf("along %q, of runs and calls: got %d, want %d", path, got, want)
		}
	}
}

// along counts where it has come by runs and calls, the outermost first.
func along(path string) (n int) {
	switch {
	case path == "":
		return within.Inside(run)
	case path[0] == 'r':
		return run(path[1:])
	}
	_ = within.Call(func() error { n = along(path[1:]); return nil })
	return n
}

//go:noinline
func run(path string) int { return along(path) + 0 }

func TestPanics(t *testing.T) {
	t.Parallel()
	own := errors.New("its own")
	tests := map[string]struct {
		panics func()
		text   string
		is     error
	}{
		"a panic with a string does not show it":               {panics: func() { panic("secret") }, text: "with a string"},
		"a panic with an error keeps it within reach, unshown": {panics: func() { panic(own) }, text: "with a *errors.errorString", is: own},
		"a panic of the runtime's shows what it was":           {panics: func() { _ = []int{}[len(own.Error())] }, text: "index out of range"},
	}
	for name, tt := range tests {
		err := within.Call(func() error { tt.panics(); return nil })
		if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "within_test.go:") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %q and the place", name, err, tt.text)
		}
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: errors.Is: got false, want true", name)
		}
	}
}
