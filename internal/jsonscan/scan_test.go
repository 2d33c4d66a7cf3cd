package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sovd-go/vehicle/internal/jsonscan"
)

func TestScan(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, test := range map[string]struct {
		text string
		want jsonscan.Verdict
	}{
		"an object is plain":                           {`{"code":"P0420","n":[1,-2.5,0,true,false,null],"o":{},"a":[]}`, jsonscan.Plain},
		"space is allowed between tokens":              {" {\n\"a\" :\t[ 1 ,\r2 ] , \"b\" : \"\" } ", jsonscan.Plain},
		"a string may be long and not ASCII":           {`"` + strings.Repeat("Größe 车 🚗 ", 20) + `"`, jsonscan.Plain},
		"simple escapes are plain":                     {`"\"\\\/\b\f\n\r\t and more than eight bytes"`, jsonscan.Plain},
		"a number of a thousand digits is plain":       {strings.Repeat("7", 1000), jsonscan.Plain},
		"a longer number is valid":                     {strings.Repeat("7", 1001), jsonscan.Valid},
		"an exponent is valid":                         {`[1e5,1E+5,1.5e-7,0e0]`, jsonscan.Valid},
		"a NUL that is escaped is valid":               {`"WVW\u0000"`, jsonscan.Valid},
		"a lone surrogate is valid":                    {`"\ud800"`, jsonscan.Valid},
		"512 levels are plain":                         {nested(512), jsonscan.Plain},
		"513 levels are valid":                         {nested(513), jsonscan.Valid},
		"levels beyond the first ones keep their kind": {strings.Repeat(`[{"a":`, 300) + "1" + strings.Repeat("}]", 300), jsonscan.Valid},
		"10,000 levels are valid":                      {nested(10000), jsonscan.Valid},
		"10,001 levels are invalid":                    {nested(10001), jsonscan.Invalid},
		"nothing is invalid":                           {``, jsonscan.Invalid},
		"space alone is invalid":                       {` `, jsonscan.Invalid},
		"two values are invalid":                       {`1 2`, jsonscan.Invalid},
		"a control character in a string is invalid":   {"\"a tab\tinside\"", jsonscan.Invalid},
		"DEL in a string is plain":                     {"\"\x7f\"", jsonscan.Plain},
		"a string that does not end is invalid":        {`"abcdefgh`, jsonscan.Invalid},
		"a backslash at the end is invalid":            {`"\`, jsonscan.Invalid},
		"an unknown escape is invalid":                 {`"\x41"`, jsonscan.Invalid},
		"an escape of three digits is invalid":         {`"\u123"`, jsonscan.Invalid},
		"an escape that is not hexadecimal is invalid": {`"\u12g4"`, jsonscan.Invalid},
		"broken UTF-8 in a string is invalid":          {"\"\xff\"", jsonscan.Invalid},
		"a surrogate in UTF-8 is invalid":              {"\"\xed\xa0\x80\"", jsonscan.Invalid},
		"UTF-8 outside of a string is invalid":         {"é", jsonscan.Invalid},
		"a leading zero is invalid":                    {`01`, jsonscan.Invalid},
		"a minus alone is invalid":                     {`-`, jsonscan.Invalid},
		"a point without digits is invalid":            {`1.`, jsonscan.Invalid},
		"an exponent without digits is invalid":        {`1e+`, jsonscan.Invalid},
		"a comma at an object's end is invalid":        {`{"a":1,}`, jsonscan.Invalid},
		"a comma at an array's end is invalid":         {`[1,]`, jsonscan.Invalid},
		"a key that is no string is invalid":           {`{1:2}`, jsonscan.Invalid},
		"a key without a value is invalid":             {`{"a"}`, jsonscan.Invalid},
		"a wrong bracket is invalid":                   {`[1}`, jsonscan.Invalid},
		"a bracket that is not closed is invalid":      {`[1`, jsonscan.Invalid},
		"a bracket too many is invalid":                {`[1]]`, jsonscan.Invalid},
		"half a word is invalid":                       {`tru`, jsonscan.Invalid},
		"NaN is invalid":                               {`NaN`, jsonscan.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := jsonscan.Scan([]byte(test.text)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
			agrees(t, []byte(test.text))
		})
	}
}

// Wherever a special character stands in the eight bytes that are looked at together, it is seen.
func TestScanSeesEveryByteOfAString(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		for at := range 19 {
			text := []byte(`"` + strings.Repeat("x", at) + string([]byte{byte(c)}) + strings.Repeat("y", 18-at) + `"`)
			agrees(t, text)
		}
	}
}

// Both ways to find special characters find all of them, in texts of every length, and read nothing that is not the text.
func TestSpecials(t *testing.T) {
	t.Parallel()
	for length := range 200 {
		for at := range length + 1 {
			text := bytes.Repeat([]byte("x"), length)
			want := length
			if at < length {
				text[at], want = "\"\\\x00\x1f\x7f\x80\xff a"[at%9], at
				if c := text[at]; c == 0x7f || c == ' ' || c == 'a' {
					want = length
				}
			}
			for from := range min(at, 3) + 1 {
				if got := jsonscan.NextSpecial(text, from); got != want {
					t.Fatalf("%q from %d: got %d, want %d", text, from, got, want)
				}
			}
		}
	}
	long := append(bytes.Repeat([]byte("x"), 5000), '"')
	for from := 0; from < len(long); from += 7 {
		if got := jsonscan.NextSpecial(long, from); got != 5000 {
			t.Fatalf("from %d: got %d, want 5000", from, got)
		}
	}
}

func TestScanAllocatesNothing(t *testing.T) {
	text := []byte(`{"a":[1,2.5,"x",{"b":null}],"c":"` + strings.Repeat("0f1a", 100) + `"}`)
	if n := testing.AllocsPerRun(100, func() { jsonscan.Scan(text) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// FuzzScan holds Scan to encoding/json and unicode/utf8.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		`{"code":"P0420","status":{"testFailed":"1"},"n":[1,-2.5e7,true,null]}`, `"\u00e4\ud83d\ude97"`, "\"\xc3\xa4\"",
		`[[[[]]]]`, ` [ { } , 0.1 ] `, `{"a":{"b":[{}]}}`, `1e400000`, `"12345678"`, `"1234567\"9"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) { agrees(t, text) })
}

func agrees(t *testing.T, text []byte) {
	t.Helper()
	got := jsonscan.Scan(text)
	if want := json.Valid(text) && utf8.Valid(text); (got != jsonscan.Invalid) != want {
		t.Errorf("got %v of %.100q, want valid to be %t", got, text, want)
	}
}

func BenchmarkScan(b *testing.B) {
	fault := `{"code":"P0420","fault_name":"Catalyst efficiency below threshold","severity":2,"display_code":"P0420-00",` +
		`"status":{"testFailed":"1","confirmedDTC":"1","aggregatedStatus":"active"},"occurrences":12,"mileage":10423}`
	for _, bench := range []struct{ name, text string }{
		{"200B", fault},
		{"4KiB of faults", `{"items":[` + strings.Repeat(fault+",", 18) + fault + `]}`},
		{"4KiB of snapshot", `{"snapshot":"` + strings.Repeat("0f1a", 1020) + `"}`},
		{"4KiB of numbers", `[` + strings.Repeat("12.75,-3,1048576,", 240) + `0]`},
		{"4KiB not ASCII", `"` + strings.Repeat("Größe 车 ", 340) + `"`},
	} {
		text := []byte(bench.text)
		b.Run(bench.name+"/json.Valid", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if !json.Valid(text) || !utf8.Valid(text) {
					b.Fatal("got invalid")
				}
			}
		})
		b.Run(bench.name+"/Scan", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if jsonscan.Scan(text) != jsonscan.Plain {
					b.Fatal("got another verdict than Plain")
				}
			}
		})
	}
}
