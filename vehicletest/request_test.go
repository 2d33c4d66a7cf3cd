package vehicletest

import (
	"testing"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// A program that runs for long keeps nothing of what it has forgotten.
func TestTheRecorderForgetsAllOfARequest(t *testing.T) {
	t.Parallel()
	rec := recorder{limit: 2}
	for range 5 {
		r := rec.arrive(t.Context(), &vehiclepb.CommandRequest{CommandId: uuid.NewString()}, new(conn))
		close(r.done)
	}
	if r, f, tries, kept := len(rec.requests), len(rec.forgotten), len(rec.tries), len(rec.kept); r != 2 || f != 0 || tries != 2 || kept != 2 {
		t.Errorf("got %d requests, %d forgotten ones, %d numbers of tries, %d of requests, want 2, 0, 2, 2", r, f, tries, kept)
	}
	rec.all()[0] = nil
	if rec.all()[0] == nil {
		t.Error("the slice was not the caller's")
	}
}
