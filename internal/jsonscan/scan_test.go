package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
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
		"an object is plain":                            {`{"code":"P0420","n":[1,-2.5,0,true,false,null],"o":{},"a":[]}`, jsonscan.Plain},
		"space is allowed between tokens":               {" {\n\"a\" :\t[ 1 ,\r2 ] , \"b\" : \"\" } ", jsonscan.Plain},
		"a string may be long and not ASCII":            {`"` + strings.Repeat("Größe 车 🚗 ", 20) + `"`, jsonscan.Plain},
		"simple escapes are plain":                      {`"\"\\\/\b\f\n\r\t and more than eight bytes"`, jsonscan.Plain},
		"a number of a thousand digits is plain":        {strings.Repeat("7", 1000), jsonscan.Plain},
		"a minus does not count among them":             {"-" + strings.Repeat("7", 1000), jsonscan.Plain},
		"a longer number is valid":                      {strings.Repeat("7", 1001), jsonscan.Valid},
		"an exponent is valid":                          {`[1e5,1E+5,1.5e-7,0e0]`, jsonscan.Valid},
		"a NUL that is escaped is valid":                {`"WVW\u0000"`, jsonscan.Valid},
		"a lone surrogate is valid":                     {`"\ud800"`, jsonscan.Valid},
		"61 levels are plain":                           {nested(61), jsonscan.Plain},
		"62 levels are plain":                           {nested(62), jsonscan.Plain},
		"65 levels are plain":                           {nested(65), jsonscan.Plain},
		"512 levels are plain":                          {nested(512), jsonscan.Plain},
		"513 levels are valid":                          {nested(513), jsonscan.Valid},
		"levels beyond the first ones keep their kind":  {strings.Repeat(`[{"a":`, 300) + "1" + strings.Repeat("}]", 300), jsonscan.Valid},
		"10,000 levels are valid":                       {nested(10000), jsonscan.Valid},
		"10,001 levels are invalid":                     {nested(10001), jsonscan.Invalid},
		"63 levels that are not closed are invalid":     {strings.Repeat("[", 60) + `{"a":[[]`, jsonscan.Invalid},
		"nothing is invalid":                            {``, jsonscan.Invalid},
		"space alone is invalid":                        {` `, jsonscan.Invalid},
		"two values are invalid":                        {`1 2`, jsonscan.Invalid},
		"a control character in a string is invalid":    {"\"a tab\tinside\"", jsonscan.Invalid},
		"DEL in a string is plain":                      {"\"\x7f\"", jsonscan.Plain},
		"a string that does not end is invalid":         {`"abcdefgh`, jsonscan.Invalid},
		"a backslash at the end is invalid":             {`"\`, jsonscan.Invalid},
		"an unknown escape is invalid":                  {`"\x41"`, jsonscan.Invalid},
		"an escape of three digits is invalid":          {`"\u123"`, jsonscan.Invalid},
		"an escape that is not hexadecimal is invalid":  {`"\u12g4"`, jsonscan.Invalid},
		"broken UTF-8 in a string is invalid":           {"\"\xff\"", jsonscan.Invalid},
		"broken UTF-8 long before the end is invalid":   {"\"\xff" + strings.Repeat("a", 1000) + "\"", jsonscan.Invalid},
		"a surrogate in UTF-8 is invalid":               {"\"\xed\xa0\x80\"", jsonscan.Invalid},
		"UTF-8 outside of a string is invalid":          {"é", jsonscan.Invalid},
		"a leading zero is invalid":                     {`01`, jsonscan.Invalid},
		"a minus alone is invalid":                      {`-`, jsonscan.Invalid},
		"a point without digits is invalid":             {`1.`, jsonscan.Invalid},
		"an exponent without digits is invalid":         {`1e+`, jsonscan.Invalid},
		"a comma at an object's end is invalid":         {`{"a":1,}`, jsonscan.Invalid},
		"a comma at an array's end is invalid":          {`[1,]`, jsonscan.Invalid},
		"a key that is no string is invalid":            {`{1:2}`, jsonscan.Invalid},
		"a key without a value is invalid":              {`{"a"}`, jsonscan.Invalid},
		"a wrong bracket is invalid":                    {`[1}`, jsonscan.Invalid},
		"a bracket that is not closed is invalid":       {`[1`, jsonscan.Invalid},
		"a bracket too many is invalid":                 {`[1]]`, jsonscan.Invalid},
		"one too many, and one not closed, are invalid": {"1]" + strings.Repeat(" ", 62) + `,"a":[1`, jsonscan.Invalid},
		"half a word is invalid":                        {`tru`, jsonscan.Invalid},
		"NULs are invalid":                              {"\x00\x00\x00\x00\x00\x00", jsonscan.Invalid},
		"NaN is invalid":                                {`NaN`, jsonscan.Invalid},
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

// Wherever a character stands among those that are looked at together, it is seen: inside of a string, and outside.
func TestScanSeesEveryByte(t *testing.T) {
	t.Parallel()
	const length = 70
	for c := range 256 {
		for at := range length {
			for _, text := range []string{"xyz", "\"a\",", "{\"a\": 1},", " "} {
				line := []byte(strings.Repeat(text, length/len(text)+2)[:length+1])
				line[at] = byte(c)
				agrees(t, []byte(`"`+string(line)+`"`))
				agrees(t, []byte(`[`+string(line)+`]`))
				agrees(t, []byte(`[`+string(line)+` 0]`))
			}
		}
	}
}

// Each pair and each triple of tokens is judged alike, with and without space, in one block and across the border of two.
func TestScanKnowsWhatMayFollowWhat(t *testing.T) {
	t.Parallel()
	tokens := []string{"{", "}", "[", "]", ":", ",", `"k"`, `""`, "1", "-0.5", "true", "x", `"a":1`, `"a":[]`}
	for _, before := range []string{"", strings.Repeat(" ", 55), strings.Repeat(" ", 60), strings.Repeat(" ", 63)} {
		for _, space := range []string{"", " ", "\n\t"} {
			for _, frame := range [][2]string{{"", ""}, {"[", "]"}, {"{", "}"}, {`{"o":`, "}"}, {"[0,", ",0]"}, {`{"a":0,`, "}"}} {
				for _, a := range tokens {
					for _, b := range tokens {
						for _, c := range append(tokens, "") {
							agrees(t, []byte(before+frame[0]+strings.Join([]string{a, b, c}, space)+frame[1]))
						}
					}
				}
			}
		}
	}
}

// A number or a word is judged alike wherever it begins, in one block or in two.
func TestScanKnowsNumbersAndWordsWhereverTheyStand(t *testing.T) {
	t.Parallel()
	texts := []string{
		"0", "7", "10", "0.5", "12.75", "-3", "-0.25", "1e5", "2.5E-7", "-1.5e+10", strings.Repeat("9", 130), "1." + strings.Repeat("3", 130),
		"00", "01.5", "1.", ".5", "1.e5", "1..5", "1.5.5", "1-2", "-", "--1", "-.5", "+1", "1e", "1e+", "0x1F", "1_000", "1.5e1.5", "12a",
		"true", "false", "null", "tru", "truer", "nulll", "falſe", "True", "t", "\x00\x00\x00\x00", "NaN", "-Infinity",
	}
	for at := range 2 * 64 {
		for _, text := range texts {
			for _, after := range []string{"]", ",0]", " ]", ",-1.5,true]"} {
				agrees(t, []byte(strings.Repeat(" ", at)+"["+text+after))
			}
		}
	}
}

// A valid text of several blocks in which one character is another one, is missing, or has one before it.
func TestScanSeesEachChange(t *testing.T) {
	t.Parallel()
	text := `[` + fault(7) + `, "\\\"\\", ` + fault(9) + `]`
	for at := range len(text) {
		for _, c := range "{}[]:,\" \\\n0-.etn\x00\x1f\u00fc" {
			agrees(t, []byte(text[:at]+string(c)+text[at+1:]))
			agrees(t, []byte(text[:at]+string(c)+text[at:]))
		}
		agrees(t, []byte(text[:at]+text[at+1:]))
		agrees(t, []byte(text[:at]))
	}
}

// Texts of all that JSON has, whole and with a character or two changed. The seeds are the same each time.
func TestScanOfTextsMadeByChance(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5_000) {
		random := rand.New(rand.NewPCG(seed, 0))
		text := appendValue(nil, random, 5)
		agrees(t, text)
		for range 4 {
			changed := bytes.Clone(text)
			for range 1 + random.IntN(2) {
				const characters = "{}[]:,\"\\ \n0-.eu9tfn\x00\xc3"
				at, c := random.IntN(len(changed)), characters[random.IntN(len(characters))]
				switch random.IntN(3) {
				case 0:
					changed[at] = c
				case 1:
					changed = slices.Insert(changed, at, c)
				default:
					changed = append(slices.Delete(changed, at, at+1), ' ')
				}
			}
			agrees(t, changed)
		}
	}
}

// appendValue appends a JSON text by chance, of at most so many levels.
func appendValue(text []byte, random *rand.Rand, levels int) []byte {
	space := func() {
		if random.IntN(8) == 0 {
			text = append(text, []string{" ", "\n\t", strings.Repeat(" ", random.IntN(70))}[random.IntN(3)]...)
		}
	}
	list := func(member func()) {
		for n := random.IntN(6); n > 0; n-- {
			space()
			member()
			space()
			if n > 1 {
				text = append(text, ',')
			}
		}
		space()
	}
	value := func() { text = appendValue(text, random, levels-1) }
	str := func() {
		text = append(text, '"')
		for range random.IntN(4) {
			text = append(text, []string{
				"km/h", "", `\"`, `\\`, `\n`, `\u00e4`, "{}[]:,", "ä車", "true", "-12.5", strings.Repeat("a", random.IntN(140)), strings.Repeat(`\\`, random.IntN(70)),
			}[random.IntN(12)]...)
		}
		text = append(text, '"')
	}
	kind := random.IntN(8)
	switch {
	case kind < 3 && levels > 0:
		text = append(text, '{')
		list(func() {
			str()
			space()
			text = append(text, ':')
			space()
			value()
		})
		return append(text, '}')
	case kind < 4 && levels > 0:
		text = append(text, '[')
		list(value)
		return append(text, ']')
	case kind < 6:
		return append(text, []string{
			"0", "-0", "7", "-12", "48037", "0.5", "-91.75", "800.25", "1e5", "-2.5E-7", "10.0e+3", "true", "false", "null",
			strings.Repeat("9", 1+random.IntN(100)), "0." + strings.Repeat("0", 1+random.IntN(100)),
		}[random.IntN(16)]...)
	default:
		str()
		return text
	}
}

// Whatever differs, and wherever, the hash does, in texts of all lengths and of either way of Scan.
func TestHashTellsTextsApart(t *testing.T) {
	t.Parallel()
	seed := maphash.MakeSeed()
	seen := make(map[uint64]string)
	add := func(text string) {
		v, hash := jsonscan.Hash(seed, []byte(text))
		if v == jsonscan.Invalid {
			t.Fatalf("%.200q is not JSON", text)
		}
		if other, twice := seen[hash]; twice && other != text {
			t.Errorf("%.200q has the hash of %.200q", text, other)
		}
		seen[hash] = text
		if _, again := jsonscan.Hash(seed, []byte(text)); again != hash {
			t.Errorf("%.200q has the hash %x, and then %x", text, hash, again)
		}
	}
	for _, frame := range [][2]string{{`"`, `"`}, {strings.Repeat("[", jsonscan.BlocksDepth+2) + `"`, `"` + strings.Repeat("]", jsonscan.BlocksDepth+2)}} {
		for length := range 9 * 64 {
			add(frame[0] + strings.Repeat("a", length) + frame[1])
			add(frame[0] + frame[1] + strings.Repeat(" ", length))
			add(strings.Repeat(" ", length) + frame[0] + frame[1])
		}
		line := []byte(strings.Repeat("a", 10*64))
		for at := range line {
			for bit := range 5 {
				line[at] ^= 1 << bit
				add(frame[0] + string(line) + frame[1])
				line[at] = 'a'
			}
		}
		for i := range line {
			line[i] = 'a' + byte(i*7/16%26)
		}
		for i := 0; i < len(line); i += 16 { // what AES takes at a time changes places
			for j := 0; j < i; j += 16 {
				other := bytes.Clone(line)
				copy(other[i:], line[j:j+16])
				copy(other[j:], line[i:i+16])
				add(frame[0] + string(other) + frame[1])
			}
		}
	}
}

// Two bytes are changed by the same bits, at each distance of up to two blocks: what a hash by sums or without mixing would not see.
func TestHashSeesChangesThatAreAlike(t *testing.T) {
	t.Parallel()
	seed := maphash.MakeSeed()
	text := []byte(`"` + strings.Repeat("a", 4*64-3) + `" `)
	_, want := jsonscan.Hash(seed, text)
	for at := 1; at < len(text)-2; at++ {
		for other := at + 1; other < min(at+2*64, len(text)-2); other++ {
			for bit := range 5 {
				changed := bytes.Clone(text)
				changed[at] ^= 1 << bit
				changed[other] ^= 1 << bit
				if _, got := jsonscan.Hash(seed, changed); got == want {
					t.Fatalf("bit %d changed at %d and at %d: the hash is the same", bit, at, other)
				}
			}
		}
	}
}

// Space behind a text makes up for no character of its last block.
func TestHashSeesSpaceAndAChange(t *testing.T) {
	t.Parallel()
	seed := maphash.MakeSeed()
	for length := 2 * 64; length < 3*64; length++ {
		text := []byte(`"` + strings.Repeat("P", length-2) + `"`)
		_, want := jsonscan.Hash(seed, text)
		for spaces := 1; spaces <= 64; spaces++ {
			for at := max(1, length-70); at < length-1; at++ {
				changed := append(bytes.Clone(text), strings.Repeat(" ", spaces)...)
				changed[at] ^= byte(length ^ (length + spaces))
				if v, got := jsonscan.Hash(seed, changed); v != jsonscan.Invalid && got == want {
					t.Fatalf("%q has the hash of %q", changed, text)
				}
			}
		}
	}
}

// A byte differs, and in the 16 before or behind, those four that a round of AES makes of it do: of one round for each 16, one seed in 128
// would not see it.
func TestHashSeesWhatARoundWouldUndo(t *testing.T) {
	t.Parallel()
	column := [4][4]byte{{2, 1, 1, 3}, {3, 2, 1, 1}, {1, 3, 2, 1}, {1, 1, 3, 2}} // what a byte of each row is multiplied by
	text := []byte(`"` + strings.Repeat("h", 5*64-2) + `"`)
	var changed [][]byte
	for at := 16; at < 4*64; at++ {
		row := at % 4
		to := (at%16/4 + 4 - row) % 4 * 4 // its column, once rows have been shifted
		for in := byte(1); in < 8; in++ {
			for out := byte(1); out < 8; out++ {
				for _, other := range []int{at/16*16 - 16, at/16*16 + 16} {
					one := bytes.Clone(text)
					one[at] ^= in
					for i, factor := range column[row] {
						one[other+to+i] ^= [4]byte{0, out, out << 1, out<<1 ^ out}[factor]
					}
					if jsonscan.Scan(one) != jsonscan.Invalid {
						changed = append(changed, one)
					}
				}
			}
		}
	}
	for range 8 {
		seed := maphash.MakeSeed()
		_, want := jsonscan.Hash(seed, text)
		for _, one := range changed {
			if _, got := jsonscan.Hash(seed, one); got == want {
				t.Fatalf("%q has the hash of %q", one, text)
			}
		}
	}
	if want := 10_000; len(changed) < want {
		t.Errorf("got %d texts, want at least %d", len(changed), want)
	}
}

// Hashes by two seeds differ.
func TestSeedsDiffer(t *testing.T) {
	t.Parallel()
	one, two := maphash.MakeSeed(), maphash.MakeSeed()
	for _, text := range []string{"1", `"a"`, strings.Repeat("[", 100) + strings.Repeat("]", 100)} {
		_, a := jsonscan.Hash(one, []byte(text))
		if _, b := jsonscan.Hash(two, []byte(text)); a == b {
			t.Errorf("%.20q has the hash %x by two seeds", text, a)
		}
	}
}

func TestScanAllocatesNothing(t *testing.T) {
	text := []byte(`{"a":[1,2.5,"x",{"b":null}],"c":"` + strings.Repeat("0f1a", 100) + `"}`)
	seed := maphash.MakeSeed()
	if n := testing.AllocsPerRun(100, func() { jsonscan.Hash(seed, text) }); n != 0 {
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
	seed := maphash.MakeSeed()
	if v, _ := jsonscan.Hash(seed, text); v != got {
		t.Errorf("got %v of %.200q, and %v with a hash", got, text, v)
	}
	want := json.Valid(text) && utf8.Valid(text)
	if (got != jsonscan.Invalid) != want {
		t.Errorf("got %v of %.200q, want valid to be %t", got, text, want)
	}
	tokens := jsonscan.ScanTokens(text)
	if tokens != got {
		t.Errorf("got %v of %.200q, and %v token by token", got, text, tokens)
	}
	if !jsonscan.CanScanBlocks() {
		return
	}
	if blocks := jsonscan.ScanBlocks(text); blocks != tokens && (blocks != jsonscan.Invalid || depth(text) <= jsonscan.BlocksDepth) {
		t.Errorf("got %v of %.200q block by block, and %v token by token", blocks, text, tokens)
	}
}

// depth is how deep a valid text is nested.
func depth(text []byte) (deepest int) {
	depth := 0
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		switch token, err := decoder.Token(); {
		case err != nil:
			return deepest
		case token == json.Delim('{') || token == json.Delim('['):
			depth++
			deepest = max(deepest, depth)
		case token == json.Delim('}') || token == json.Delim(']'):
			depth--
		}
	}
}

// BenchmarkScan compares with json.Valid, on texts that differ from one another as answers do: a branch that is always the same
// costs nothing.
func BenchmarkScan(b *testing.B) {
	seed := maphash.MakeSeed()
	one := func(text string) func(int) string { return func(int) string { return text } }
	for _, bench := range []struct {
		name string
		text func(i int) string
	}{
		{"200B", fault},
		{"4KiB of faults", func(i int) string {
			list := make([]string, 18)
			for k := range list {
				list[k] = fault(i + k)
			}
			return `{"items":[` + strings.Join(list, ",") + `]}`
		}},
		{"4KiB of snapshot", one(`{"snapshot":"` + strings.Repeat("0f1a", 1020) + `"}`)},
		{"4KiB of numbers", one(`[` + strings.Repeat("12.75,-3,1048576,", 240) + `0]`)},
		{"4KiB not ASCII", one(`"` + strings.Repeat("Größe 车 ", 340) + `"`)},
	} {
		texts := make([][]byte, 64)
		for i := range texts {
			texts[i] = []byte(bench.text(i))
		}
		for _, way := range []struct {
			name  string
			valid func([]byte) bool
		}{
			{"json.Valid", func(text []byte) bool { return json.Valid(text) && utf8.Valid(text) }},
			{"tokens", func(text []byte) bool { return jsonscan.ScanTokens(text) == jsonscan.Plain }},
			{"Scan", func(text []byte) bool { return jsonscan.Scan(text) == jsonscan.Plain }},
			{"Scan, maphash", func(text []byte) bool { return jsonscan.Scan(text) == jsonscan.Plain && maphash.Bytes(seed, text) != 1 }},
			{"Hash", func(text []byte) bool { v, sum := jsonscan.Hash(seed, text); return v == jsonscan.Plain && sum != 1 }},
		} {
			b.Run(bench.name+"/"+way.name, func(b *testing.B) {
				b.SetBytes(int64(len(texts[0])))
				for i := 0; b.Loop(); i++ {
					if !way.valid(texts[i%len(texts)]) {
						b.Fatal("got something else than plain")
					}
				}
			})
		}
	}
}

// fault is a fault as a SOVD server reports it: what tells one from another is in the lengths of numbers and words.
func fault(i int) string {
	return fmt.Sprintf(`{"code":"P0%d","display_code":"P0%d-%02X","severity":%d,"status":{"mask":"0x%02X","testFailed":%t,"confirmedDTC":%t,`+
		`"pendingDTC":%t},"data":{"occurrence_counter":%d,"odometer":%d,"vehicle_speed":%v,"coolant_temperature":%v}}`,
		420+i, 420+i, i, i%4, i, i%2 == 0, i%3 == 0, i%5 == 0, i*3, 48000+37*i, 12.5*float64(i%8), 91.5-float64(i))
}
