package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/sovd-go/vehicle"
)

// settings are the program's flags and variables, and what only tests change.
type settings struct {
	listen, database, redis string

	embedded      bool
	migrate       bool
	redisRequired bool

	maxRunning     int           // commands
	maxFollowers   int           // each has a connection to Redis
	commandTimeout time.Duration // for a command with all its attempts
	recordTimeout  time.Duration // for the first record of a command, which POST waits for
	readTimeout    time.Duration // for a read of PostgreSQL, which readers and followers wait for
	grace          time.Duration // for running commands when the program ends
	recoverAfter   time.Duration // of silence, a command in progress is one that a crashed process left
	recoverEvery   time.Duration
	heartbeat      time.Duration // of server-sent events
	poll           time.Duration // of PostgreSQL, for events that Redis does not have
	page           int           // bytes of an answer that are in memory for one reader
}

func defaults() settings {
	return settings{
		maxRunning: 512, maxFollowers: 1000,
		commandTimeout: 5 * time.Minute, recordTimeout: 10 * time.Second, readTimeout: 5 * time.Second, grace: 10 * time.Second,
		recoverEvery: time.Minute, heartbeat: 15 * time.Second, poll: time.Second, page: 4 << 20,
	}
}

func parse(args []string, getenv func(string) string, output io.Writer) (settings, error) {
	set := defaults()
	set.listen = cmp.Or(getenv("LISTEN_ADDR"), "127.0.0.1:8080")
	set.database, set.redis = getenv("DATABASE_URL"), getenv("REDIS_URL")
	flags := flag.NewFlagSet("connector", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.BoolVar(&set.embedded, "embedded", false, "start a mock vehicle service, PostgreSQL and Redis, and keep nothing;\nVEHICLE_*, DATABASE_URL and REDIS_URL are not used")
	flags.BoolVar(&set.migrate, "migrate", false, "create the tables that are missing")
	flags.BoolVar(&set.redisRequired, "redis-required", false, "fail the commands whose events cannot be published; by default\nthey go on, and /stats counts what was lost")
	flags.IntVar(&set.maxRunning, "max-running", set.maxRunning, "commands at once; more are refused with 503")
	flags.IntVar(&set.maxFollowers, "max-followers", set.maxFollowers, "streams of events at once; more are refused with 503")
	flags.DurationVar(&set.commandTimeout, "command-timeout", set.commandTimeout, "for a command with all its retries")
	flags.DurationVar(&set.grace, "grace", set.grace, "for running commands when the program ends; then they are cancelled")
	if err := flags.Parse(args); err != nil {
		return set, flag.ErrHelp // it has said what is wrong
	}
	set.migrate = set.migrate || set.embedded
	set.recoverAfter = set.commandTimeout + time.Minute // nobody's living command
	return set, set.check(flags.Args())
}

func (s settings) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case s.maxRunning < 1, s.maxFollowers < 1:
		return errors.New("-max-running and -max-followers: want 1 or more")
	case s.commandTimeout <= 0 || s.recoverAfter <= 0:
		return errors.New("-command-timeout: want more than 0, and no more than 292 years")
	case s.embedded:
		return nil
	case s.database == "" || s.redis == "":
		return errors.New("set DATABASE_URL and REDIS_URL, as in postgres://user:password@host:5432/database and\n" +
			"redis://host:6379/0, or try -embedded")
	}
	return nil
}

// targets are what the connector connects.
type targets struct {
	database, redis string
	vehicle         func(...vehicle.Option) (*vehicle.Client, error)
	cut             func() // cuts the link to a mock vehicle service; nil to real ones
	close           func() error
}

// targets are those of the environment, or embedded ones.
func (s settings) targets(ctx context.Context) (targets, error) {
	if s.embedded {
		return startEmbedded(ctx)
	}
	return targets{
		database: s.database, redis: s.redis,
		vehicle: vehicle.NewFromEnv,
		close:   func() error { return nil },
	}, nil
}
