package vehicle_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// FuzzStream sends arbitrary message sequences, cut into attempts, through a client, and holds what arrives
// to the promise: contiguous from 0 or 1, each once, the same for loop and sink, End once, and complete or an error.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 1, 2 | fuzzFinal}, uint8(0))
	f.Add([]byte{0, 1, fuzzCut, 0, 1, 2 | fuzzFinal}, uint8(0))
	f.Add([]byte{1, 2, fuzzCut, 3 | fuzzFinal}, uint8(1))
	f.Add([]byte{0, fuzzOther | 1, fuzzCut, 0, 1, 2 | fuzzFinal}, uint8(0))
	f.Add([]byte{0, fuzzCut, fuzzCut, fuzzFail, 0, 1 | fuzzFinal, 2}, uint8(2))
	f.Add([]byte{3, 2, 1, 0, fuzzGarbage}, uint8(0))
	f.Fuzz(func(t *testing.T, messages []byte, mode uint8) {
		if len(messages) > 200 {
			return
		}
		server := vt.NewServer(t, vt.On("Fuzz", fuzzScripts(messages)...))
		sink := newRecorder(t)
		client := server.Client(t, quickly(), vehicle.WithSink(sink), vehicle.WithReorderWindow(4), vehicle.WithResume(vehicle.ResumeMode(mode%3)))
		cmd := command("Fuzz")
		stream := client.Stream(t.Context(), cmd)
		var seen []vehicle.Chunk
		var failure error
		for chunk, err := range stream.Chunks() {
			if failure != nil {
				t.Fatalf("the loop went on after %v", failure)
			}
			if failure = err; err == nil {
				seen = append(seen, chunk)
			}
		}
		res := stream.Result()
		for i, c := range seen {
			if want := seen[0].Seq + int32(i); c.Seq != want || seen[0].Seq > 1 {
				t.Fatalf("chunk %d has number %d, the first %d", i, c.Seq, seen[0].Seq)
			}
		}
		complete := len(seen) > 0 && seen[len(seen)-1].Final
		if complete != (failure == nil) || complete != (res.Status == vehicle.StatusCompleted) || !errors.Is(res.Err, failure) {
			t.Fatalf("complete %t, error %v, result %+v", complete, failure, res)
		}
		if slices.ContainsFunc(seen[:max(len(seen)-1, 0)], func(c vehicle.Chunk) bool { return c.Final }) {
			t.Fatal("a final chunk is not the last")
		}
		if sink.ends() != 1 || len(sink.chunks[cmd.ID]) != res.Chunks || res.Chunks != len(seen) {
			t.Fatalf("the sink got %d ends and %d chunks, the loop %d, the result says %d", sink.ends(), len(sink.chunks[cmd.ID]), len(seen), res.Chunks)
		}
	})
}

// Bytes of FuzzStream's input that are not a chunk's number.
const (
	fuzzFinal   = 0x40 // with a number: the chunk is final
	fuzzOther   = 0x20 // with a number: another payload than on other attempts
	fuzzCut     = 0xff
	fuzzFail    = 0xfe
	fuzzGarbage = 0xfd
)

func fuzzScripts(messages []byte) []vt.Script {
	scripts := []vt.Script{nil}
	for _, b := range messages {
		var step vt.Step
		switch {
		case b == fuzzCut:
			step = vt.Cut()
		case b == fuzzFail:
			step = vt.Fail(codes.Unavailable, "asleep")
		case b == fuzzGarbage:
			step = vt.SendBytes([]byte{0xff})
		case b >= 0x80:
			step = vt.Send("") // numbered by the server
		default:
			m := &vehiclepb.CommandResponse{SequenceNumber: int32(b & 0x1f), IsFinal: b&fuzzFinal != 0, ResponsePayload: "0"}
			if b&fuzzOther != 0 {
				m.ResponsePayload = "1"
			}
			step = vt.SendRaw(m)
		}
		n := len(scripts) - 1
		scripts[n] = append(scripts[n], step)
		if b == fuzzCut || b == fuzzFail {
			scripts = append(scripts, nil)
		}
	}
	for i := range scripts {
		if scripts[i] == nil { // nil would leave the attempt to the built-in vehicles
			scripts[i] = vt.Script{func(context.Context, *vt.Call) error { return nil }}
		}
	}
	return scripts
}
