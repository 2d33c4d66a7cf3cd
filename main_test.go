package vehicle_test

import (
	"context"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Package net makes its DNS configuration on first use, with a channel. That must not happen in a synctest bubble:
	// no test outside could use it then.
	_, _ = net.DefaultResolver.LookupHost(context.Background(), "localhost")
	goleak.VerifyTestMain(m) // no goroutine outlives the Close of what started it
}
