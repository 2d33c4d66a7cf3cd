// Command mtls exchanges every certificate under running commands, and shows that none of them fails: it makes a
// throwaway CA, serves a mock vehicle with mutual TLS, keeps commands running, and rotates authority, server
// certificate and client certificate a few times.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mtls:", err)
		os.Exit(1)
	}
}

// run is the program.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("mtls", flag.ContinueOnError)
	flags.SetOutput(stdout)
	commands := flags.Int("commands", 200, "commands that run at any time")
	rotations := flags.Int("rotations", 3, "how often everything is rotated")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *commands < 1 {
		return errors.New("-commands: want 1 or more")
	}

	dir, err := os.MkdirTemp("", "mtls-example-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ca, err := vehicletest.MakeCA(dir)
	if err != nil {
		return err
	}
	// ReadDTC takes a second, so that a rotation meets commands in the middle of their answers.
	server, err := vehicletest.Start(vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca), vehicletest.WithHistory(1000),
		vehicletest.On("ReadDTC", vehicletest.Script{
			vehicletest.Send(`{"dtc":"P0420-00"}`), vehicletest.Delay(500 * time.Millisecond),
			vehicletest.Send(`{"dtc":"U0121-87"}`), vehicletest.Delay(500 * time.Millisecond),
			vehicletest.Answer(`{"dtc":"B1342-11"}`),
		}))
	if err != nil {
		return err
	}
	defer server.Close()

	// This is all that a backend writes. Here server.Options would say it too.
	client, err := vehicle.New(server.Target(),
		vehicle.WithTLSFiles(vehicle.TLSFiles{
			CA:   dir + "/ca.pem",
			Cert: dir + "/client-cert.pem",
			Key:  dir + "/client-key.pem",
		}),
		vehicle.WithLogger(slog.New(slog.NewTextHandler(stdout, nil))), // it logs each reload, and would log each retry
	)
	if err != nil {
		return err
	}
	defer client.Close()

	say := func(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format+"\n", args...) }
	say("a mock vehicle with mutual TLS at %s, certificates in %s, %d commands at a time", server.Target(), dir, *commands)
	load := startLoad(ctx, client, *commands)
	for i := range *rotations {
		if err = load.warm(ctx); err != nil {
			break
		}
		if err = rotate(ctx, ca, server); err != nil {
			break
		}
		say("rotation %d: %d commands so far, %d failed", i+1, load.completed.Load()+load.failed.Load(), load.failed.Load())
	}
	load.stop()
	say("%d commands completed, %d failed", load.completed.Load(), load.failed.Load())
	if n := load.failed.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d commands failed, the last one: %w", n, *load.last.Load()))
	}
	return err
}

// load is commands that follow each other, some at a time.
type load struct {
	completed, failed atomic.Int64
	last              atomic.Pointer[error]
	stop              func() // waits for the commands that run
}

func startLoad(ctx context.Context, client *vehicle.Client, width int) *load {
	var l load
	var running sync.WaitGroup
	var stopped atomic.Bool
	l.stop = func() { stopped.Store(true); running.Wait() }
	for range width {
		running.Go(func() {
			for !stopped.Load() && ctx.Err() == nil {
				_, err := client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
				switch {
				case err == nil:
					l.completed.Add(1)
				case ctx.Err() == nil: // or else it was Ctrl-C
					l.failed.Add(1)
					l.last.Store(&err)
				}
			}
		})
	}
	return &l
}

// warm returns when more commands have completed, and so all connections are in use.
func (l *load) warm(ctx context.Context) error {
	before := l.completed.Load()
	return until(ctx, func() bool { return l.completed.Load() > before || l.failed.Load() > 0 })
}

// rotate exchanges everything, and returns when the server has had a command under the new certificates.
func rotate(ctx context.Context, ca *vehicletest.CA, server *vehicletest.Server) error {
	if err := ca.Rotate(); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(ca.Files().Cert, ca.Files().Key)
	if err != nil {
		return err
	}
	return until(ctx, func() bool {
		requests := server.Requests()
		n := len(requests)
		return n > 0 && requests[n-1].TLS.PeerCertificates[0].Equal(pair.Leaf)
	})
}

// until looks a few times a second.
func until(ctx context.Context, is func() bool) error {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
