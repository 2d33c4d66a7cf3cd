// Command bench measures the SDK against what one would use instead of it: the generated stub, the connector that people
// write around it in an afternoon, and PostgreSQL's COPY. It runs them in turn against the same servers, each in a process of its
// own, over TCP on loopback, and prints medians, ratios and their spread. See docs/performance.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		stop()
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
	if err != nil {
		return err
	}
	rep, err := s.plan.run(ctx)
	if err != nil {
		return err
	}
	if s.json != "" {
		if err := writeJSON(s.json, rep); err != nil {
			return err
		}
	}
	return rep.print(out)
}

// settings are the flags.
type settings struct {
	plan plan
	json string
}

func parse(args []string, progress io.Writer) (*settings, error) {
	s := &settings{plan: plan{progress: progress}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	rows := flags.String("rows", "", "measure the rows whose names match this `regexp`; empty: all")
	size := flags.String("scale", "full", "full, quick, or tiny (to see that it works)")
	rounds := flags.Int("rounds", 0, "`times` that each pair is measured; 0: 5 for full, 3 for quick")
	procs := flags.String("procs", "", "GOMAXPROCS of the clients, a `list` as in 1,2,8; empty: as Go chooses")
	flags.StringVar(&s.json, "json", "", "write the figures to this `file`")
	flags.StringVar(&s.plan.profiles, "profiles", "", "write CPU and allocation profiles of both sides to this `folder`")
	flags.Usage = func() {
		_, _ = fmt.Fprintln(flags.Output(), "usage: go run ./bench [flags]\n\nThe rows:")
		for _, r := range allRows(scales["full"]) {
			_, _ = fmt.Fprintf(flags.Output(), "  %-14s %s\n", r.name, r.work)
		}
		_, _ = fmt.Fprintln(flags.Output(), "\nThe flags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	var ok bool
	if s.plan.scale, ok = scales[*size]; !ok {
		return nil, fmt.Errorf("-scale %q: want full, quick or tiny", *size)
	}
	s.plan.rounds = *rounds
	if s.plan.rounds <= 0 {
		s.plan.rounds = s.plan.scale.rounds
	}
	var err error
	if s.plan.rows, err = regexp.Compile(*rows); err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	s.plan.procs = []int{0}
	if *procs != "" {
		s.plan.procs = nil
		for text := range strings.SplitSeq(*procs, ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("-procs %q: want numbers of at least 1", *procs)
			}
			s.plan.procs = append(s.plan.procs, n)
		}
	}
	return s, nil
}

func writeJSON(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}
