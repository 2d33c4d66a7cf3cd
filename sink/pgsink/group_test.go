package pgsink

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// The network vanishes while the end is stored of a command that began when its caller had gone. To find that out takes 15 s.
func TestACommandThatBeganInVainIsEndedAfterATransactionThatHung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, cmd := newModelServer(), vehicle.Command{ID: uuid.New(), Name: "ReadDTC"}
		var trips atomic.Int32
		server.mishap = func() mishap {
			if trips.Add(1) == 2 { // after Begin's
				return silentBefore
			}
			return allWell
		}
		s := server.newSink(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		defer cancel()
		if err := s.Begin(ctx, cmd); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Begin: got %v, want the deadline", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := server.commands[cmd.ID.String()]; got == nil || got.status != "failed" {
			t.Errorf("got %+v, want a command that failed", got)
		}
	})
}
