package vehicletest

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/vehiclepb"
)

func TestMessagesAreEncodedAsProtobufDoes(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*vehiclepb.CommandResponse{
		"an empty one":      {},
		"all fields":        {CommandId: "c", ResponsePayload: "p", SequenceNumber: 300, IsFinal: true, Timestamp: "t"},
		"a negative number": {SequenceNumber: -1},
	} {
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := encode(m); !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
}
