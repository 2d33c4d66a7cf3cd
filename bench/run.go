package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
)

// plan is what the command line asks for.
type plan struct {
	scale    scale
	passes   []pass
	profiles string // a folder, or ""
	progress io.Writer
}

// pass is one pass over some of the rows.
type pass struct {
	rows   *regexp.Regexp
	procs  int // GOMAXPROCS of the client processes; 0 leaves it to Go
	rounds int
}

// run measures each row's two sides in turn, in rounds. The order within a round alternates.
func (p *plan) run(ctx context.Context) (_ *report, err error) {
	var pairs []*pair
	for _, pass := range p.passes {
		for _, r := range allRows(p.scale) {
			if pass.rows.MatchString(r.name) {
				pairs = append(pairs, &pair{row: r, pass: pass, plan: p})
			}
		}
	}
	if len(pairs) == 0 {
		return nil, errors.New("no row has such a name")
	}
	gateway, at, err := startGateway(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gateway.close()) }()
	rep := newReport(p.passes[0].rounds)
	var db *stores
	if slices.ContainsFunc(pairs, func(p *pair) bool { return p.stores }) {
		if db, err = startStores(ctx); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, db.close()) }()
		if rep.Machine.PostgreSQL, rep.Machine.Redis, err = db.versions(ctx); err != nil {
			return nil, err
		}
	}
	for _, pair := range pairs {
		pair.at, pair.db = at, db
		if err := pair.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", pair.name, err)
		}
		rep.add(pair)
	}
	return rep, nil
}

// pair is a row being measured.
type pair struct {
	row
	pass pass
	plan *plan
	at   addresses
	db   *stores

	baselines, sdks []figures // of each round
}

func (p *pair) run(ctx context.Context) error {
	_, _ = fmt.Fprintf(p.plan.progress, "%s: %s", p.name, p.work)
	defer func() { _, _ = fmt.Fprintln(p.plan.progress) }()
	ours := p.sdk
	if ours == "" {
		ours = sideSDK
	}
	for round := range p.pass.rounds {
		sides := []side{p.baseline, ours}
		if round%2 == 1 {
			slices.Reverse(sides)
		}
		for _, side := range sides {
			f, err := p.measure(ctx, side)
			if err != nil {
				return fmt.Errorf("%s: %w", side, err)
			}
			if side == ours {
				p.sdks = append(p.sdks, f)
			} else {
				p.baselines = append(p.baselines, f)
			}
			_, _ = fmt.Fprint(p.plan.progress, ".")
		}
	}
	return nil
}

// measure has one side do the work, on empty stores, and looks at what it has stored.
func (p *pair) measure(ctx context.Context, s side) (figures, error) {
	j := p.job
	j.Side, j.Target = s, p.at.Open
	if p.capped {
		j.Target = p.at.Capped
	}
	if dir := p.plan.profiles; dir != "" {
		name := p.name + "-" + string(s)
		j.CPUProfile, j.MemProfile = filepath.Join(dir, name+".cpu.pprof"), filepath.Join(dir, name+".mem.pprof")
	}
	if p.stores {
		j.Postgres = p.db.postgres.URL()
		if !p.noRedis {
			j.Redis = p.db.redis.URL()
		}
		if err := p.db.clear(ctx); err != nil {
			return nil, err
		}
	}
	f, err := measureApart(ctx, j, p.pass.procs)
	if err == nil && p.stores {
		err = p.db.verify(ctx, j, f)
	}
	return f, err
}
