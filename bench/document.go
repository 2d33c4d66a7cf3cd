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

// What is measured stands in the document between two lines each.
const (
	figuresBegin = "<!-- figures: go run ./bench -doc docs -->"
	figuresEnd   = "<!-- end of figures -->"
	soakBegin    = "<!-- soak: go run ./bench -soak 10m -doc docs -->"
	soakEnd      = "<!-- end of soak -->"
)

// document writes the tables into performance.md in a folder, which has the lines, and performance.svg and
// performance.json beside it.
func (r *report) document(dir string) error {
	return errors.Join(
		insert(dir, figuresBegin, r.markdown(), figuresEnd),
		writeFile(filepath.Join(dir, "performance.svg"), r.plot()),
		writeJSON(filepath.Join(dir, "performance.json"), r),
	)
}

// document writes the table of a soak into performance.md.
func (r *soakReport) document(dir string) error {
	var table strings.Builder
	if err := r.print(&table); err != nil {
		return err
	}
	return insert(dir, soakBegin, "On "+r.Machine.String()+":\n\n```text\n"+table.String()+"```\n", soakEnd)
}

// insert puts a text between two lines of performance.md.
func insert(dir, begin, text, end string) error {
	file := filepath.Join(dir, "performance.md")
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", file, begin, end)
	}
	return writeFile(file, slices.Concat(before, []byte(begin+"\n\n"+text+"\n"+end), after))
}

// markdown is the machine and the tables.
func (r *report) markdown() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "Measured on %s, in %d rounds, on %s.\n\n", r.At.Format("2006-01-02"), r.Rounds, r.Machine)
	b.WriteString("| row | figure | baseline | | SDK | ratio (least to most) | goal | met |\n| --- | --- | --- | ---: | ---: | ---: | --- | --- |\n")
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
