package together_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/otelsink"
	"github.com/sovd-go/vehicle/sink/promsink"
	"github.com/sovd-go/vehicle/vehiclepb"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// What must not get out: in a payload, in a parameter, and a vehicle identification number.
const (
	secretPayload = "payload-5EC12E7"
	secretParam   = "param-5EC12E7"
	secretVIN     = "WVWZZZ1JZXW000001"
)

// leaky is a parameter that tells its value where it can.
type leaky struct{ how string }

func (l leaky) MarshalJSON() ([]byte, error) {
	switch l.how {
	case "error":
		return nil, errors.New(secretParam)
	case "panic":
		panic(secretParam)
	}
	return []byte(`{"x":"` + secretParam), nil
}

// Nothing of what was sent and received is in the logs, at any level, in errors, metrics or traces, whatever went wrong.
func TestNothingSecretGetsOut(t *testing.T) {
	t.Parallel()
	body := `{"vin":"` + secretVIN + `","data":"` + secretPayload + `"}`
	other := `{"vin":"` + secretVIN + `","data":"` + secretPayload + `2"}`
	raw := func(edit func(*vehiclepb.CommandResponse)) vt.Step { return vt.SendEdited(body, edit) }
	for name, test := range map[string]struct {
		scripts []vt.Script
		params  map[string]any
		opts    []vehicle.CallOption
		client  []vehicle.Option
		want    error // nil: it completes
	}{
		"an answer":                        {scripts: []vt.Script{{vt.Answer(body, other)}}},
		"a replay":                         {scripts: []vt.Script{{vt.Send(body), vt.Fail(codes.Unavailable, "lost "+secretVIN)}, {vt.Answer(body, other)}}},
		"a replay that diverges":           {scripts: []vt.Script{{vt.Send(body), vt.Delay(time.Millisecond), vt.Fail(codes.Unavailable, "")}, {vt.Answer(other, body)}}, want: vehicle.ErrReplayDiverged},
		"a service that names the vehicle": {scripts: []vt.Script{{vt.Fail(codes.NotFound, "no vehicle "+secretVIN)}}, want: vehicle.ErrVehicleNotFound},
		"half a payload":                   {scripts: []vt.Script{{vt.Send(body[:len(body)-1])}}, want: vehicle.ErrMalformedResponse},
		"a payload that is not UTF-8":      {scripts: []vt.Script{{vt.SendBytes(append([]byte{0x12, byte(len(body) + 1), 0xff}, body...))}}, want: vehicle.ErrMalformedResponse},
		"an answer to another command":     {scripts: []vt.Script{{raw(func(m *vehiclepb.CommandResponse) { m.CommandId = secretVIN })}}, want: vehicle.ErrMalformedResponse},
		"a timestamp that is none":         {scripts: []vt.Script{{raw(func(m *vehiclepb.CommandResponse) { m.Timestamp, m.IsFinal = secretPayload, true })}}},
		"an answer that breaks off":        {scripts: []vt.Script{{vt.Send(body)}}, want: vehicle.ErrIncomplete},
		"a gap":                            {scripts: []vt.Script{{vt.Send(body), vt.NumberFrom(5), vt.Send(other)}}, want: vehicle.ErrSequence},
		"a message that is too large":      {scripts: []vt.Script{{vt.Send(`"` + strings.Repeat(secretPayload, 100) + `"`)}}, client: []vehicle.Option{vehicle.WithMaxMessageSize(1000)}, want: vehicle.ErrMalformedResponse},
		"silence":                          {scripts: []vt.Script{{vt.Send(body), vt.Stall()}}, opts: []vehicle.CallOption{vehicle.WithIdleTimeout(10 * time.Millisecond)}, want: vehicle.ErrTimeout},
		"a parameter that fails":           {params: map[string]any{"p": leaky{"error"}}, want: vehicle.ErrInvalidCommand},
		"a parameter that panics":          {params: map[string]any{"p": leaky{"panic"}}, want: vehicle.ErrInvalidCommand},
		"a parameter that is half JSON":    {params: map[string]any{"p": leaky{"half"}}, want: vehicle.ErrInvalidCommand},
		"a parameter that is not UTF-8":    {params: map[string]any{"p": secretParam + "\xff"}, want: vehicle.ErrInvalidCommand},
		"an interceptor that panics": {client: []vehicle.Option{vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
				panic(secretParam)
			}))}, want: vehicle.ErrInternal},
		"a sink that panics with what it got": {scripts: []vt.Script{{vt.Answer(body)}}, opts: []vehicle.CallOption{vehicle.WithSink(sink.Func{
			OnWrite: func(_ context.Context, chunks []vehicle.Chunk) error { panic(string(chunks[0].Payload)) },
		})}, want: vehicle.ErrSink},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out everything
			logger := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
			registry, spans := prometheus.NewRegistry(), tracetest.NewSpanRecorder()
			observers := vehicle.WithSink(promsink.New(registry), otelsink.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))), sink.Slog(logger))
			server := vt.NewServer(t, vt.On("Scripted", test.scripts...))
			client := server.Client(t, append([]vehicle.Option{observers, vehicle.WithLogger(logger),
				vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond})}, test.client...)...)
			if test.params == nil {
				test.params = map[string]any{"text": secretParam, "vin": secretVIN, "deep": map[string]any{"x": secretParam}}
			}
			_, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "Scripted", Params: test.params}, test.opts...)
			if !errors.Is(err, test.want) {
				t.Fatalf("got error %v, want %v", err, test.want)
			}
			if e, ok := errors.AsType[*vehicle.Error](err); ok {
				_, _ = fmt.Fprintln(&out, e, e.Message, e.GRPCStatus())
			}
			if err := client.Close(); err != nil { // what goes on in the background has been logged then
				t.Error(err)
			}
			families, gatherErr := registry.Gather()
			_, _ = fmt.Fprintln(&out, families, gatherErr)
			for _, s := range spans.Ended() {
				_, _ = fmt.Fprintln(&out, s.Name(), s.Attributes(), s.Events(), s.Status())
			}
			if leaked := out.holds(secretPayload, secretParam, secretVIN); len(leaked) > 0 {
				t.Errorf("got %q in:\n%s", leaked, out.text.String())
			}
			if !strings.Contains(out.text.String(), "sovd_") {
				t.Errorf("got %s, want metrics in it: is it everything?", out.text.String())
			}
		})
	}
}

// everything is all that was written, by several goroutines.
type everything struct {
	mu   sync.Mutex
	text strings.Builder
}

func (e *everything) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.Write(b)
}

// holds gives those of the secrets that are in the text, also in another case, escaped, or as bytes that were printed.
func (e *everything) holds(secrets ...string) (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := strings.ToLower(e.text.String())
	for _, secret := range secrets {
		quoted, _ := json.Marshal(secret)
		for _, form := range []string{secret, string(quoted), strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"), fmt.Sprintf("%x", secret)} {
			if strings.Contains(text, strings.ToLower(form)) {
				found = append(found, form)
			}
		}
	}
	return found
}

func TestEverythingIsSearched(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"as it is": "x " + secretPayload + " y", "in capitals": strings.ToUpper(secretPayload), "as bytes": fmt.Sprintf("%d", []byte(secretPayload)),
		"in hexadecimal": fmt.Sprintf("%X", secretPayload), "in a log": `{"msg":"` + secretPayload + `"}`,
	} {
		var out everything
		_, _ = fmt.Fprint(&out, text)
		if got := out.holds(secretPayload); len(got) == 0 {
			t.Errorf("%s: got nothing, want it to be found in %q", name, text)
		}
	}
}
