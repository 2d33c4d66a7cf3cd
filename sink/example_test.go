package sink_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/vehicletest"
)

var readDTC = vehicle.Command{
	ID:        uuid.MustParse("6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11"),
	VehicleID: uuid.MustParse("123e4567-e89b-42d3-a456-426614174000"),
	Name:      "ReadDTC",
}

// startMock starts a vehicle that answers ReadDTC with two chunks, and a client of it.
func startMock() (client *vehicle.Client, stop func()) {
	server, err := vehicletest.Start(vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Answer(`{"dtc":"P0420"}`, `{"dtc":"U0121-87"}`)}))
	if err != nil {
		panic(err)
	}
	client, err = vehicle.New(server.Target(), server.Options()...)
	if err != nil {
		panic(err)
	}
	return client, func() {
		if err := errors.Join(client.Close(), server.Close()); err != nil {
			panic(err)
		}
	}
}

// What is announced has been stored: the second sink sees a batch when the first has taken it.
func ExampleChain() {
	client, stop := startMock()
	defer stop()

	var store sink.Memory
	announce := sink.Func{
		OnWrite: func(_ context.Context, chunks []vehicle.Chunk) error {
			for _, chunk := range chunks {
				stored := store.Chunks(chunk.CommandID)[chunk.Seq]
				fmt.Printf("stored and announced: %s\n", stored.Payload)
			}
			return nil
		},
		OnEnd: func(_ context.Context, res vehicle.Result) error {
			fmt.Println("stored and announced:", store.Status(res.Command.ID))
			return nil
		},
	}
	if _, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(sink.Chain(&store, announce))); err != nil {
		fmt.Println(err)
	}
	// Output:
	// stored and announced: {"dtc":"P0420"}
	// stored and announced: {"dtc":"U0121-87"}
	// stored and announced: completed
}

// A chain stops at the first failure, and says whose it is.
func ExampleChain_failure() {
	client, stop := startMock()
	defer stop()

	full := sink.Func{OnBegin: func(context.Context, vehicle.Command) error { return errors.New("disk full") }}
	announce := sink.Func{OnBegin: func(context.Context, vehicle.Command) error {
		fmt.Println("this is not reached")
		return nil
	}}
	_, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(sink.Chain(full, announce)))
	fmt.Println(errors.Is(err, vehicle.ErrSink), strings.Contains(err.Error(), "sink 1 of 2 (sink.Func): disk full"))
	// Output:
	// true true
}

// Two stores that do not depend on each other are written to at the same time.
func ExampleTee() {
	client, stop := startMock()
	defer stop()

	var here, there sink.Memory
	res, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(sink.Tee(&here, &there)))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(here.Chunks(res.Command.ID)), len(there.Chunks(res.Command.ID)))
	// Output:
	// 2 2
}

// An announcement that fails is logged, and the command goes on. A counter belongs here as well.
func ExampleBestEffort() {
	client, stop := startMock()
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))

	var store sink.Memory
	broken := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { return errors.New("connection refused") }}
	announce := sink.BestEffort(broken, func(ctx context.Context, commandID uuid.UUID, op string, err error) {
		logger.WarnContext(ctx, "not announced", "command_id", commandID, "op", op, "error", err)
	})
	res, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(&store, announce))
	fmt.Println(res.Status, err, len(store.Chunks(res.Command.ID)))
	// Output:
	// level=WARN msg="not announced" command_id=6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11 op=Write error="connection refused"
	// completed <nil> 2
}

func withoutTime(_ []string, attr slog.Attr) slog.Attr {
	if attr.Key == slog.TimeKey || attr.Key == "duration" {
		return slog.Attr{}
	}
	return attr
}

// The application's own code is a sink.
func ExampleFunc() {
	client, stop := startMock()
	defer stop()

	display := sink.Func{OnWrite: func(_ context.Context, chunks []vehicle.Chunk) error {
		for _, chunk := range chunks {
			fmt.Printf("%d %s %t\n", chunk.Seq, chunk.Payload, chunk.Final)
		}
		return nil
	}}
	if _, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(display)); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 0 {"dtc":"P0420"} false
	// 1 {"dtc":"U0121-87"} true
}

func ExampleMemory() {
	client, stop := startMock()
	defer stop()

	var m sink.Memory
	res, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(&m))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, chunk := range m.Chunks(res.Command.ID) {
		fmt.Println(chunk.Seq, string(chunk.Payload))
	}
	fmt.Println(m.Status(res.Command.ID))
	// Output:
	// 0 {"dtc":"P0420"}
	// 1 {"dtc":"U0121-87"}
	// completed
}

// Each line is read on its own; "event" says what it is.
func ExampleJSONLines() {
	client, stop := startMock()
	defer stop()

	var file strings.Builder // an *os.File
	if _, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(sink.JSONLines(&file))); err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(file.String()) {
		var l struct {
			Event          string          `json:"event"`
			SequenceNumber int32           `json:"sequence_number"`
			Payload        json.RawMessage `json:"response_payload"`
			Status         vehicle.Status  `json:"status"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			fmt.Println(err)
			return
		}
		switch l.Event {
		case "response":
			fmt.Println(l.Event, l.SequenceNumber, string(l.Payload))
		case "status", "error":
			fmt.Println(l.Event, l.Status)
		default:
			fmt.Println(l.Event)
		}
	}
	// Output:
	// begin
	// response 0 {"dtc":"P0420"}
	// response 1 {"dtc":"U0121-87"}
	// status completed
}

func ExampleSlog() {
	client, stop := startMock()
	defer stop()

	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	if _, err := client.Execute(context.Background(), readDTC, vehicle.WithSink(sink.Slog(logger))); err != nil {
		fmt.Println(err)
	}
	// Output:
	// level=INFO msg="command begun" command_id=6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11 vehicle_id=123e4567-e89b-42d3-a456-426614174000 command=ReadDTC
	// level=INFO msg="command ended" command_id=6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11 vehicle_id=123e4567-e89b-42d3-a456-426614174000 command=ReadDTC status=completed chunks=2 replayed=0 attempts=1
}
