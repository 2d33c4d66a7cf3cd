package pgsink_test

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// Run a command, store its answer, and read it back.
func Example() {
	if err := readFaults(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 0: {"dtc": "P0420", "ecu": "ECM"}
	// 1: {"dtc": "C0035-13", "ecu": "ABS"}
}

func readFaults(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, exampleURL()) // postgres://localhost:5432/diagnostics
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pgsink.Migrate(ctx, pool); err != nil {
		return err
	}
	store := pgsink.New(pool)
	defer store.Close(ctx)

	gateway, err := vehicletest.Start(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Answer(`{"ecu":"ECM","dtc":"P0420"}`, `{"ecu":"ABS","dtc":"C0035-13"}`)}))
	if err != nil {
		return err
	}
	defer gateway.Close()
	client, err := vehicle.New(gateway.Target(), append(gateway.Options(), vehicle.WithSink(store))...)
	if err != nil {
		return err
	}
	defer client.Close()
	res, err := client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
	if err != nil {
		return err
	}
	for chunk, err := range store.History(ctx, res.Command.ID) {
		if err != nil {
			return err
		}
		fmt.Printf("%d: %s\n", chunk.Seq, chunk.Payload)
	}
	return nil
}
