package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/vehicletest"
)

// embed starts a mock vehicle service, and private servers in temporary folders that go with the program.
func embed(ctx context.Context) (_ targets, err error) {
	var started []func() error
	closeAll := func() error {
		var errs []error
		for _, c := range started {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	vehicles, err := vehicletest.Start(vehicletest.WithTCP(), vehicletest.WithHistory(1000), vehicletest.WithResponder(unhurried()))
	if err != nil {
		return targets{}, err
	}
	started = append(started, vehicles.Close)
	pg, err := servers.StartPostgres(ctx)
	if err != nil {
		return targets{}, notInstalled(err, "PostgreSQL 13 or newer (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql)")
	}
	started = append(started, pg.Close)
	rd, err := servers.StartRedis(ctx)
	if err != nil {
		return targets{}, notInstalled(err, "Redis 6.2 or newer (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis)")
	}
	started = append(started, rd.Close)
	return targets{
		database: pg.URL(), redis: rd.URL(),
		vehicle: func(opts ...vehicle.Option) (*vehicle.Client, error) {
			return vehicle.New(vehicles.Target(), append(vehicles.Options(), opts...)...)
		},
		close: closeAll,
	}, nil
}

func notInstalled(err error, what string) error {
	return fmt.Errorf("-embedded needs %s: %w\nOr run both in containers: docker compose -f examples/connector/compose.yaml up", what, err)
}

// unhurried is the built-in vehicles at a pace that can be watched.
func unhurried() vehicletest.Responder {
	fleet := vehicletest.NewFleet(0)
	return func(r *vehicletest.Request) vehicletest.Script {
		var script vehicletest.Script
		for _, step := range fleet.Respond(r) {
			script = append(script, vehicletest.Delay(300*time.Millisecond), step)
		}
		return script
	}
}
