package pgsink

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

func TestTheHalvesOfABatchHaveItsBytes(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	text := []byte(`"\u0000` + strings.Repeat("<", 300<<10) + `"`) // is stored as a longer one
	chunks := []vehicle.Chunk{{CommandID: id, Payload: text}, {CommandID: id, Seq: 1, Payload: text}}
	o, n, err := newWrite(id, chunks, &mark{})
	if err != nil || n != 2 {
		t.Fatalf("got %d chunks, %v", n, err)
	}
	all := o.rows.bytes
	first := o.split()
	if got, want := []int{first.rows.bytes, o.rows.bytes}, all/2; got[0] != want || got[1] != want {
		t.Errorf("got %d bytes, want %d each", got, want)
	}
}
