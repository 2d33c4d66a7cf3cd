package vehicle

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A connection that has been closed since it was the best one never changes again: there is nothing to wait for.
func TestReadyOfAConnectionThatHasBeenClosed(t *testing.T) {
	t.Parallel()
	p, err := newPool(1, func() (*grpc.ClientConn, *streamLimit, error) {
		cc, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
		return cc, new(streamLimit), err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	p.closed = false // as it was when waitReady asked
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ready := make(chan error, 1)
	go func() { ready <- p.waitReady(ctx) }()
	for range 1000 { // it asks, at least once
		runtime.Gosched()
	}
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	if err := <-ready; !errors.Is(err, errPoolClosed) {
		t.Errorf("got %v, want %v", err, errPoolClosed)
	}
}
