package vehicletest

import (
	"testing"

	"github.com/sovd-go/vehicle"
)

// Client gives a client of the server that is closed with the test. The options come after those of
// [Server.Options]. It fails the test where [vehicle.New] fails.
func (s *Server) Client(tb testing.TB, opts ...vehicle.Option) *vehicle.Client {
	tb.Helper()
	client, err := vehicle.New(s.Target(), append(s.Options(), opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := client.Close(); err != nil {
			tb.Errorf("closing the client: %v", err)
		}
	})
	return client
}
