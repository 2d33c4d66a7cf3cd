package jsonquote

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Whatever the string is, it is written as encoding/json would write it.
func FuzzAppend(f *testing.F) {
	for _, s := range []string{"", "completed", "ReadDTC", `a "quoted" word`, `back\slash`, "<a & b>", "tab\t", "\x00", "~\x7f", "é", "\u2028", "broken \xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		if got := string(Append([]byte("before "), s)) + "\n"; got != "before "+want.String() {
			t.Errorf("got %s, want %s behind what was there", got, want.String())
		}
	})
}
