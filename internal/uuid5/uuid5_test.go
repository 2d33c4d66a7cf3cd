package uuid5

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestNewIsWhatPackageUUIDMakes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "0", "2147483647", "audit:command_completed", strings.Repeat("long", 100)} {
		namespace := uuid.New()
		if got, want := New(namespace, []byte(name)), uuid.NewSHA1(namespace, []byte(name)); got != want {
			t.Errorf("of %q in %s: got %s, want %s", name, namespace, got, want)
		}
	}
}
