package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry" //nolint:depguard // shows what it does
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
	"github.com/sovd-go/vehicle/vehicletest"
)

// outcome is what a client makes of one command.
type outcome struct {
	Chunks []string // "number:payload", as the caller sees them
	End    string   // "complete", the error, or that it was given up
	Runs   int      // how often the vehicle began the answer from its start
}

// enough is how many chunks a client may deliver of an answer that has three.
const enough = 10

// TestComparedWithTheBareStubAndMiddlewareRetry is the README's comparison: three clients in the same trouble, over
// TCP. What the other two do is no bug of theirs: they know streams of messages, and not what an answer is.
func TestComparedWithTheBareStubAndMiddlewareRetry(t *testing.T) {
	t.Parallel()
	type script = vehicletest.Script
	var (
		answer = vehicletest.Answer("1", "2", "3")
		cut    = script{vehicletest.Send("1", "2"), vehicletest.Cut()}
	)
	tests := map[string]struct {
		attempts              []script // the last is for all that follow
		resumes               bool     // the vehicle honours x-sovd-resume-from
		once                  bool
		stub, middleware, sdk outcome
	}{
		"nothing is wrong": {
			attempts:   []script{{answer}},
			stub:       outcome{[]string{"0:1", "1:2", "2:3"}, "complete", 1},
			middleware: outcome{[]string{"0:1", "1:2", "2:3"}, "complete", 1},
			sdk:        outcome{[]string{"0:1", "1:2", "2:3"}, "complete", 1},
		},
		"the link is cut in the middle, and the vehicle can resume": {
			attempts:   []script{cut, {vehicletest.Resume(), answer}},
			resumes:    true,
			stub:       outcome{[]string{"0:1", "1:2"}, "Unavailable", 1},
			middleware: outcome{[]string{"0:1", "1:2", "0:1", "1:2", "2:3"}, "complete", 2},
			sdk:        outcome{[]string{"0:1", "1:2", "2:3"}, "complete", 1},
		},
		"the link is cut in the middle, and the vehicle sends everything again": {
			attempts:   []script{cut, {answer}},
			stub:       outcome{[]string{"0:1", "1:2"}, "Unavailable", 1},
			middleware: outcome{[]string{"0:1", "1:2", "0:1", "1:2", "2:3"}, "complete", 2},
			sdk:        outcome{[]string{"0:1", "1:2", "2:3"}, "complete", 2},
		},
		"the link is cut in the middle, and the second run has another answer": {
			attempts:   []script{cut, {vehicletest.Answer("7", "8", "9")}},
			stub:       outcome{[]string{"0:1", "1:2"}, "Unavailable", 1},
			middleware: outcome{[]string{"0:1", "1:2", "0:7", "1:8", "2:9"}, "complete", 2},
			sdk:        outcome{[]string{"0:1", "1:2"}, "ErrReplayDiverged", 2},
		},
		"the link is cut after the first chunk, every time": {
			attempts:   []script{{vehicletest.Send("1"), vehicletest.Cut()}},
			stub:       outcome{[]string{"0:1"}, "Unavailable", 1},
			middleware: outcome{[]string{"0:1", "0:1", "0:1", "0:1", "0:1", "0:1", "0:1", "0:1", "0:1", "0:1"}, "no end in sight", 10},
			sdk:        outcome{[]string{"0:1"}, "ErrUnavailable", 4},
		},
		"the link is cut under a command that must not run twice": {
			attempts:   []script{cut, {answer}},
			once:       true,
			stub:       outcome{[]string{"0:1", "1:2"}, "Unavailable", 1},
			middleware: outcome{[]string{"0:1", "1:2", "0:1", "1:2", "2:3"}, "complete", 2},
			sdk:        outcome{[]string{"0:1", "1:2"}, "ErrUnavailable", 1},
		},
		"the answer stops short, with status OK": {
			attempts:   []script{{vehicletest.Send("1", "2")}},
			stub:       outcome{[]string{"0:1", "1:2"}, "complete", 1},
			middleware: outcome{[]string{"0:1", "1:2"}, "complete", 1},
			sdk:        outcome{[]string{"0:1", "1:2"}, "ErrIncomplete", 1},
		},
		"a chunk is missing": {
			attempts:   []script{{vehicletest.Send("1"), vehicletest.NumberFrom(2), vehicletest.Answer("3")}},
			stub:       outcome{[]string{"0:1", "2:3"}, "complete", 1},
			middleware: outcome{[]string{"0:1", "2:3"}, "complete", 1},
			sdk:        outcome{[]string{"0:1"}, "ErrSequence", 1},
		},
		"a chunk comes twice": {
			attempts:   []script{{vehicletest.Send("1", "2"), vehicletest.NumberFrom(1), vehicletest.Answer("2", "3")}},
			stub:       outcome{[]string{"0:1", "1:2", "1:2", "2:3"}, "complete", 1},
			middleware: outcome{[]string{"0:1", "1:2", "1:2", "2:3"}, "complete", 1},
			sdk:        outcome{[]string{"0:1", "1:2", "2:3"}, "complete", 1},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clients := map[string]struct {
				run  func(context.Context, *testing.T, *vehicletest.Server, vehicle.Command) ([]string, error)
				want outcome
			}{
				"bare stub":                {runStub, test.stub},
				"go-grpc-middleware retry": {runMiddleware, test.middleware},
				"this SDK":                 {runSDK, test.sdk},
			}
			for name, client := range clients {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					server := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.On("ReadDTC", test.attempts...))
					cmd := vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "ReadDTC", Once: test.once}
					chunks, err := client.run(t.Context(), t, server, cmd)
					got := outcome{Chunks: chunks, End: endOf(err), Runs: countRuns(server, test.resumes)}
					if diff := cmp.Diff(client.want, got); diff != "" {
						t.Errorf("outcome (-want +got):\n%s\nthe error: %v", diff, err)
					}
				})
			}
		})
	}
}

func runStub(ctx context.Context, t *testing.T, server *vehicletest.Server, cmd vehicle.Command) ([]string, error) {
	return readAll(ctx, t, server, cmd)
}

// runMiddleware has the policy that its documentation shows, with a wait that suits a test.
func runMiddleware(ctx context.Context, t *testing.T, server *vehicletest.Server, cmd vehicle.Command) ([]string, error) {
	return readAll(ctx, t, server, cmd, grpc.WithChainStreamInterceptor(
		retry.StreamClientInterceptor(retry.WithMax(4), retry.WithBackoff(retry.BackoffLinear(time.Millisecond)))))
}

func runSDK(ctx context.Context, t *testing.T, server *vehicletest.Server, cmd vehicle.Command) ([]string, error) {
	client := server.Client(t, vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 3, BaseDelay: time.Millisecond}))
	var chunks []string
	for chunk, err := range client.Stream(ctx, cmd).Chunks() {
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, fmt.Sprintf("%d:%s", chunk.Seq, chunk.Payload))
	}
	return chunks, nil
}

var errEndless = errors.New("no end in sight")

// readAll reads an answer as gRPC's documentation tells to: until io.EOF.
func readAll(ctx context.Context, t *testing.T, server *vehicletest.Server, cmd vehicle.Command, opts ...grpc.DialOption) ([]string, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := grpc.NewClient(server.Target(), append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := vehiclepb.NewVehicleServiceClient(conn).ExecuteCommand(ctx, &vehiclepb.CommandRequest{
		CommandId: cmd.ID.String(), VehicleId: cmd.VehicleID.String(), CommandName: cmd.Name,
	})
	if err != nil {
		return nil, err
	}
	var chunks []string
	for len(chunks) < enough {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks, nil
		}
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, fmt.Sprintf("%d:%s", chunk.GetSequenceNumber(), chunk.GetResponsePayload()))
	}
	return chunks, errEndless
}

// endOf names an error as the table does.
func endOf(err error) string {
	sentinels := map[string]error{
		"ErrUnavailable":    vehicle.ErrUnavailable,
		"ErrIncomplete":     vehicle.ErrIncomplete,
		"ErrSequence":       vehicle.ErrSequence,
		"ErrReplayDiverged": vehicle.ErrReplayDiverged,
	}
	for name, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	switch code := status.Code(err); {
	case err == nil:
		return "complete"
	case errors.Is(err, errEndless):
		return err.Error()
	default:
		return code.String()
	}
}

// countRuns counts the requests that a vehicle answered from the start.
func countRuns(server *vehicletest.Server, resumes bool) int {
	n := 0
	for _, request := range server.Requests() {
		if !resumes || request.ResumeFrom < 0 {
			n++
		}
	}
	return n
}
