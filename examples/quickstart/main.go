// Command quickstart runs diagnostic commands on a mock vehicle in its own process, cuts the link in the
// middle of a long answer, and shows how the answer goes on. With -target it talks to a real vehicle
// service instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run is the program. Its error is that of the first command that failed, or what kept it from running any.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	set, err := parse(args, stdout)
	if err != nil {
		return err
	}
	lines, err := create(set.out)
	if err != nil {
		return err
	}
	defer lines.Close()

	screen := newScreen(stdout)
	service, err := connect(set, screen,
		vehicle.WithSink(sink.JSONLines(lines)),
		vehicle.WithLogger(screen.logger()), // it logs each retry
		vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(screen.attempts)))
	if err != nil {
		return err
	}
	defer service.close()

	var results []*vehicle.Result
	for _, cmd := range set.commands() {
		res := show(ctx, service, screen, cmd)
		results = append(results, res)
		if err == nil {
			err = res.Err
		}
		if ctx.Err() != nil {
			break // Ctrl-C: the command that ran has been recorded, the others do not begin
		}
	}
	screen.summary(results)
	screen.printf("\nThe same as JSON lines: %s\n", lines.Name())
	return err
}

// show runs one command and shows its chunks as they arrive.
func show(ctx context.Context, service *service, screen *screen, cmd vehicle.Command) *vehicle.Result {
	screen.begin(cmd)
	stream := service.client.Stream(ctx, cmd)
	for chunk, err := range stream.Chunks() {
		if err != nil {
			break // it is in the Result too
		}
		screen.row(chunk)
		service.shown(cmd, chunk)
	}
	screen.end(stream.Result())
	return stream.Result()
}

// settings are the program's flags.
type settings struct {
	target  string
	vehicle uuid.UUID
	clear   bool
	out     string
}

func parse(args []string, output io.Writer) (settings, error) {
	set := settings{vehicle: uuid.MustParse("123e4567-e89b-42d3-a456-426614174000"), clear: true}
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&set.target, "target", "", "vehicle service to talk to, host:port, instead of a mock; the other\nVEHICLE_* variables hold, and nothing is cut")
	flags.TextVar(&set.vehicle, "vehicle", set.vehicle, "vehicle to ask; needed with -target")
	clearToo := flags.Bool("clear", false, "with -target, clear the vehicle's fault memory too")
	flags.StringVar(&set.out, "out", "", "file that the JSON lines are added to; the default is a new temporary file")
	if err := flags.Parse(args); err != nil {
		return set, flag.ErrHelp // it has said what is wrong
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case flags.NArg() > 0:
		return set, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case set.target != "" && !given["vehicle"]:
		return set, errors.New("-target needs -vehicle, the UUID of the vehicle to ask")
	case set.target != "":
		set.clear = *clearToo
	}
	return set, nil
}

// commands are what the program runs. A real vehicle's fault memory is not cleared unasked.
func (s settings) commands() []vehicle.Command {
	cmds := []vehicle.Command{
		{VehicleID: s.vehicle, Name: "ReadDataByID", Params: map[string]any{"dataId": "0xF190"}},
		{VehicleID: s.vehicle, Name: "ReadDTC"},
	}
	if s.target == "" {
		cmds = append(cmds, vehicle.Command{VehicleID: s.vehicle, Name: longCommand})
	}
	if s.clear {
		cmds = append(cmds, vehicle.Command{VehicleID: s.vehicle, Name: "ClearDTC"})
	}
	return cmds
}

// create opens the file for the JSON lines. Answers may hold personal data: it is its owner's alone.
func create(path string) (*os.File, error) {
	if path == "" {
		return os.CreateTemp("", "quickstart-*.jsonl")
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}
