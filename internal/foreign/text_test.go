package foreign

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestTextMasksVINs(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"a VIN alone":                       {"WVWZZZ1JZXW000001", "[VIN]"},
		"a VIN in lower case":               {"wvwzzz1jzxw000001", "[VIN]"},
		"a VIN of digits":                   {"12345678901234567", "[VIN]"},
		"two VINs":                          {"WVWZZZ1JZXW000001,1HGCM82633A004352", "[VIN],[VIN]"},
		"a VIN in JSON":                     {`{"vin":"1HGCM82633A004352"}`, `{"vin":"[VIN]"}`},
		"a VIN in a URL":                    {"/v1/vehicles/1HGCM82633A004352/data", "/v1/vehicles/[VIN]/data"},
		"a VIN behind an underscore":        {"vin_1HGCM82633A004352", "vin_[VIN]"},
		"a VIN between other letters":       {"é1HGCM82633A004352é", "é[VIN]é"},
		"a VIN between lines":               {"a\n1HGCM82633A004352\nb", "a [VIN] b"},
		"a VIN beside a byte of no text":    {"\xff1HGCM82633A004352\xff", "\uFFFD[VIN]\uFFFD"},
		"a VIN that is cut in the text":     {"1HGCM82633 A004352", "1HGCM82633 A004352"},
		"a word of 16":                      {"1HGCM82633A00435", "1HGCM82633A00435"},
		"a word of 18":                      {"1HGCM82633A0043520", "1HGCM82633A0043520"},
		"a word of 17 with an I":            {"IHGCM82633A004352", "IHGCM82633A004352"},
		"a word of 17 with an O":            {"1HGCM82633AO04352", "1HGCM82633AO04352"},
		"a word of 17 with a Q":             {"1HGCM82633A00435Q", "1HGCM82633A00435Q"},
		"a word of 17 with an i":            {"ihgcm82633a004352", "ihgcm82633a004352"},
		"a word of 17 with an o":            {"1hgcm82633ao04352", "1hgcm82633ao04352"},
		"a word of 17 with a q":             {"1HGCM82633A00435q", "1HGCM82633A00435q"},
		"Unicode's line breaks":             {"a\u2028b\u2029c\u0085d", "a b c d"},
		"bytes that are no text":            {"a\xff\xfe\x80b", "a\uFFFDb"},
		"a UUID":                            {"123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-42d3-a456-426614174000"},
		"nothing":                           {"", ""},
		"space":                             {" \n\t ", ""},
		"a word of 17 without I is no word": {"rearrangementsxyz", "[VIN]"}, // the price: it cannot be told from one
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Text(tt.text); got != tt.want {
				t.Errorf("Text(%q): got %q, want %q", tt.text, got, tt.want)
			}
		})
	}
}

func TestTextIsCutAtItsLimit(t *testing.T) {
	t.Parallel()
	for _, r := range []string{"x", "ü", "€", "🚗"} { // of 1, 2, 3 and 4 bytes
		for bytes := maxText - 4; bytes <= maxText+4; bytes++ {
			text := strings.Repeat(".", bytes%len(r)) + strings.Repeat(r, bytes/len(r))
			got := Text(text)
			if bytes <= maxText {
				if got != text {
					t.Errorf("%d bytes of %q: got %q, want no change", bytes, r, got)
				}
				continue
			}
			kept, cut := strings.CutSuffix(got, "…")
			if !cut || !strings.HasPrefix(text, kept) || !utf8.ValidString(kept) {
				t.Errorf("%d bytes of %q: got %q, want whole runes of its beginning and an ellipsis", bytes, r, got)
			}
			if len(got) > maxText || len(got) <= maxText-len(r) {
				t.Errorf("%d bytes of %q: got %d bytes, want as many as fit in %d", bytes, r, len(got), maxText)
			}
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("vehicle WVWZZZ1JZXW000001 is offline")
	f.Add(strings.Repeat("ü", 254) + "1HGCM82633A004352 and so on")
	f.Add("line\r\nline\u2028line\x00\x7f\u009b")
	f.Add("\xff\xfe1HGCM82633A004352\x80")
	f.Add(strings.Repeat("1HGCM82633A004352", 40))
	f.Fuzz(func(t *testing.T, text string) {
		got := Text(text)
		if len(got) > maxText || !utf8.ValidString(got) {
			t.Errorf("got %d bytes, valid: %v; want at most %d, valid", len(got), utf8.ValidString(got), maxText)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }) {
			t.Errorf("got %q, want one line", got)
		}
		whole, cut := strings.CutSuffix(got, "…")
		if cut { // what is left of the last word is no VIN, it was longer
			whole = strings.TrimRightFunc(whole, alphanumeric)
		}
		if hasVIN(whole) {
			t.Errorf("got %q, want no word like a VIN", got)
		}
		clean := utf8.ValidString(text) && strings.TrimSpace(text) == text && len(text) <= maxText && !hasVIN(text) &&
			!strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
		if clean && got != text {
			t.Errorf("got %q of a clean text, want %q", got, text)
		}
	})
}

func alphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// hasVIN finds them another way than maskVINs.
func hasVIN(text string) bool {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !alphanumeric(r) }) {
		if len(word) == 17 && !strings.ContainsAny(strings.ToUpper(word), "IOQ") {
			return true
		}
	}
	return false
}
