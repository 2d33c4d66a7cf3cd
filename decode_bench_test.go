package vehicle

import (
	"fmt"
	"hash/maphash"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// benchmarkFault is a fault as SOVD has it, of about 200 bytes.
const benchmarkFault = `{"code":"P0420","fault_name":"Catalyst efficiency below threshold","severity":2,"display_code":"P0420-00",` +
	`"status":{"testFailed":"1","confirmedDTC":"1","aggregatedStatus":"active"},"occurrences":12,"mileage":10423}`

// BenchmarkDecode is what a message costs after gRPC has received it: the generated message alone, as the stub does it, and
// the chunk with all its checks.
func BenchmarkDecode(b *testing.B) {
	cmd, err := prepare(Command{VehicleID: [16]byte{1}, Name: "ReadDTC"})
	if err != nil {
		b.Fatal(err)
	}
	for _, payload := range []string{benchmarkFault, `{"items":[` + strings.Repeat(benchmarkFault+",", 18) + benchmarkFault + `]}`} {
		data, err := proto.Marshal(&vehiclepb.CommandResponse{
			CommandId: cmd.request.GetCommandId(), ResponsePayload: payload, SequenceNumber: 300, Timestamp: "2025-10-31T14:30:00.123456",
		})
		if err != nil {
			b.Fatal(err)
		}
		frame := mem.BufferSlice{mem.SliceBuffer(data)}
		b.Run(fmt.Sprintf("%dB/proto", len(payload)), func(b *testing.B) {
			b.ReportAllocs()
			codec := protobuf()
			for b.Loop() {
				if err := codec.Unmarshal(frame, new(vehiclepb.CommandResponse)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%dB/sdk", len(payload)), func(b *testing.B) {
			b.ReportAllocs()
			r := receiver{cmd: &cmd, wire: testCodec(cmd.request)}
			seed := maphash.MakeSeed()
			var c Chunk
			for b.Loop() {
				if err := r.wire.Unmarshal(frame, r.wire.scratch()); err != nil {
					b.Fatal(err)
				}
				if err := r.decode(r.wire.scratch(), &c); err != nil {
					b.Fatal(err)
				}
				if _, err := check(&c, seed); err != nil || len(c.Payload) != len(payload) {
					b.Fatal(err)
				}
			}
		})
	}
}
