package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(context.Background(), role, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The race detector makes a program wait for a second at its end, and there are some fifty of them.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// Each row is run by both of its sides, which verify what they did. The figures say nothing: there is hardly any work.
func TestEachRowRunsOnBothSides(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "figures.json")
	var table, progress bytes.Buffer
	if err := run(t.Context(), []string{"-scale", "tiny", "-json", file, "-profiles", dir}, nil, &table, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var got report
	if err := readJSON(file, &got); err != nil {
		t.Fatal(err)
	}
	var want, have []string
	for _, r := range allRows(scales["tiny"]) {
		for _, c := range r.compare {
			want = append(want, r.name+": "+c.metric.of(r.unit))
		}
	}
	for _, f := range got.Figures {
		have = append(have, f.Row+": "+f.What)
		if f.Base <= 0 || f.SDK == 0 || f.Least > f.Ratio || f.Ratio > f.Most {
			t.Errorf("got %+v, want figures of both sides and a ratio within its spread", f)
		}
		if !strings.Contains(table.String(), f.What) {
			t.Errorf("the table lacks %q", f.What)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	if m := got.Machine; m.PostgreSQL == "" || m.Redis == "" || m.Cores == 0 || !strings.HasPrefix(m.Go, "go") {
		t.Errorf("got the machine %+v, want its versions", m)
	}
	profiles, err := filepath.Glob(filepath.Join(dir, "*.pprof"))
	if err != nil || len(profiles) != 4*len(allRows(scales["tiny"])) {
		t.Errorf("got %d profiles, %v, want the CPU's and the heap's of both sides of %d rows", len(profiles), err, len(allRows(scales["tiny"])))
	}
}

func TestASideThatStoresSomethingElseIsFound(t *testing.T) {
	t.Parallel()
	db, err := startStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.close(); err != nil {
			t.Error(err)
		}
	})
	gateway, at, err := startGateway(context.WithoutCancel(t.Context())) // it is told to end by Cleanup
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gateway.close(); err != nil {
			t.Error(err)
		}
	})
	j := job{
		Kind: kindStream, Side: sideSDK, Target: at.Open, Chunks: 100, Size: smallChunk,
		Postgres: db.postgres.URL(), Redis: db.redis.URL(),
	}
	for _, test := range []struct {
		name, sql string
		fails     bool
	}{
		{"everything is stored", "SELECT", false},
		{"a chunk is missing", "DELETE FROM responses WHERE sequence_number = 3", true},
		{"a chunk is there twice", `INSERT INTO responses SELECT gen_random_uuid(), command_id, response_payload, sequence_number, is_final, now()
			FROM responses WHERE sequence_number = 3`, true},
		{"a number is wrong", "UPDATE responses SET sequence_number = sequence_number + 64 WHERE sequence_number = 90", true},
		{"a payload is another's", "UPDATE responses SET response_payload = '{}' WHERE sequence_number = 7", true},
		{"no chunk is final", "UPDATE responses SET is_final = false", true},
		{"a command has not completed", "UPDATE commands SET status = 'in_progress'", true},
		{"there is no audit row", "DELETE FROM audit_logs", true},
		{"the audit row says something else", `UPDATE audit_logs SET details = '{"chunk_count": 1}'`, true},
		{"a command is missing", "DELETE FROM commands WHERE command_id = (SELECT command_id FROM commands LIMIT 1)", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := db.clear(t.Context()); err != nil {
				t.Fatal(err)
			}
			f, err := measureApart(t.Context(), j, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.pool.Exec(t.Context(), test.sql); err != nil {
				t.Fatal(err)
			}
			if err := db.verify(t.Context(), j, f); (err != nil) != test.fails {
				t.Errorf("got %v, want an error: %t", err, test.fails)
			}
		})
	}
	t.Run("an event is missing", func(t *testing.T) {
		if err := db.clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		f, err := measureApart(t.Context(), j, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.rdb.ConfigResetStat(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := db.verify(t.Context(), j, f); err == nil {
			t.Error("got no error")
		}
	})
}

func TestAnAnswerThatIsNotWhatTheVehicleSentIsFound(t *testing.T) {
	t.Parallel()
	type chunk struct {
		seq     int
		payload string
		final   bool
	}
	want := []string{"one", "two"}
	for _, test := range []struct {
		name   string
		chunks []chunk
		ok     bool
	}{
		{"all is there", []chunk{{0, "one", false}, {1, "two", false}, {2, "one", true}}, true},
		{"the last is missing", []chunk{{0, "one", false}, {1, "two", false}}, false},
		{"none is final", []chunk{{0, "one", false}, {1, "two", false}, {2, "one", false}}, false},
		{"one comes after the final one", []chunk{{0, "one", false}, {1, "two", true}, {2, "one", true}}, false},
		{"two are swapped", []chunk{{1, "two", false}, {0, "one", false}, {2, "one", true}}, false},
		{"one is longer", []chunk{{0, "one", false}, {1, "twoo", false}, {2, "one", true}}, false},
		{"one is another", []chunk{{0, "one", false}, {1, "six", false}, {2, "one", true}}, false},
	} {
		for _, asText := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, text %t", test.name, asText), func(t *testing.T) {
				t.Parallel()
				a := answer{want: want, chunks: 3, whole: true, keep: true}
				for _, c := range test.chunks {
					if asText {
						a.see(c.seq, nil, c.payload, c.final)
					} else {
						a.see(c.seq, []byte(c.payload), "", c.final)
					}
				}
				if err := errors.Join(a.verify(), a.verifyKept()); (err == nil) != test.ok {
					t.Errorf("got %v, want an error: %t", err, !test.ok)
				}
			})
		}
	}
	a := answer{want: want, chunks: 1, keep: true}
	reused := []byte("one")
	a.see(0, reused, "", true)
	copy(reused, "two")
	if err := a.verifyKept(); err == nil {
		t.Error("got no error for a payload that was reused after it was kept")
	}
}

func TestASoakVerifiesWhatItStored(t *testing.T) {
	t.Parallel()
	if _, err := residentMemory(); err != nil {
		t.Logf("this system does not tell how much memory is resident: %v", err)
		return
	}
	got, err := soak(t.Context(), 2_000_000_000, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	last := got.Samples[len(got.Samples)-1]
	if got.Cuts == 0 || got.Verified == 0 || len(got.Samples) < 5 || last.Commands == 0 || last.Resident == 0 || last.Heap == 0 || last.Goroutines == 0 {
		t.Errorf("got %d cuts, %d commands verified, %d samples, the last %+v, want all of them", got.Cuts, got.Verified, len(got.Samples), last)
	}
	_ = got.judge() // so short a run says nothing
	var out bytes.Buffer
	if err := got.print(&out); err != nil || !strings.Contains(out.String(), "resident memory: ") {
		t.Errorf("got %q, %v, want a verdict", out.String(), err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "performance.md")
	if err := os.WriteFile(file, []byte(soakBegin+"\n"+soakEnd+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := got.document(dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), out.String()) {
		t.Errorf("got %s, %v, want the table in the document", text, err)
	}
}

func TestMemoryThatGrowsIsFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		value func(i int) int64
		grows bool
	}{
		{"constant", func(int) int64 { return 40 << 20 }, false},
		{"up and down", func(i int) int64 { return 40<<20 + int64(i%7)<<20 }, false},
		{"shrinking", func(i int) int64 { return 90<<20 - int64(i)<<18 }, false},
		{"a leak", func(i int) int64 { return 40<<20 + int64(i)<<18 }, true},
		{"a leak below noise's surface", func(i int) int64 { return 40<<20 + int64(i%7)<<20 + int64(i)<<18 }, true},
		{"a warm-up", func(i int) int64 { return 10<<20 + int64(min(i, 20))<<20 }, false},
		{"a little", func(i int) int64 { return 40<<20 + int64(i)<<12 }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var r soakReport
			for i := range 120 {
				v := test.value(i)
				r.Samples = append(r.Samples, soaked{Seconds: float64(5 * i), Resident: v, Heap: 1 << 20, Goroutines: 300})
			}
			r.Samples = append(r.Samples, soaked{Seconds: 600, Last: true})
			err := r.judge()
			if (err != nil) != test.grows || (r.Verdict["resident memory"] == "grows") != test.grows {
				t.Errorf("got %v and %v, want it to grow: %t", err, r.Verdict, test.grows)
			}
			if got := r.Verdict["goroutines"]; got != "constant" {
				t.Errorf("goroutines: got %q, want constant", got)
			}
		})
	}
}

// aReport has figures of every kind.
func aReport() *report {
	return &report{Machine: machine{CPU: "A <CPU> & more", Cores: 2, PostgreSQL: "15.1", Redis: "7.0"}, Rounds: 3, Figures: []figure{
		{Row: "stream", Work: "one stream", What: "chunks/s", Baseline: sideStub, Base: 250_000, SDK: 400_000, Ratio: 1.6, Least: 1.4, Most: 1.7, More: true, Goal: 1.5},
		{Row: "stream", Work: "one stream", What: "client CPU", Baseline: sideStub, Base: 4, SDK: 3.5, Ratio: 0.875, Least: 0.8, Most: 0.9, Goal: 0.75},
		{Row: "stream", Work: "one stream", What: "allocations", Baseline: sideStub, Base: 8, SDK: 4, Ratio: 0.5, Least: 0.5, Most: 0.5, Limit: 4},
		{Row: "both", Work: "both", What: "p50, ms", Baseline: sideConnector, Base: 5, SDK: 2.5, Ratio: 0.5, Least: 0.4, Most: 0.6},
		{Row: "stream", What: "chunks/s", Procs: 8, Baseline: sideStub, Base: 10, SDK: 20, Ratio: 2, Least: 1, Most: 3, More: true},
	}}
}

func TestThePlotIsWellFormedAndShowsEachGoal(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*report{"of all kinds": aReport(), "of nothing": {}, "of zeros": {Figures: []figure{{Goal: 1}, {Limit: 1}}}} {
		svg := r.plot()
		bars, goals := 0, 0
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, svg)
			}
			if e, ok := token.(xml.StartElement); ok {
				for _, a := range e.Attr {
					switch a.Value {
					case "met", "missed":
						bars++
					case "goal":
						goals++
					}
				}
			}
		}
		want := 0
		for _, f := range r.Figures {
			if f.met() != "" && f.Procs == 0 {
				want++
			}
		}
		if bars != want || goals != want {
			t.Errorf("%s: got %d bars and %d goals, want %d", name, bars, goals, want)
		}
		if bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("Inf")) {
			t.Errorf("%s: something has no place:\n%s", name, svg)
		}
	}
}

func TestGoals(t *testing.T) {
	t.Parallel()
	var got []string
	for _, f := range aReport().Figures {
		got = append(got, fmt.Sprintf("%s %s; %s", f.goal(), f.met(), f.spread()))
	}
	want := []string{"≥ 1.5× yes; 1.6× (1.4 to 1.7)", "≤ 0.75× no; 0.88× (0.8 to 0.9)", "≤ 4 yes; 0.5×", " ; 0.5× (0.4 to 0.6)", " ; 2× (1 to 3)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheDocumentKeepsItsText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "performance.md")
	for range 2 { // the second time it replaces what it wrote
		if _, err := os.Stat(file); err != nil {
			if err := os.WriteFile(file, []byte("before\n"+figuresBegin+"\nold\n"+figuresEnd+"\nafter\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := aReport().document(dir); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got := string(text)
		if !strings.HasPrefix(got, "before\n"+figuresBegin) || !strings.HasSuffix(got, figuresEnd+"\nafter\n") || strings.Contains(got, "old") {
			t.Errorf("got %q, want the text around the tables as it was", got)
		}
		for _, want := range []string{"| `stream`: one stream | chunks/s |", "2 cores of A <CPU> & more", "| row | 8 |\n"} {
			if strings.Count(got, want) != 1 {
				t.Errorf("got %q, want it to say %q once", got, want)
			}
		}
	}
	var same report
	if err := readJSON(filepath.Join(dir, "performance.json"), &same); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(aReport(), &same); diff != "" {
		t.Errorf("the JSON (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(file, []byte("no lines"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := aReport().document(dir); err == nil {
		t.Error("got no error for a document without the lines")
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-scale", "huge"}, {"-rows", "("}, {"-procs", "1,x"}, {"-procs", "0"}, {"stream"}, {"-what"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
	s, err := parse([]string{"-scale", "quick", "-rows", "^stream$", "-procs", "1,8", "-rounds", "7"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	stream := regexp.MustCompile("^stream$")
	want := []pass{{stream, 1, 7}, {stream, 8, 7}}
	if diff := cmp.Diff(want, s.plan.passes, cmp.AllowUnexported(pass{}), cmp.Comparer(func(a, b *regexp.Regexp) bool { return a.String() == b.String() })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var help bytes.Buffer
	if err := run(t.Context(), []string{"-help"}, nil, io.Discard, &help); err != nil || !strings.Contains(help.String(), "both-256") {
		t.Errorf("got %v and %q, want the names of the rows", err, help.String())
	}
	if err := run(t.Context(), []string{"-rows", "nothing"}, nil, io.Discard, io.Discard); err == nil {
		t.Error("got no error for a name that no row has")
	}
}

func TestFiguresAreReadable(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 0.456: "0.46", 4: "4", 8.019: "8.02", 31.26: "31.3", 30: "30", 123.4: "123", 262143.5: "262,144", 1234567: "1,234,567"} {
		if got := short(v); got != want {
			t.Errorf("%v: got %q, want %q", v, got, want)
		}
	}
	text, err := json.Marshal(aReport())
	if err != nil || !bytes.Contains(text, []byte(`"baseline":"connector"`)) {
		t.Errorf("got %s, %v, want the sides' names", text, err)
	}
}
