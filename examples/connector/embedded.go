package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/vehicletest"
)

// startEmbedded starts a mock vehicle service, and private servers in temporary folders that go with the program.
func startEmbedded(ctx context.Context) (_ targets, err error) {
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
	vehicles, err := vehicletest.Start(vehicletest.WithTCP(), vehicletest.WithHistory(1000), vehicletest.WithResponder(demonstration(pace)),
		vehicletest.WithServerOptions(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true})))
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
		cut:   vehicles.CutConnections,
		close: closeAll,
	}, nil
}

func notInstalled(err error, what string) error {
	return fmt.Errorf("-embedded needs %s: %w\nOr run both in containers: docker compose -f examples/connector/compose.yaml up", what, err)
}
