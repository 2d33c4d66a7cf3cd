package pgsink

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// nastyPayloads are valid JSON. plain says whether they are stored as they are.
var nastyPayloads = []struct {
	name  string
	text  string
	plain bool
}{
	{"an object", `{"a": {"b": [1, -2.5, "c", true, null]}}`, true},
	{"NUL", `"\u0000"`, false},
	{"NUL in a key", `{"a\u0000": 1}`, false},
	{"an escaped backslash before u0000", `"\\u0000"`, true},
	{"an escaped backslash and NUL", `"\\\u0000"`, false},
	{"other control characters", `"\u0001\u001f\n"`, true},
	{"a surrogate pair", `"\ud83d\ude97"`, true},
	{"a surrogate pair in capitals", `"\uD83D\uDE97"`, true},
	{"a lone high surrogate", `"\ud83d"`, false},
	{"a lone high surrogate before text", `"\ud83dx"`, false},
	{"a lone high surrogate before another escape", `"\ud83d\n"`, false},
	{"a lone high surrogate before what ends like an escape", `"\ud83d-ude97"`, false},
	{"a lone high surrogate before a backslash", `"\ud83d\\de97"`, false},
	{"two high surrogates", `"\ud83d\ud83d\ude97"`, false},
	{"a lone low surrogate", `"\ude97"`, false},
	{"surrogates in the wrong order", `"\ude97\ud83d"`, false},
	{"the first and the last surrogates", `"\ud800\udc00\udbff\udfff"`, true},
	{"the last characters before and after surrogates", `"\ud7ff\ue000\uffff"`, true},
	{"the largest double", `1.7976931348623157e308`, true},
	{"the smallest double", `5e-324`, true},
	{"zero with a sign", `[-0, -0.0, 0e5]`, true},
	{"a number beyond numeric", `1E400000`, false},
	{"a number too small for numeric", `1e-400000`, false},
	{"an exponent with zeros in front", `1e0000000000005`, true},
	{"an exponent beyond an int", `1e+99999999999999999999`, false},
	{"many digits", strings.Repeat("7", 131_072), true},
	{"too many digits", strings.Repeat("7", 131_073), false},
	{"many digits after the point", "0." + strings.Repeat("7", 16_383), true},
	{"too many digits after the point", "0." + strings.Repeat("7", 16_384), false},
	{"digits and exponents that cancel out", "[" + strings.Repeat(strings.Repeat("7", 10_000)+"e-10000,0."+strings.Repeat("7", 10_000)+"e10000,", 2) + "0]", true},
	{"numbers that would grow to gigabytes", "[" + strings.Repeat("1e10000,", 100_000) + "0]", false},
	{"fractions that would", "[" + strings.Repeat("1e-10000,", 100_000) + "0]", false},
	{"nesting", strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth), true},
	{"nesting too deep", strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1), false},
	{"nesting too deep for the server", strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000), false},
	{"what looks wrapped", `{"$json": "1"}`, false},
	{"what looks wrapped, with an escape", `{"\u0024json": "1"}`, false},
	{"what looks wrapped, twice", ` { "$json" : "1" , "$json" : "2" } `, false},
	{"what looks wrapped, behind another key", `{"a": {}, "$json": "1"}`, false},
	{"what looks wrapped, deeper", `{"a": {"b": 0, "$json": "1"}}`, true},
	{"what looks wrapped, in an array", `["$json", {"$json": "1"}, "$json"]`, true},
	{"the key as a value", `{"a": "$json"}`, true},
	{"the key with more", `{"$jsonx": "1", "x$json": 2}`, true},
	{"a string with braces", `{"a": "},{\"$json\":", "b": "{"}`, true},
	{"the last escape", `"\\"`, true},
}

func TestJSONB(t *testing.T) {
	t.Parallel()
	for _, test := range nastyPayloads {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if !json.Valid([]byte(test.text)) {
				t.Fatal("the test's payload is not JSON")
			}
			stored, ok := toJSONB([]byte(test.text))
			if !ok {
				t.Fatal("got refused")
			}
			if plain := stored == test.text; plain != test.plain {
				t.Errorf("got stored as it is: %t, want %t", plain, test.plain)
			}
			if got := string(unwrap([]byte(stored))); got != test.text {
				t.Errorf("got back %.80q, want %.80q", got, test.text)
			}
		})
	}
}

func TestJSONBRefusesWhatIsNotUTF8(t *testing.T) {
	t.Parallel()
	if got, ok := toJSONB([]byte("\"\xff\"")); ok {
		t.Errorf("got %q, want it refused", got)
	}
}

func TestJSONBMakesNullOfNothing(t *testing.T) {
	t.Parallel()
	if got, ok := toJSONB(nil); got != "null" || !ok {
		t.Errorf("got %q, %t", got, ok)
	}
}

// Others may have written what begins as if it were wrapped.
func TestUnwrapLeavesWhatWasNotWrapped(t *testing.T) {
	t.Parallel()
	for _, stored := range []string{`{"$json": "1", "more": 2}`, `{"$json": 1}`} {
		if got := string(unwrap([]byte(stored))); got != stored {
			t.Errorf("got %s, want %s", got, stored)
		}
	}
}

// FuzzJSONB holds the check to what can be said without a server: what is stored is JSON, comes back as it was, and
// what is stored as it is has none of the things that jsonb refuses, as encoding/json sees them.
func FuzzJSONB(f *testing.F) {
	for _, test := range nastyPayloads {
		if len(test.text) < 1000 {
			f.Add([]byte(test.text))
		}
	}
	f.Add([]byte("\"\\u12"))
	f.Add([]byte("\"\\ud83d\\"))
	f.Add([]byte("1e"))
	f.Fuzz(func(t *testing.T, text []byte) {
		stored, ok := toJSONB(text) // must not panic, whatever the text
		if !json.Valid(text) {
			return
		}
		if !ok {
			if bytes.ContainsRune(text, '\uFFFD') && bytes.Equal(bytes.ToValidUTF8(text, nil), text) {
				t.Fatal("valid UTF-8 was refused")
			}
			return
		}
		if !json.Valid([]byte(stored)) {
			t.Fatalf("stored %q, which is not JSON", stored)
		}
		if got := unwrap([]byte(stored)); !bytes.Equal(got, text) {
			t.Fatalf("got back %q, want %q", got, text)
		}
		if stored != string(text) {
			return
		}
		var value any
		d := json.NewDecoder(strings.NewReader(stored))
		d.UseNumber()
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		checkPlain(t, value, 0)
		if object, ok := value.(map[string]any); ok {
			if _, ok := object[wrapKey]; ok {
				t.Fatalf("%q looks wrapped and was not", stored)
			}
		}
		// encoding/json makes U+FFFD of a lone surrogate.
		if n := strings.Count(stored, "\uFFFD") + strings.Count(strings.ToLower(stored), `\ufffd`); n == 0 && countReplaced(value) > 0 {
			t.Fatalf("%q has a lone surrogate", stored)
		}
	})
}

func checkPlain(t *testing.T, value any, depth int) {
	t.Helper()
	if depth > maxDepth {
		t.Fatal("too deep")
	}
	switch v := value.(type) {
	case string:
		if strings.ContainsRune(v, 0) {
			t.Fatal("NUL")
		}
	case map[string]any:
		for k, v := range v {
			checkPlain(t, k, depth)
			checkPlain(t, v, depth+1)
		}
	case []any:
		for _, v := range v {
			checkPlain(t, v, depth+1)
		}
	}
}

func countReplaced(value any) int {
	n := 0
	switch v := value.(type) {
	case string:
		n = strings.Count(v, "\uFFFD")
	case map[string]any:
		for k, v := range v {
			n += countReplaced(k) + countReplaced(v)
		}
	case []any:
		for _, v := range v {
			n += countReplaced(v)
		}
	}
	return n
}

func BenchmarkJSONBCheck(b *testing.B) {
	text := []byte(`{"dtc":"P0420","status":{"testFailed":"1"},"values":[1,2.5,-3e2],"snapshot":"` + strings.Repeat("a0b1", 28) + `"}`)
	b.Run("json.Valid", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			json.Valid(text)
		}
	})
	b.Run("toJSONB", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if _, ok := toJSONB(text); !ok {
				b.Fatal("refused")
			}
		}
	})
}
