package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// troubled is a sink whose calls fail as they are told.
type troubled struct{ begin, write, end func(context.Context) error }

func (s troubled) Begin(ctx context.Context, _ vehicle.Command) error { return orNil(ctx, s.begin) }
func (s troubled) Write(ctx context.Context, _ []vehicle.Chunk) error { return orNil(ctx, s.write) }
func (s troubled) End(ctx context.Context, _ vehicle.Result) error    { return orNil(ctx, s.end) }
func orNil(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	return f(ctx)
}

func fails(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// mishap is a command that goes wrong: what the vehicle does in its attempts, and what the caller does.
type mishap struct {
	want    string // the sentinel
	scripts []vt.Script
	opts    []vehicle.Option
	ruin    func(*vehicle.Command) // nil: the command is in order
	// connect makes the server, with these options at least, and a client of it; nil: in memory, in plaintext.
	connect func(t *testing.T, opts ...vt.Option) *vehicle.Client
	// run runs it; nil: Execute without further ado.
	run func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error
}

func execute(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
	_, err := client.Execute(ctx, cmd)
	return err
}

// happen runs the mishap in a bubble, on its clock, and gives the error.
func (m mishap) happen(t *testing.T, check func(t *testing.T, err error)) {
	synctest.Test(t, func(t *testing.T) {
		connect := m.connect
		if connect == nil {
			connect = func(t *testing.T, opts ...vt.Option) *vehicle.Client {
				return vt.NewServer(t, opts...).Client(t, m.opts...)
			}
		}
		client := connect(t, vt.On("ReadDTC", m.scripts...))
		cmd := vehicle.Command{
			ID:        uuid.MustParse("7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5"),
			VehicleID: uuid.MustParse("123e4567-e89b-42d3-a456-426614174000"),
			Name:      "ReadDTC",
			Params:    map[string]any{"mask": secret},
		}
		if m.ruin != nil {
			m.ruin(&cmd)
		}
		run := m.run
		if run == nil {
			run = execute
		}
		err := run(t.Context(), client, cmd)
		if err == nil {
			t.Fatal("got no error")
		}
		check(t, err)
	})
}

// secret stands for a parameter's value: no error and no record may hold it.
const secret = "0xFF-secret-mask"

const vin = "WVWZZZ1JZXW000001"

// leaky fails to encode, and tells what.
type leaky struct{ text string }

func (l leaky) MarshalJSON() ([]byte, error) { return nil, errors.New("cannot encode " + l.text) }

// mishaps has one for each kind of error; their texts are in testdata/errors.golden.
func mishaps() map[string]mishap {
	all := commandMishaps()
	maps.Copy(all, answerMishaps())
	maps.Copy(all, linkMishaps())
	return all
}

// commandMishaps are those of commands: what the caller, the service and the sinks do.
func commandMishaps() map[string]mishap {
	unavailable := vt.Fail(codes.Unavailable, "gateway restarting")
	three := vt.Send(`{"dtc":"P0420-00"}`, `{"dtc":"C0035-11"}`, `{"dtc":"U0121-87"}`)
	return map[string]mishap{
		"the command has no name": {want: "ErrInvalidCommand",
			ruin: func(c *vehicle.Command) { c.Name = "" }},
		"the command has no vehicle": {want: "ErrInvalidCommand",
			ruin: func(c *vehicle.Command) { c.VehicleID = uuid.Nil }},
		"a parameter cannot be encoded": {want: "ErrInvalidCommand",
			ruin: func(c *vehicle.Command) { c.Params = map[string]any{"mask": leaky{secret}} }},
		"an option of the call makes no sense": {want: "ErrInvalidCommand",
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				_, err := client.Execute(ctx, cmd, vehicle.WithReorderWindow(-1))
				return err
			}},
		"the command is running": {want: "ErrInvalidCommand", scripts: []vt.Script{{vt.Answer(`1`)}}, opts: []vehicle.Option{vehicle.WithSink(troubled{})},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) (err error) {
				for range client.Stream(ctx, cmd).Chunks() {
					err = execute(ctx, client, cmd)
				}
				return err
			}},
		"the stream is used a second time": {want: "ErrInvalidCommand", scripts: []vt.Script{{vt.Answer(`1`)}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				stream := client.Stream(ctx, cmd)
				for range stream.Chunks() { // only the second loop is of interest
				}
				return lastError(stream.Chunks())
			}},
		"the service finds an argument invalid": {want: "ErrInvalidCommand",
			scripts: []vt.Script{{vt.Refuse(0x19, vt.NRCRequestOutOfRange)}}},
		"the service finds the vehicle in the wrong state": {want: "ErrInvalidCommand",
			scripts: []vt.Script{{vt.Refuse(0x19, vt.NRCConditionsNotCorrect)}}},
		"the service finds an argument out of range": {want: "ErrInvalidCommand",
			scripts: []vt.Script{{vt.Fail(codes.OutOfRange, "no such memory block")}}},
		"the service does not know the vehicle": {want: "ErrVehicleNotFound",
			scripts: []vt.Script{{vt.Fail(codes.NotFound, "no vehicle with VIN "+vin)}}},
		"the attempts run out of time": {want: "ErrTimeout",
			scripts: []vt.Script{{three, vt.Stall()}, {vt.Stall()}}},
		"the attempts are silent for too long": {want: "ErrTimeout",
			opts:    []vehicle.Option{vehicle.WithIdleTimeout(5 * time.Second)},
			scripts: []vt.Script{{three, vt.Stall()}}},
		"no connection comes up in time": {want: "ErrTimeout",
			opts: []vehicle.Option{vehicle.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})), vehicle.WithAttemptTimeout(5 * time.Second)}},
		"the service runs out of time": {want: "ErrTimeout", scripts: []vt.Script{{vt.Fail(codes.DeadlineExceeded, "ECU did not answer within P2*")}}},
		"the caller's deadline passes": {want: "ErrTimeout", scripts: []vt.Script{{three, vt.Stall()}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				return execute(ctx, client, cmd)
			}},
		"the caller's deadline passes before a retry": {want: "ErrTimeout", scripts: []vt.Script{{unavailable}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
				return execute(ctx, client, cmd)
			}},
		"the service stays unavailable": {want: "ErrUnavailable", scripts: []vt.Script{{unavailable}}},
		"the service cannot be reached": {want: "ErrUnavailable",
			opts: []vehicle.Option{vehicle.WithoutRetry(), vehicle.WithDialOptions(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				return nil, errors.New("no route to the gateway")
			}))}},
		"the caller cancels": {want: "ErrCanceled", scripts: []vt.Script{{vt.Stall()}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				ctx, cancel := context.WithCancel(ctx)
				defer time.AfterFunc(time.Second, cancel).Stop()
				return execute(ctx, client, cmd)
			}},
		"the caller has cancelled before": {want: "ErrCanceled",
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				ctx, cancel := context.WithCancel(ctx)
				cancel()
				return execute(ctx, client, cmd)
			}},
		"the caller leaves the loop": {want: "ErrCanceled", scripts: []vt.Script{{three, vt.Stall()}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				stream := client.Stream(ctx, cmd)
				for range stream.Chunks() {
					break
				}
				return stream.Result().Err
			}},
		"the service cancels": {want: "ErrCanceled", scripts: []vt.Script{{vt.Fail(codes.Canceled, "operator stopped the session")}}},
		"the caller is not known": {want: "ErrUnauthorized",
			scripts: []vt.Script{{vt.Fail(codes.Unauthenticated, "token expired")}}},
		"the caller lacks a permission": {want: "ErrUnauthorized",
			scripts: []vt.Script{{vt.Refuse(0x19, vt.NRCSecurityAccessDenied)}}},
		"the service is overloaded": {want: "ErrOverloaded",
			scripts: []vt.Script{{vt.Fail(codes.ResourceExhausted, "40 sessions are open")}}},
		"the service fails":                {want: "ErrInternal", scripts: []vt.Script{{vt.Fail(codes.Internal, "DoIP socket closed")}}},
		"the service fails without a word": {want: "ErrInternal", scripts: []vt.Script{{vt.Fail(codes.Unknown, "")}}},
		"a payload is not JSON":            {want: "ErrMalformedResponse", scripts: []vt.Script{{vt.Send(`1`, `{"dtc":`)}}},
		"a chunk answers another command": {want: "ErrMalformedResponse",
			scripts: []vt.Script{{vt.SendEdited(`1`, func(m *vehiclepb.CommandResponse) { m.CommandId = "00000000-0000-4000-8000-000000000000" })}}},
		"a message is over the limit": {want: "ErrMalformedResponse", opts: []vehicle.Option{vehicle.WithMaxMessageSize(1000)},
			scripts: []vt.Script{{vt.Answer(`"` + strings.Repeat("F", 1000) + `"`)}}},
		"the answer has no end":        {want: "ErrIncomplete", scripts: []vt.Script{{three}}},
		"the answer has a gap":         {want: "ErrSequence", scripts: []vt.Script{{vt.SendRaw(seq(0, `1`), last(seq(2, `3`)))}}},
		"the reorder window overflows": {want: "ErrSequence", opts: []vehicle.Option{vehicle.WithReorderWindow(1)}, scripts: []vt.Script{{vt.SendRaw(seq(0, `1`), seq(2, `3`), seq(3, `4`)), vt.Stall()}}},
		"the replay is another answer": {want: "ErrReplayDiverged", opts: []vehicle.Option{quickly()},
			scripts: []vt.Script{{vt.Send(`1`, `2`), unavailable}, {vt.Answer(`1`, `3`, `4`)}}},
		"a sink refuses the command": {want: "ErrSink",
			opts: []vehicle.Option{vehicle.WithSink(troubled{begin: fails(errors.New("relation \"commands\" does not exist"))})}},
		"a sink cannot write": {want: "ErrSink", scripts: []vt.Script{{vt.Answer(`1`)}},
			opts: []vehicle.Option{vehicle.WithSink(troubled{write: fails(errors.New("disk full\nHINT: free some space"))})}},
		"a sink cannot end": {want: "ErrSink", scripts: []vt.Script{{vt.Answer(`1`)}},
			opts: []vehicle.Option{vehicle.WithSink(troubled{end: fails(errors.New("connection lost"))})}},
		"a sink panics": {want: "ErrSink", scripts: []vt.Script{{vt.Answer(`1`)}},
			opts: []vehicle.Option{vehicle.WithSink(troubled{write: func(context.Context) error { panic("index out of range") }})}},
		"a sink takes too long": {want: "ErrSink", scripts: []vt.Script{{three, vt.Stall()}},
			opts: []vehicle.Option{vehicle.WithSink(troubled{write: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})}},
		"the client is closed": {want: "ErrClosed",
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				return errors.Join(client.Close(), execute(ctx, client, cmd))
			}},
		"the client is closed while the command runs": {want: "ErrClosed", scripts: []vt.Script{{three, vt.Stall()}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				closed := make(chan error, 1)
				defer time.AfterFunc(time.Second, func() { closed <- client.Close() }).Stop()
				return errors.Join(execute(ctx, client, cmd), <-closed)
			}},
		"no connection is ready before the caller's deadline": {want: "ErrTimeout",
			opts: []vehicle.Option{vehicle.WithDialOptions(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				return nil, errors.New("no route to the gateway")
			}))},
			run: func(ctx context.Context, client *vehicle.Client, _ vehicle.Command) error {
				ctx, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				return client.WaitReady(ctx)
			}},
	}
}

func lastError(chunks iter.Seq2[vehicle.Chunk, error]) (err error) {
	for _, err = range chunks {
	}
	return err
}

// The message is part of the product. UPDATE_ERRORS=1 go test -run TestErrorTexts . rewrites the golden file.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	const file = "testdata/errors.golden"
	want := map[string]string{}
	golden, err := os.ReadFile(file)
	if err != nil && os.Getenv("UPDATE_ERRORS") == "" {
		t.Fatal(err)
	}
	for entry := range strings.SplitSeq(strings.TrimSpace(string(golden)), "\n\n") {
		name, text, _ := strings.Cut(entry, "\n\t")
		want[name] = text
	}
	line := regexp.MustCompile(`(mishap_(?:link_)?test\.go):\d+`) // of a panic
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)          // synctest's
	plain := strings.NewReplacer("\u00a0", " ",                   // protobuf varies its spaces, lest anyone compare its texts
		start.Local().Format(time.RFC3339), start.Format(time.RFC3339)) // crypto/x509 speaks of the local time
	tests := mishaps()
	texts := make(map[string]string, len(tests))
	for name, m := range tests {
		t.Run(name, func(t *testing.T) {
			m.happen(t, func(t *testing.T, err error) {
				e := wantError(t, err)
				texts[name] = plain.Replace(line.ReplaceAllString(e.Error(), "$1:N"))
				if got, want := texts[name], want[name]; got != want && os.Getenv("UPDATE_ERRORS") == "" {
					t.Errorf("text:\n got %s\nwant %s", got, want)
				}
				if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("text %q: got a control character in it, want one line", e.Error())
				}
				if strings.Contains(e.Error(), secret) || strings.Contains(e.Error(), vin) {
					t.Errorf("text %q: got a parameter's value or a VIN in it, want neither", e.Error())
				}
				wantSentinel(t, e, m.want)
				if got := e.GRPCStatus(); got.Code() != e.Code || got.Code() == codes.OK || got.Message() != e.Error() {
					t.Errorf("GRPCStatus: got %v, want code %v and the error's text", got, e.Code)
				}
			})
		})
	}
	if os.Getenv("UPDATE_ERRORS") != "" {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			fmt.Fprintf(&b, "%s\n\t%s\n\n", name, texts[name])
		}
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(b.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for name := range want {
		if _, ok := tests[name]; !ok {
			t.Errorf("%s has %q: got no such test", file, name)
		}
	}
}
