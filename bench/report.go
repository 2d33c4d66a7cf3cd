package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what was measured: the JSON of this program.
type report struct {
	At      time.Time `json:"at"`
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Figures []figure  `json:"figures"`
}

// machine is where it was measured.
type machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	System     string `json:"system"`
	Go         string `json:"go"`
	GRPC       string `json:"grpc"`
	PostgreSQL string `json:"postgresql,omitempty"`
	Redis      string `json:"redis,omitempty"`
}

// String says it in words.
func (m machine) String() string {
	text := fmt.Sprintf("%d cores of %s, which client, gateway and databases share; %s, %s, grpc-go %s", m.Cores, m.CPU, m.System, m.Go, m.GRPC)
	if m.PostgreSQL != "" {
		text += fmt.Sprintf(", PostgreSQL %s, Redis %s", m.PostgreSQL, m.Redis)
	}
	return text
}

// figure is one figure of a row, of both sides. Ratio is the median of the rounds' ratios of the SDK's figure to the
// baseline's; Least and Most are the smallest and largest of them.
type figure struct {
	Row      string  `json:"row"`
	Work     string  `json:"work"`
	Procs    int     `json:"gomaxprocs,omitempty"` // 0: as Go chose
	What     string  `json:"what"`
	Baseline side    `json:"baseline"`
	Base     float64 `json:"base"` // medians
	SDK      float64 `json:"sdk"`
	Ratio    float64 `json:"ratio"`
	Least    float64 `json:"least"`
	Most     float64 `json:"most"`
	More     bool    `json:"more_is_better"`
	Goal     float64 `json:"goal,omitempty"`  // for the ratio
	Limit    float64 `json:"limit,omitempty"` // for the SDK's figure
}

// met says whether the goal has been reached, and "" where there is none.
func (f figure) met() string {
	switch {
	case f.Goal == 0 && f.Limit == 0:
		return ""
	case f.Limit > 0 && math.Round(f.SDK*10)/10 > f.Limit, // what a stream costs once shows in the second decimal
		f.Goal > 0 && f.More && f.Ratio < f.Goal, f.Goal > 0 && !f.More && f.Ratio > f.Goal:
		return "no"
	}
	return "yes"
}

// goal is the goal in words.
func (f figure) goal() string {
	sign := "≤"
	if f.More {
		sign = "≥"
	}
	switch {
	case f.Limit > 0:
		return fmt.Sprintf("≤ %s", short(f.Limit))
	case f.Goal > 0:
		return fmt.Sprintf("%s %s×", sign, short(f.Goal))
	}
	return ""
}

func newReport(rounds int) *report {
	m := machine{CPU: processor(), Cores: runtime.NumCPU(), System: system(), Go: runtime.Version(), GRPC: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "google.golang.org/grpc" {
				m.GRPC = dep.Version
			}
		}
	}
	return &report{At: time.Now().UTC().Truncate(time.Second), Machine: m, Rounds: rounds}
}

// processor is the model's name, where Linux tells.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range bytes.Lines(text) {
		if name, ok := bytes.CutPrefix(line, []byte("model name")); ok {
			return string(bytes.Trim(name, " \t:\n"))
		}
	}
	return runtime.GOARCH
}

// system is the operating system and, on Linux, its kernel.
func system() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-")
	return runtime.GOOS + " " + version
}

func (r *report) add(p *pair) {
	for _, c := range p.compare {
		var base, sdk, ratios []float64
		for i := range p.baselines {
			b, s := p.baselines[i][c.metric], p.sdks[i][c.metric]
			base, sdk, ratios = append(base, b), append(sdk, s), append(ratios, s/max(b, math.SmallestNonzeroFloat32))
		}
		r.Figures = append(r.Figures, figure{
			Row: p.name, Work: p.work, Procs: p.pass.procs, What: c.metric.of(p.unit), Baseline: p.baseline,
			Base: median(base), SDK: median(sdk), Ratio: median(ratios), Least: slices.Min(ratios), Most: slices.Max(ratios),
			More: c.metric.moreIsBetter(), Goal: c.goal, Limit: c.limit,
		})
	}
}

// of says what a metric is, of what.
func (m metric) of(unit string) string {
	one := strings.TrimSuffix(unit, "s")
	switch m {
	case perSecond:
		return unit + "/s"
	case cpuEach:
		return "client CPU, µs/" + one
	case allocsEach:
		return "allocations/" + one
	case bytesEach:
		return "bytes/" + one
	case halfWithin:
		return "p50, ms"
	case mostWithin:
		return "p99, ms"
	case memoryEach:
		return "resident bytes/" + one
	default:
		return string(m) + "/" + one
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[n/2] + sorted[(n-1)/2]) / 2
}

// short is a figure with three digits that count.
func short(v float64) string {
	switch {
	case v >= 1000:
		text := fmt.Sprintf("%.0f", v)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	default:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	}
}

// spread is a ratio and the least and the most that a round had.
func (f figure) spread() string {
	if f.Least == f.Most {
		return short(f.Ratio) + "×"
	}
	return fmt.Sprintf("%s× (%s to %s)", short(f.Ratio), short(f.Least), short(f.Most))
}

// row is a figure's name for a table.
func (f figure) row() string {
	if f.Procs > 0 {
		return fmt.Sprintf("%s, GOMAXPROCS %d", f.Row, f.Procs)
	}
	return f.Row
}

// print writes the table for a terminal.
func (r *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "row\twhat\tbaseline\t\tSDK\tratio (least to most)\tgoal\tmet")
	for _, f := range r.Figures {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.row(), f.What, f.Baseline, short(f.Base), short(f.SDK), f.spread(), f.goal(), f.met())
	}
	return w.Flush()
}
