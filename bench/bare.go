package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// bare is gRPC with the SDK's windows and read buffers (see dial.go), and with messages that are read in the memory that they came
// in. It checks no more than the stub: what it gains over that is about what there is to gain on top of gRPC, for all that the SDK
// does. Its frames come from gRPC's own pool, which for 4 KiB costs it what frames.go saves.
type bare struct{ *stub }

func newBare(target string) (*bare, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(16<<20), grpc.WithReadBufferSize(128<<10))
	if err != nil {
		return nil, err
	}
	return &bare{&stub{conn: conn, client: vehiclepb.NewVehicleServiceClient(conn)}}, nil
}

func (b *bare) run(ctx context.Context, cmd order, see func(int, []byte, string, bool)) error {
	stream, err := b.client.ExecuteCommand(ctx, cmd.request(), grpc.StaticMethod(), grpc.ForceCodecV2(inPlace{encoding.GetCodecV2("proto")}))
	if err != nil {
		return err
	}
	var m message
	for {
		switch err := stream.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		see(m.seq, m.payload, "", m.final)
	}
}

// message is what is seen of a CommandResponse.
type message struct {
	payload []byte
	seq     int
	final   bool
}

// inPlace is a codec that reads messages where they are.
type inPlace struct{ encoding.CodecV2 }

func (inPlace) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return errors.New("not a message")
	}
	*m = message{}
	var text []byte
	if frame, alone := data[0].(mem.SliceBuffer); alone && len(data) == 1 {
		text = frame
	} else {
		text = data.Materialize() // it goes back to a pool
	}
	for len(text) > 0 {
		number, kind, n := protowire.ConsumeTag(text)
		if n < 0 {
			return protowire.ParseError(n)
		}
		text = text[n:]
		switch kind {
		case protowire.BytesType:
			var field []byte
			if field, n = protowire.ConsumeBytes(text); number == 2 {
				m.payload = field
			}
		case protowire.VarintType:
			var x uint64
			if x, n = protowire.ConsumeVarint(text); number == 3 {
				m.seq = int(int32(x))
			} else if number == 10 {
				m.final = x != 0
			}
		default:
			n = protowire.ConsumeFieldValue(number, kind, text)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		text = text[n:]
	}
	return nil
}
