package vehicletest_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestTheSDKReachesTheServerWithItsOptions(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, opts ...vehicletest.Option) {
		s := vehicletest.NewServer(t, opts...)
		res, err := s.Client(t).Execute(t.Context(), vehicle.Command{VehicleID: uuid.MustParse(vehicleID), Name: "ReadDTC"})
		if err != nil {
			t.Fatal(err)
		}
		if res.Chunks != 3 || res.Attempts != 1 {
			t.Errorf("got %d chunks in %d attempts, want 3 in 1", res.Chunks, res.Attempts)
		}
		wantEnd(t, s.Requests()[0], vehicletest.Finished)
	})
}

func TestTheSDKReachesATLSServerWithItsOptions(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	config := ca.serverConfig(t, "vehicles.example")
	other := config.Clone()
	other.NextProtos = []string{"http/1.1"}
	for name, server := range map[string]*tls.Config{
		"one configuration":                config,
		"one that offers another protocol": other,
		"one for each client": {
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config, nil },
		},
		"none of its own for this client": {
			MinVersion:         tls.VersionTLS12,
			Certificates:       config.Certificates,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, opts ...vehicletest.Option) {
				s := vehicletest.NewServer(t, append(opts, vehicletest.WithTLS(server, vehicle.WithTLS(ca.clientConfig("vehicles.example"))))...)
				client := s.Client(t, vehicle.WithoutRetry())
				if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ClearDTC"}); err != nil {
					t.Fatal(err)
				}
				if s.Requests()[0].TLS == nil {
					t.Error("the request came without TLS")
				}
				if config.NextProtos != nil {
					t.Errorf("the caller's configuration was changed: it offers %v", config.NextProtos)
				}
			})
		})
	}
}

// A link that breaks after each chunk costs replays and no answer, whether or not the server knows how to resume.
func TestTheSDKGetsThroughACutLink(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		first    []vehicletest.Step
		replayed int
	}{
		"a server that resumes": {[]vehicletest.Step{vehicletest.Resume()}, 0},
		"one that does not":     {nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, opts ...vehicletest.Option) {
				s := vehicletest.NewServer(t, append(opts, vehicletest.On("ReadDTC",
					vehicletest.Script{vehicletest.Send("0", "1"), vehicletest.Cut()},
					append(vehicletest.Script(tt.first), vehicletest.Answer("0", "1", "2"))))...)
				client := s.Client(t, vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond}))
				res, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
				if err != nil {
					t.Fatal(err)
				}
				if res.Chunks != 3 || res.Replayed != tt.replayed {
					t.Errorf("got %d chunks, %d of them replayed, want 3 and %d", res.Chunks, res.Replayed, tt.replayed)
				}
				second := s.Requests()[1]
				if second.Attempt != 2 || second.ResumeFrom != 2 {
					t.Errorf("the second request: got attempt %d and resume-from %d, want 2 and 2", second.Attempt, second.ResumeFrom)
				}
			})
		})
	}
}
