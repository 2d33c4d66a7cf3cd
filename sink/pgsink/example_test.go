package pgsink_test

import (
	"context"
	"fmt"
	"os"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

// Run a command, store its answer, and read it back.
func Example() {
	if err := readFaults(context.Background()); err != nil {
		fmt.Println(err)
	}
}

func readFaults(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pgsink.Migrate(ctx, pool); err != nil {
		return err
	}
	store := pgsink.New(pool)
	defer store.Close(ctx)

	client, err := vehicle.New("gateway:50051", vehicle.WithInsecure(), vehicle.WithSink(store))
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
