package main

import (
	"fmt"
	"os"
	"time"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

// service is the vehicle service that the program talks to.
type service struct {
	client *vehicle.Client
	close  func()
	shown  func(vehicle.Command, vehicle.Chunk) // is told which chunks are on the screen
}

// connect talks to the target as the VEHICLE_* variables say, or starts a mock.
func connect(set settings, screen *screen, opts ...vehicle.Option) (*service, error) {
	if set.target == "" {
		return startMock(screen, opts)
	}
	if err := os.Setenv("VEHICLE_ENDPOINT_URL", set.target); err != nil {
		return nil, err
	}
	client, err := vehicle.NewFromEnv(opts...)
	if err != nil {
		return nil, err
	}
	screen.printf("Vehicle service at %s\n", set.target)
	return &service{
		client: client,
		close:  func() { _ = client.Close() },
		shown:  func(vehicle.Command, vehicle.Chunk) {},
	}, nil
}

// startMock serves vehicles on a port of this machine. When certain chunks of the long answer are on the screen, it
// cuts the link under it: the TCP connection is reset, without a word.
func startMock(screen *screen, opts []vehicle.Option) (*service, error) {
	server, err := vehicletest.Start(vehicletest.WithTCP(), vehicletest.On(longCommand, tunnels()...))
	if err != nil {
		return nil, err
	}
	opts = append(opts, vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: 200 * time.Millisecond})) // nobody likes to wait
	client, err := vehicle.New(server.Target(), append(server.Options(), opts...)...)
	if err != nil {
		_ = server.Close()
		return nil, err
	}
	screen.printf("Mock vehicle service at %s\n", server.Target())
	return &service{
		client: client,
		close: func() {
			_ = client.Close()
			_ = server.Close()
		},
		shown: func(cmd vehicle.Command, chunk vehicle.Chunk) {
			if cmd.Name == longCommand && (chunk.Seq == firstTunnel || chunk.Seq == secondTunnel) {
				screen.note("the link is cut")
				server.CutConnections()
			}
		},
	}, nil
}

// The long answer: each fault's snapshot records (UDS service 0x19, sub-function 0x04), one to a chunk.
const (
	longCommand  = "ReadDTCSnapshots"
	firstTunnel  = 4
	secondTunnel = 8
	pace         = 30 * time.Millisecond
)

// tunnels scripts the attempts at the long answer. The first two wait in the middle for the cut. The second begins
// where it is asked to; the third is an older gateway's, which begins at the start whatever it is asked.
func tunnels() []vehicletest.Script {
	var all vehicletest.Script
	payloads := snapshots()
	for i, payload := range payloads {
		send := vehicletest.Send(payload)
		if i == len(payloads)-1 {
			send = vehicletest.Answer(payload)
		}
		all = append(all, send)
	}
	return []vehicletest.Script{
		append(slowly(all[:firstTunnel+1]), vehicletest.Stall()),
		append(vehicletest.Script{vehicletest.Resume()}, append(slowly(all[:secondTunnel+1]), vehicletest.Stall())...),
		slowly(all),
	}
}

func slowly(steps vehicletest.Script) vehicletest.Script {
	var script vehicletest.Script
	for _, step := range steps {
		script = append(script, vehicletest.Delay(pace), step)
	}
	return script
}

func snapshots() []string {
	faults := []struct {
		ecu, code string
		records   int
	}{
		{"0x10", "P0442", 3}, {"0x18", "P0741-00", 3}, {"0x28", "C0035-13", 2}, {"0x40", "B1318", 2}, {"0xD0", "U0073-88", 2},
	}
	var payloads []string
	for i, fault := range faults {
		for record := range fault.records {
			payloads = append(payloads, fmt.Sprintf(`{"status":"reading","ecuAddress":%q,"dtcCode":%q,"snapshotRecord":"0x%02X",`+
				`"values":{"engineSpeed":%d,"vehicleSpeed":%d,"engineCoolantTemperature":%d}}`,
				fault.ecu, fault.code, record+1, 850+300*i+100*record, 11*i+7*record, 71+3*i+record))
		}
	}
	return payloads
}
