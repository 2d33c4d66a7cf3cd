package otelsink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/otelsink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRecorder() (*tracetest.SpanRecorder, *sdktrace.TracerProvider) {
	recorder := tracetest.NewSpanRecorder()
	return recorder, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
}

func TestConformance(t *testing.T) {
	t.Parallel()
	_, provider := newRecorder()
	vt.TestSink(t, func(*testing.T) vt.Harness { return vt.Harness{Sink: otelsink.New(provider)} })
}

const secret = "secret-5EED"

// Each span is under its parent, and says what happened.
func TestSpans(t *testing.T) {
	t.Parallel()
	quickly := vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond})
	refuse := sink.Func{OnBegin: func(context.Context, vehicle.Command) error { return errors.New("full") }}
	for name, test := range map[string]struct {
		scripts []vt.Script
		before  []vehicle.Sink
		want    []string
	}{
		"an answer": {
			scripts: []vt.Script{{vt.Answer(`"` + secret + `"`)}},
			want: []string{
				"caller",
				"caller/sovd.command Scripted attempts=1 chunks=1 replayed=0 status=completed",
				"caller/sovd.command Scripted/sovd.attempt code=OK number=1 [stream opened]",
				"caller/sovd.command Scripted/sovd.attempt/sovd.vehicle.VehicleService/ExecuteCommand",
			},
		},
		"a link that broke": {
			scripts: []vt.Script{{vt.Send(`"` + secret + `"`), vt.Delay(time.Millisecond), vt.Fail(grpccodes.Unavailable, "tunnel")}, {vt.Answer(`"`+secret+`"`, `1`)}},
			want: []string{
				"caller",
				"caller/sovd.command Scripted attempts=2 chunks=2 replayed=1 status=completed [retrying]",
				"caller/sovd.command Scripted/sovd.attempt code=OK number=2 resume_from=1 [stream opened]",
				"caller/sovd.command Scripted/sovd.attempt code=Unavailable number=1 [stream opened] Error: tunnel",
				"caller/sovd.command Scripted/sovd.attempt/sovd.vehicle.VehicleService/ExecuteCommand",
				"caller/sovd.command Scripted/sovd.attempt/sovd.vehicle.VehicleService/ExecuteCommand Error: tunnel",
			},
		},
		"a command that a sink refused": {
			before: []vehicle.Sink{refuse},
			want: []string{
				"caller",
				"caller/sovd.command Scripted attempts=0 chunks=0 replayed=0 status=failed Error: vehicle: Scripted on ID failed: sink: sink.Func.Begin: full (not sent)",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder, provider := newRecorder()
			server := vt.NewServer(t, vt.On("Scripted", test.scripts...))
			client := server.Client(t, quickly,
				vehicle.WithSink(append(test.before, sink.Chain(otelsink.New(provider)))...),
				vehicle.WithDialOptions(grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(provider)))))
			ctx, caller := provider.Tracer("test").Start(t.Context(), "caller")
			id := uuid.New()
			_, _ = client.Execute(ctx, vehicle.Command{VehicleID: id, Name: "Scripted", Params: map[string]any{"vin": secret}})
			caller.End()
			if err := client.Close(); err != nil { // gRPC's spans end with its streams
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, describe(recorder.Ended(), id)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, span := range recorder.Ended() {
				if text := fmt.Sprint(span.Name(), span.Attributes(), span.Events(), span.Status()); strings.Contains(text, secret) {
					t.Errorf("got %s, want nothing of what the vehicle sent or was sent", text)
				}
			}
		})
	}
}

// describe has a line for each span: its path from the root, and what ours say.
func describe(spans []sdktrace.ReadOnlySpan, vehicleID uuid.UUID) (lines []string) {
	byID := make(map[string]sdktrace.ReadOnlySpan)
	for _, s := range spans {
		byID[s.SpanContext().SpanID().String()] = s
	}
	for _, s := range spans {
		path := s.Name()
		for p := byID[s.Parent().SpanID().String()]; p != nil; p = byID[p.Parent().SpanID().String()] {
			path = p.Name() + "/" + path
		}
		var attrs []string
		for _, a := range s.Attributes() {
			key := string(a.Key)
			short := key[strings.LastIndex(key, ".")+1:]
			if strings.HasPrefix(key, "sovd.") && short != "name" && short != "id" {
				attrs = append(attrs, " "+short+"="+a.Value.String())
			}
		}
		slices.Sort(attrs)
		line := path + strings.Join(attrs, "")
		for _, e := range s.Events() {
			if !strings.Contains(path, "ExecuteCommand") {
				line += " [" + e.Name + "]"
			}
		}
		if s.Status().Code == codes.Error {
			line += " Error: " + strings.ReplaceAll(s.Status().Description, vehicleID.String(), "ID")
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// A client's Sink and a call's own trace the same command: each ends the spans that it began.
func TestTwoSinksOfOneCommand(t *testing.T) {
	t.Parallel()
	var recorders [2]*tracetest.SpanRecorder
	var sinks [2]vehicle.Sink
	for i := range recorders {
		recorder, provider := newRecorder()
		recorders[i], sinks[i] = recorder, otelsink.New(provider)
	}
	client := vt.NewServer(t).Client(t, vehicle.WithSink(sinks[0]))
	if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}, vehicle.WithSink(sinks[1])); err != nil {
		t.Fatal(err)
	}
	for i, recorder := range recorders {
		if started, ended := len(recorder.Started()), len(recorder.Ended()); started != 2 || ended != 2 {
			t.Errorf("sink %d: got %d spans begun and %d ended, want 2 and 2", i, started, ended)
		}
	}
}

func Example() {
	recorder, provider := newRecorder() // a program has one that exports
	server, err := vt.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	client, err := vehicle.New(server.Target(), append(server.Options(), vehicle.WithSink(otelsink.New(provider)))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	if _, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
		fmt.Println(err)
	}
	for _, span := range recorder.Ended() {
		fmt.Println(span.Name())
	}
	// Output:
	// sovd.attempt
	// sovd.command ReadDTC
}
