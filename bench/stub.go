package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// stub is the generated stub, with a Recv loop and default settings, on one connection. It checks nothing.
type stub struct {
	conn   *grpc.ClientConn
	client vehiclepb.VehicleServiceClient
}

func newStub(target string) (*stub, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &stub{conn: conn, client: vehiclepb.NewVehicleServiceClient(conn)}, nil
}

func (s *stub) run(ctx context.Context, cmd order, see func(int, []byte, string, bool)) error {
	return s.each(ctx, cmd, func(resp *vehiclepb.CommandResponse) error {
		see(int(resp.GetSequenceNumber()), nil, resp.GetResponsePayload(), resp.GetIsFinal())
		return nil
	})
}

// each calls f with each message of an answer.
func (s *stub) each(ctx context.Context, cmd order, f func(*vehiclepb.CommandResponse) error) error {
	stream, err := s.client.ExecuteCommand(ctx, cmd.request())
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(resp); err != nil {
			return err
		}
	}
}

func (s *stub) close() error { return s.conn.Close() }

// request is the command as the stub sends it.
func (o order) request() *vehiclepb.CommandRequest {
	return &vehiclepb.CommandRequest{
		CommandId: o.id.String(), VehicleId: o.vehicle.String(), CommandName: o.name, CommandParams: o.params,
	}
}
