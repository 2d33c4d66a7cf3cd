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
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
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
	quickly := vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond, Jitter: -1})
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
				"caller/sovd.command Scripted command.attempts=1 command.chunks=1 command.id=COMMAND command.name=Scripted command.replayed=0 command.status=completed vehicle.id=VEHICLE",
				"caller/sovd.command Scripted/sovd.attempt attempt.code=OK attempt.number=1 [stream opened]",
				"caller/sovd.command Scripted/sovd.attempt/sovd.vehicle.VehicleService/ExecuteCommand",
			},
		},
		"a link that broke": {
			scripts: []vt.Script{{vt.Send(`"` + secret + `"`), vt.Delay(time.Millisecond), vt.Fail(grpccodes.Unavailable, "tunnel")}, {vt.Answer(`"`+secret+`"`, `1`)}},
			want: []string{
				"caller",
				"caller/sovd.command Scripted command.attempts=2 command.chunks=2 command.id=COMMAND command.name=Scripted command.replayed=1 command.status=completed vehicle.id=VEHICLE [retrying attempt.code=Unavailable attempt.number=1 retry.delay=0.001]",
				"caller/sovd.command Scripted/sovd.attempt attempt.code=OK attempt.number=2 attempt.resume_from=1 [stream opened]",
				"caller/sovd.command Scripted/sovd.attempt attempt.code=Unavailable attempt.number=1 [stream opened] Error: tunnel",
				"caller/sovd.command Scripted/sovd.attempt/sovd.vehicle.VehicleService/ExecuteCommand",
				"caller/sovd.command Scripted/sovd.attempt/sovd.vehicle.VehicleService/ExecuteCommand Error: tunnel",
			},
		},
		"a command that a sink refused": {
			before: []vehicle.Sink{refuse},
			want: []string{
				"caller",
				"caller/sovd.command Scripted command.attempts=0 command.chunks=0 command.id=COMMAND command.name=Scripted command.replayed=0 command.status=failed vehicle.id=VEHICLE Error: vehicle: Scripted on VEHICLE failed: sink: sink.Func.Begin: full (not sent)",
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
			cmd := vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "Scripted", Params: map[string]any{"vin": secret}}
			_, _ = client.Execute(ctx, cmd)
			caller.End()
			if err := client.Close(); err != nil { // gRPC's spans end with its streams
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, describe(recorder.Ended(), cmd)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, span := range recorder.Ended() {
				scope, kind := span.InstrumentationScope().Name, span.SpanKind()
				if name := span.Name(); (name == "sovd.command Scripted" || name == "sovd.attempt") &&
					(scope != "github.com/sovd-go/vehicle/sink/otelsink" || kind != trace.SpanKindInternal) { // gRPC's is the client's
					t.Errorf("%s: got the scope %q and the kind %v, want this package and internal", name, scope, kind)
				}
				if text := fmt.Sprint(span.Name(), span.Attributes(), span.Events(), span.Status()); strings.Contains(text, secret) {
					t.Errorf("got %s, want nothing of what the vehicle sent or was sent", text)
				}
			}
		})
	}
}

// describe has a line for each span: its path from the root, and what ours say.
func describe(spans []sdktrace.ReadOnlySpan, cmd vehicle.Command) (lines []string) {
	byID := make(map[string]sdktrace.ReadOnlySpan)
	for _, s := range spans {
		byID[s.SpanContext().SpanID().String()] = s
	}
	ids := strings.NewReplacer(cmd.ID.String(), "COMMAND", cmd.VehicleID.String(), "VEHICLE")
	for _, s := range spans {
		path := s.Name()
		for p := byID[s.Parent().SpanID().String()]; p != nil; p = byID[p.Parent().SpanID().String()] {
			path = p.Name() + "/" + path
		}
		line := path + ours(s.Attributes())
		for _, e := range s.Events() {
			if !strings.Contains(path, "ExecuteCommand") {
				line += " [" + e.Name + ours(e.Attributes) + "]"
			}
		}
		if s.Status().Code == codes.Error {
			line += " Error: " + s.Status().Description
		}
		lines = append(lines, ids.Replace(line))
	}
	slices.Sort(lines)
	return lines
}

// ours are the attributes that begin with sovd., sorted.
func ours(all []attribute.KeyValue) string {
	var attrs []string
	for _, a := range all {
		if key, ok := strings.CutPrefix(string(a.Key), "sovd."); ok {
			attrs = append(attrs, " "+key+"="+a.Value.String())
		}
	}
	slices.Sort(attrs)
	return strings.Join(attrs, "")
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

// Where several share a provider, each one's attempts are below its own command.
func TestTwoSinksOfOneProvider(t *testing.T) {
	t.Parallel()
	recorder, provider := newRecorder()
	client := vt.NewServer(t).Client(t, vehicle.WithSink(otelsink.New(provider), otelsink.New(provider)))
	if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range describe(recorder.Ended(), vehicle.Command{}) {
		path, _, _ := strings.Cut(line, " attempt.")
		path, _, _ = strings.Cut(path, " command.")
		got = append(got, path)
	}
	const command = "sovd.command ReadDTC"
	want := []string{command, command + "/sovd.attempt", command + "/" + command, command + "/" + command + "/sovd.attempt"}
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An event of a command that it has not seen begin, as where another observer lost the context, ends nobody else's span.
func TestAnEventOfNoCommandOfOurs(t *testing.T) {
	t.Parallel()
	recorder, provider := newRecorder()
	ctx, caller := provider.Tracer("test").Start(t.Context(), "caller")
	for _, event := range []vehicle.Event{vehicle.StreamOpened{}, vehicle.AttemptEnded{}, vehicle.Retrying{}, vehicle.CommandEnded{}} {
		otelsink.New(provider).Observe(ctx, event)
	}
	if got := recorder.Ended(); len(got) > 0 {
		t.Errorf("got %q ended, want nothing", got[0].Name())
	}
	caller.End()
}

// Not beside others: the global provider is everybody's.
func TestWithoutAProviderItIsTheGlobalOne(t *testing.T) { //nolint:paralleltest // see above
	s := otelsink.New(nil)
	recorder, provider := newRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	defer otel.SetTracerProvider(before)
	if _, err := vt.NewServer(t).Client(t, vehicle.WithSink(s)).Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
		t.Fatal(err)
	}
	if got := len(recorder.Ended()); got != 2 {
		t.Errorf("got %d spans, want the command's and the attempt's", got)
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
