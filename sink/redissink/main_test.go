package redissink_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sovd-go/vehicle/internal/servers"
)

// sharedURL is the server of the tests that neither stop nor fill one: VEHICLE_TEST_REDIS_URL, or a private one.
var sharedURL string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	redis.SetLogger(silence{}) // it prints what it cannot dial, which is what the tests are about
	sharedURL = os.Getenv("VEHICLE_TEST_REDIS_URL")
	if sharedURL == "" {
		server, err := servers.StartRedis(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer server.Close()
		sharedURL = server.URL()
	}
	idle := []goleak.Option{
		goleak.IgnoreCurrent(), // what waits for the server's process
		// go-redis asks a second after a pool was closed whether to dial again.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	}
	code := m.Run()
	if err := goleak.Find(idle...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
