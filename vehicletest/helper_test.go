package vehicletest_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle/vehiclepb"
	"github.com/sovd-go/vehicle/vehicletest"
)

const vehicleID = "123e4567-e89b-42d3-a456-426614174000"

// stub is the generated client, without the SDK: it shows the server's behaviour as it is on the wire.
func stub(t testing.TB, s *vehicletest.Server, opts ...grpc.DialOption) vehiclepb.VehicleServiceClient {
	t.Helper()
	all := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(s.Dial),
		grpc.WithDisableRetry(),
	}
	conn, err := grpc.NewClient(s.Target(), append(all, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return vehiclepb.NewVehicleServiceClient(conn)
}

func request(name string) *vehiclepb.CommandRequest {
	return &vehiclepb.CommandRequest{CommandId: uuid.NewString(), VehicleId: vehicleID, CommandName: name}
}

// ask reads an answer to its end. The error is nil where the status is OK.
func ask(ctx context.Context, client vehiclepb.VehicleServiceClient, req *vehiclepb.CommandRequest, opts ...grpc.CallOption) ([]*vehiclepb.CommandResponse, error) {
	stream, err := client.ExecuteCommand(ctx, req, opts...)
	if err != nil {
		return nil, err
	}
	var chunks []*vehiclepb.CommandResponse
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks, nil
		}
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, chunk)
	}
}

func mustAsk(t *testing.T, client vehiclepb.VehicleServiceClient, req *vehiclepb.CommandRequest) []*vehiclepb.CommandResponse {
	t.Helper()
	chunks, err := ask(t.Context(), client, req)
	if err != nil {
		t.Fatalf("%s: got error %v, want none", req.GetCommandName(), err)
	}
	return chunks
}

func payloads(chunks []*vehiclepb.CommandResponse) []string {
	var texts []string
	for _, c := range chunks {
		texts = append(texts, c.GetResponsePayload())
	}
	return texts
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("got code %v (%v), want %v", got, err, want)
	}
}

func wantEnd(t *testing.T, r *vehicletest.Request, want vehicletest.Ending) {
	t.Helper()
	got, err := r.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.How != want {
		t.Errorf("call ended as the server saw it: got %v, want %v", got, want)
	}
}

// transports runs a test in memory and over TCP.
func transports(t *testing.T, test func(t *testing.T, opts ...vehicletest.Option)) {
	t.Run("in memory", func(t *testing.T) { t.Parallel(); test(t) })
	t.Run("over TCP", func(t *testing.T) { t.Parallel(); test(t, vehicletest.WithTCP()) })
}
