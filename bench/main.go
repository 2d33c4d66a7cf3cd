// Command bench measures the SDK against what one would use instead of it: the generated stub, the connector that people
// write around it in an afternoon, and PostgreSQL's COPY. It runs them in turn against the same servers, each in a process of its
// own, over TCP on loopback, and prints medians, ratios and their spread. See docs/performance.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the program, or a part of it.
func run(ctx context.Context, args []string, in io.Reader, out, progress io.Writer) error {
	if role := os.Getenv(roleVariable); role != "" {
		return play(ctx, role, in, out)
	}
	s, err := parse(args, progress)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.soak > 0 {
		return s.runSoak(ctx, out, progress)
	}
	rep := &report{}
	if s.from != "" {
		err = readJSON(s.from, rep)
	} else {
		rep, err = s.plan.run(ctx)
	}
	if err != nil {
		return err
	}
	return errors.Join(s.write(rep), rep.print(out))
}

// write writes the report to the files that the flags name.
func (s *settings) write(rep *report) error {
	if s.json != "" {
		if err := writeJSON(s.json, rep); err != nil {
			return err
		}
	}
	if s.svg != "" {
		if err := writeFile(s.svg, rep.plot()); err != nil {
			return err
		}
	}
	if s.doc != "" {
		return rep.document(s.doc)
	}
	return nil
}

// settings are the flags.
type settings struct {
	plan                 plan
	json, svg, doc, from string
	soak                 time.Duration
}

func parse(args []string, output io.Writer) (*settings, error) {
	s := &settings{plan: plan{progress: output}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(output)
	rows := flags.String("rows", "", "measure the rows whose names match this `regexp`; empty: all")
	size := flags.String("scale", "full", "full, quick, or tiny (to see that it works)")
	rounds := flags.Int("rounds", 0, "`times` that each pair is measured; 0: 5 for full, 3 for quick")
	procs := flags.String("procs", "", "GOMAXPROCS of the clients, a `list` as in 1,2,8; empty: as Go chooses")
	flags.StringVar(&s.json, "json", "", "write the figures, or those of the soak, to this `file`")
	flags.StringVar(&s.svg, "svg", "", "write the plot to this `file`")
	flags.StringVar(&s.doc, "doc", "", "write tables, plot and figures into performance.md, .svg and .json in this `folder`; some rows are "+
		"then measured with other GOMAXPROCS too. With -soak: write its table into performance.md")
	flags.StringVar(&s.from, "from", "", "measure nothing and take the figures from this `file`, which -json or -doc wrote")
	flags.StringVar(&s.plan.profiles, "profiles", "", "write CPU and allocation profiles of both sides to this `folder`")
	flags.DurationVar(&s.soak, "soak", 0, "instead of measuring, run at full load for this `time` and see whether memory stays constant")
	flags.Usage = func() {
		_, _ = fmt.Fprintln(output, "usage: go run ./bench [flags]\n\nMeasures the SDK beside what one would use instead of it. The rows:")
		for _, r := range allRows(scales["full"]) {
			_, _ = fmt.Fprintf(output, "  %-14s %s\n", r.name, r.work)
		}
		_, _ = fmt.Fprintln(output, "\nPostgreSQL and Redis must be installed; private servers are started. The flags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("%q: there are only flags", flags.Arg(0))
	}
	var ok bool
	if s.plan.scale, ok = scales[*size]; !ok {
		return nil, fmt.Errorf("-scale %q: want full, quick or tiny", *size)
	}
	if *rounds <= 0 {
		*rounds = s.plan.scale.rounds
	}
	which, err := regexp.Compile(*rows)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	counts, err := parseProcs(*procs)
	if err != nil {
		return nil, err
	}
	for _, n := range counts {
		s.plan.passes = append(s.plan.passes, pass{rows: which, procs: n, rounds: *rounds})
	}
	if s.doc != "" {
		for _, n := range []int{1, 2, 8} {
			s.plan.passes = append(s.plan.passes, pass{rows: regexp.MustCompile(procsRows), procs: n, rounds: min(*rounds, 2)})
		}
	}
	return s, nil
}

// parseProcs reads a list of numbers. Empty is 0 alone, which leaves it to Go.
func parseProcs(list string) ([]int, error) {
	if list == "" {
		return []int{0}, nil
	}
	var counts []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-procs %q: want numbers of at least 1", list)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

func readJSON(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func writeJSON(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(file, append(text, '\n'))
}

func writeFile(file string, text []byte) error {
	return os.WriteFile(file, text, 0o644)
}
