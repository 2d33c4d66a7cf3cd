// Command connector is a diagnostics backend in one program: it takes commands over HTTP, runs them on vehicles, stores
// their answers in PostgreSQL and announces them on Redis, from where browsers get them as server-sent events.
//
// With -embedded it brings a mock vehicle service, PostgreSQL and Redis along.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "connector:", err)
		os.Exit(1)
	}
}

// run is the program, until ctx ends. Its error is what kept it from starting, or from ending well.
func run(ctx context.Context, args []string, getenv func(string) string, output io.Writer) (err error) {
	set, err := parse(args, getenv, output)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(output, nil))
	targets, err := set.targets(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, targets.close()) }()
	b, err := open(targets, set, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if set.migrate {
		if err := b.migrate(ctx); err != nil {
			return err
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", set.listen)
	if err != nil {
		return err
	}
	log.Info("listening", "url", "http://"+listener.Addr().String())
	return newService(b, set, log).serve(ctx, listener)
}
