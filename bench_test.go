package vehicle_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// BenchmarkPoolSize is what the default of WithPoolSize was chosen by: 1,024 commands at once, of 50 ms each, against a
// server that takes 100 streams on a connection; the baseline is the generated stub on one connection.
func BenchmarkPoolSize(b *testing.B) {
	const atOnce = 1024
	server := vt.NewServer(b, vt.WithTCP(), vt.WithHistory(1), vt.WithServerOptions(grpc.MaxConcurrentStreams(100), grpc.WriteBufferSize(32<<10)),
		vt.On("Slow", vt.Script{vt.Send(`0`, `1`), vt.Delay(50 * time.Millisecond), vt.Answer(`2`)}))
	run := func(b *testing.B, execute func() error) {
		b.Helper()
		for b.Loop() {
			var wg sync.WaitGroup
			for range atOnce {
				wg.Go(func() {
					if err := execute(); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
		}
		b.ReportMetric(float64(atOnce*b.N)/b.Elapsed().Seconds(), "commands/s")
	}
	b.Run("stub", func(b *testing.B) {
		stub := dialStub(b, server)
		run(b, func() error {
			_, err := drain(b, stub, "Slow")
			return err
		})
	})
	for _, size := range []int{1, 2, 4, 8, 12, 16, 24, 32} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			client := server.Client(b, vehicle.WithPoolSize(size))
			run(b, func() error {
				_, err := client.Execute(b.Context(), command("Slow"))
				return err
			})
		})
	}
}

// BenchmarkStream is one long answer, chunk by chunk, beside the generated stub's Recv loop.
func BenchmarkStream(b *testing.B) {
	const chunks = 10_000
	for _, size := range []int{200, 4096} {
		payload := `{"record":"` + strings.Repeat("x", size-13) + `"}`
		payloads := make([]string, chunks)
		for i := range payloads {
			payloads[i] = payload
		}
		server := vt.NewServer(b, vt.WithTCP(), vt.WithHistory(1), vt.WithServerOptions(grpc.WriteBufferSize(32<<10)), vt.On("Long", vt.Script{vt.Answer(payloads...)}))
		b.Run(fmt.Sprintf("%dB/stub", size), func(b *testing.B) {
			stub := dialStub(b, server)
			b.ReportAllocs()
			for b.Loop() {
				if n, err := drain(b, stub, "Long"); err != nil || n != chunks {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(chunks*b.N)/b.Elapsed().Seconds(), "chunks/s")
		})
		b.Run(fmt.Sprintf("%dB/sdk", size), func(b *testing.B) {
			client := server.Client(b)
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for _, err := range client.Stream(b.Context(), command("Long")).Chunks() {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
				if n != chunks {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(chunks*b.N)/b.Elapsed().Seconds(), "chunks/s")
		})
	}
}

func dialStub(b *testing.B, server *vt.Server) vehiclepb.VehicleServiceClient {
	b.Helper()
	cc, err := grpc.NewClient(server.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cc.Close() })
	return vehiclepb.NewVehicleServiceClient(cc)
}

// drain is what people write around the stub.
func drain(b *testing.B, stub vehiclepb.VehicleServiceClient, name string) (n int, _ error) {
	cmd := command(name)
	stream, err := stub.ExecuteCommand(b.Context(), &vehiclepb.CommandRequest{CommandId: cmd.ID.String(), VehicleId: cmd.VehicleID.String(), CommandName: name})
	if err != nil {
		return 0, err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n++
	}
}
