package main

import (
	"context"

	"github.com/sovd-go/vehicle"
)

// sdk is the SDK with its defaults. It uses what users can use, and nothing else.
type sdk struct {
	client *vehicle.Client
	stored bool // the chunks go to sinks, and the caller only waits
	after  func() error
}

func newSDK(ctx context.Context, j *job) (*sdk, error) {
	sinks, after, err := j.openSinks(ctx)
	if err != nil {
		return nil, err
	}
	client, err := vehicle.New(j.Target, vehicle.WithInsecure(), vehicle.WithSink(sinks...))
	if err != nil {
		return nil, err
	}
	return &sdk{client: client, stored: len(sinks) > 0, after: after}, nil
}

func (s *sdk) run(ctx context.Context, o order, see func(int, []byte, string, bool)) error {
	if s.stored {
		_, err := s.execute(ctx, o)
		return err
	}
	for chunk, err := range s.client.Stream(ctx, o.command()).Chunks() {
		if err != nil {
			return err
		}
		see(int(chunk.Seq), chunk.Payload, "", chunk.Final)
	}
	return nil
}

// execute runs a command whose chunks go to sinks, and says how often the vehicle was asked.
func (s *sdk) execute(ctx context.Context, o order) (attempts int, _ error) {
	res, err := s.client.Execute(ctx, o.command())
	return res.Attempts, err
}

func (o order) command() vehicle.Command {
	return vehicle.Command{ID: o.id, VehicleID: o.vehicle, Name: o.name, Params: o.values}
}

func (s *sdk) close() error {
	err := s.client.Close()
	if s.after != nil {
		if failed := s.after(); err == nil {
			err = failed
		}
	}
	return err
}
