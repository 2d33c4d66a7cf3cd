package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The tables in the document are between these two lines.
const (
	tablesBegin = "<!-- figures: written by go run ./bench -doc docs -->"
	tablesEnd   = "<!-- end of figures -->"
)

// document writes the tables into performance.md in a folder, which has the two lines, and performance.svg and
// performance.json beside it.
func (r *report) document(dir string) error {
	file := filepath.Join(dir, "performance.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(tablesBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(tablesEnd))
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", file, tablesBegin, tablesEnd)
	}
	tables := tablesBegin + "\n\n" + r.markdown() + "\n" + tablesEnd
	return errors.Join(
		writeFile(file, slices.Concat(before, []byte(tables), after)),
		writeFile(filepath.Join(dir, "performance.svg"), r.plot()),
		writeJSON(filepath.Join(dir, "performance.json"), r),
	)
}

// markdown is the machine and the tables.
func (r *report) markdown() string {
	var b strings.Builder
	m := r.Machine
	_, _ = fmt.Fprintf(&b, "Measured on %s, %d rounds, on %d cores of %s that client, gateway and databases share; %s, %s, grpc-go %s",
		r.At.Format("2006-01-02"), r.Rounds, m.Cores, m.CPU, m.System, m.Go, m.GRPC)
	if m.PostgreSQL != "" {
		_, _ = fmt.Fprintf(&b, ", PostgreSQL %s, Redis %s", m.PostgreSQL, m.Redis)
	}
	b.WriteString(".\n\n| row | figure | baseline | | SDK | ratio (least to most) | goal | met |\n| --- | --- | --- | ---: | ---: | ---: | --- | --- |\n")
	name := ""
	for _, f := range r.Figures {
		if f.Procs > 0 {
			continue
		}
		row := "" // once for all figures of a row
		if f.Row != name {
			name, row = f.Row, "`"+f.Row+"`: "+f.Work
		}
		_, _ = fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", row, f.What, f.Baseline, short(f.Base), short(f.SDK), f.spread(), f.goal(), f.met())
	}
	b.WriteString(r.procsMarkdown())
	return b.String()
}

// procsMarkdown is the table of ratios by GOMAXPROCS, if there are any.
func (r *report) procsMarkdown() string {
	var counts []int
	ratios := make(map[string]map[int]string)
	var names []string
	for _, f := range r.Figures {
		if f.Procs == 0 || f.What != "chunks/s" && f.What != "commands/s" {
			continue
		}
		if !slices.Contains(counts, f.Procs) {
			counts = append(counts, f.Procs)
		}
		if ratios[f.Row] == nil {
			names = append(names, f.Row)
			ratios[f.Row] = make(map[int]string)
		}
		ratios[f.Row][f.Procs] = fmt.Sprintf("%s (%s)", f.spread(), short(f.SDK))
	}
	if len(names) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\nThe same with other GOMAXPROCS of the client process: the ratio of chunks/s or commands/s, and in parentheses last the SDK's.\n\n| row |")
	for _, n := range counts {
		_, _ = fmt.Fprintf(&b, " %d |", n)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" ---: |", len(counts)) + "\n")
	for _, name := range names {
		_, _ = fmt.Fprintf(&b, "| `%s` |", name)
		for _, n := range counts {
			_, _ = fmt.Fprintf(&b, " %s |", ratios[name][n])
		}
		b.WriteString("\n")
	}
	return b.String()
}
