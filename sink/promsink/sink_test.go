package promsink_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/prose"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/promsink"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	vt.TestSink(t, func(*testing.T) vt.Harness { return vt.Harness{Sink: promsink.New(prometheus.NewRegistry())} })
}

// each calls f for each metric of a registry.
func each(t *testing.T, reg prometheus.Gatherer, f func(name string, m *dto.Metric)) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			f(family.GetName(), m)
		}
	}
}

// gather gives what a registry has, one line for each value that is not zero: of a histogram how often it was told.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	got := make(map[string]float64)
	each(t, reg, func(name string, m *dto.Metric) {
		for _, l := range m.GetLabel() {
			name += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
		}
		if v := value(m); v != 0 {
			got[name] = v
		}
	})
	return got
}

func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
}

// Each metric moves when that happens which it is about, and does not otherwise.
func TestMetrics(t *testing.T) {
	t.Parallel()
	failing := sink.Func{OnWrite: func(context.Context, []vehicle.Chunk) error { return errors.New("disk full") }}
	completed := map[string]float64{
		"commands_executed_total status=completed": 1, "command_execution_duration_seconds": 1, "sovd_command_attempts_total": 1,
		"sovd_stream_wait_seconds": 1, "sovd_chunks_total": 2, "sovd_chunk_bytes_total": 4, "sovd_time_to_first_chunk_seconds": 1, "sovd_chunk_gap_seconds": 1,
		"sovd_delivery_batch_chunks": 2, "sovd_pool_connections state=ready": 1,
		"sovd_sink_duration_seconds call=Begin sink=*promsink.Sink": 1, "sovd_sink_duration_seconds call=End sink=*promsink.Sink": 1,
		"sovd_sink_duration_seconds call=Write sink=*promsink.Sink": 2,
	}
	pause := vt.Delay(time.Millisecond) // each chunk is delivered alone
	for name, test := range map[string]struct {
		scripts []vt.Script
		opts    []vehicle.CallOption
		change  map[string]float64 // of a completed command of two chunks; 0: it does not have it
	}{
		"a completed command": {scripts: []vt.Script{{vt.Send(`10`), pause, vt.Answer(`20`)}}},
		"a link that broke and an answer that went on": {
			scripts: []vt.Script{{vt.Send(`10`), pause, vt.Fail(codes.Unavailable, "tunnel")}, {vt.Answer(`10`, `20`)}},
			change: map[string]float64{
				"sovd_command_attempts_total": 2, "sovd_stream_wait_seconds": 2, "sovd_command_retries_total code=Unavailable": 1,
				"sovd_command_resumes_total": 1, "sovd_chunks_replayed_total": 1,
			},
		},
		"a link that broke before the answer": {
			scripts: []vt.Script{{vt.Fail(codes.Unavailable, "tunnel")}, {vt.Send(`10`), pause, vt.Answer(`20`)}},
			change: map[string]float64{
				"sovd_command_attempts_total": 2, "sovd_stream_wait_seconds": 2, "sovd_command_retries_total code=Unavailable": 1,
			},
		},
		"another answer after the link broke": {
			scripts: []vt.Script{{vt.Send(`10`), pause, vt.Fail(codes.Unavailable, "tunnel")}, {vt.Answer(`11`, `20`)}},
			change: map[string]float64{
				"commands_executed_total status=completed": 0, "commands_executed_total status=failed": 1, "sovd_command_attempts_total": 2, "sovd_stream_wait_seconds": 2,
				"sovd_command_retries_total code=Unavailable": 1, "sovd_command_resumes_total": 1, "sovd_chunks_replayed_total": 1, "sovd_replays_diverged_total": 1,
				"sovd_chunks_total": 1, "sovd_chunk_bytes_total": 2, "sovd_chunk_gap_seconds": 0, "sovd_delivery_batch_chunks": 1,
				"sovd_sink_duration_seconds call=Write sink=*promsink.Sink": 1,
			},
		},
		"a timeout": {
			scripts: []vt.Script{{vt.Send(`10`), vt.Stall()}},
			opts:    []vehicle.CallOption{vehicle.WithoutRetry()},
			change: map[string]float64{
				"commands_executed_total status=completed": 0, "commands_executed_total status=timeout": 1, "sovd_command_timeout_total": 1,
				"sovd_chunks_total": 1, "sovd_chunk_bytes_total": 2, "sovd_chunk_gap_seconds": 0, "sovd_delivery_batch_chunks": 1,
				"sovd_sink_duration_seconds call=Write sink=*promsink.Sink": 1,
			},
		},
		"a sink that fails": {
			scripts: []vt.Script{{vt.Send(`10`), pause, vt.Answer(`20`)}},
			opts:    []vehicle.CallOption{vehicle.WithSink(failing)},
			change: map[string]float64{
				"commands_executed_total status=completed": 0, "commands_executed_total status=failed": 1,
				"sovd_chunks_total": 1, "sovd_chunk_bytes_total": 2, "sovd_chunk_gap_seconds": 0, "sovd_delivery_batch_chunks": 1,
				"sovd_sink_duration_seconds call=Write sink=*promsink.Sink": 1, "sovd_sink_duration_seconds call=Begin sink=sink.Func": 1,
				"sovd_sink_duration_seconds call=Write sink=sink.Func": 1, "sovd_sink_duration_seconds call=End sink=sink.Func": 1,
				"sovd_sink_errors_total call=Write sink=sink.Func": 1,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewPedanticRegistry()
				server := vt.NewServer(t, vt.On("Scripted", test.scripts...))
				client := server.Client(t, vehicle.WithSink(promsink.New(reg)))
				_, _ = client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"}, test.opts...)
				time.Sleep(time.Minute) // the stream has been seen off
				want := maps.Clone(completed)
				for name, v := range test.change {
					if want[name] = v; v == 0 {
						delete(want, name)
					}
				}
				if diff := cmp.Diff(want, gather(t, reg)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A command that a sink before this one refuses, as a database does that is down, has not begun here: only that sink's error is counted.
func TestARefusedCommandIsAnErrorOfASink(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	refusing := sink.Func{OnBegin: func(context.Context, vehicle.Command) error { return errors.New("the database is down") }}
	client := vt.NewServer(t).Client(t, vehicle.WithSink(refusing, promsink.New(reg)))
	if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); !errors.Is(err, vehicle.ErrSink) {
		t.Errorf("got error %v, want ErrSink", err)
	}
	want := map[string]float64{"sovd_sink_errors_total call=Begin sink=sink.Func": 1, "sovd_sink_duration_seconds call=Begin sink=sink.Func": 1}
	got := gather(t, reg)
	maps.DeleteFunc(got, func(name string, _ float64) bool { return strings.HasPrefix(name, "sovd_pool_") })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Commands that are cancelled because another one failed, as errgroup does, have not failed as that one did.
func TestTheCauseOfACancellationIsNotCounted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		scripts []vt.Script // of the one that fails
		want    map[string]float64
	}{
		"one that timed out": {
			scripts: []vt.Script{{vt.Stall()}},
			want:    map[string]float64{"commands_executed_total status=timeout": 1, "commands_executed_total status=failed": 1, "sovd_command_timeout_total": 1},
		},
		"one that diverged": {
			scripts: []vt.Script{{vt.Send(`10`), vt.Fail(codes.Unavailable, "tunnel")}, {vt.Answer(`11`, `20`)}},
			want:    map[string]float64{"commands_executed_total status=failed": 2, "sovd_replays_diverged_total": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewPedanticRegistry()
				server := vt.NewServer(t, vt.On("Scripted", test.scripts...), vt.On("Silent", vt.Script{vt.Stall()}))
				client := server.Client(t, vehicle.WithSink(promsink.New(reg)))
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					_, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "Scripted"}, vehicle.WithAttemptTimeout(5*time.Second))
					cancel(err)
				}()
				_, err := client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "Silent"}, vehicle.WithAttemptTimeout(time.Hour))
				if !errors.Is(err, vehicle.ErrCanceled) {
					t.Errorf("the other command: got %v, want it cancelled", err)
				}
				got := gather(t, reg)
				maps.DeleteFunc(got, func(name string, _ float64) bool {
					return !strings.HasPrefix(name, "commands_executed_total") && name != "sovd_command_timeout_total" && name != "sovd_replays_diverged_total"
				})
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The dashboards of the existing application read these buckets.
func TestBucketsOfTheDuration(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	promsink.New(reg)
	var got []float64
	each(t, reg, func(name string, m *dto.Metric) {
		if name == "command_execution_duration_seconds" {
			for _, b := range m.GetHistogram().GetBucket() {
				got = append(got, b.GetUpperBound())
			}
		}
	})
	if diff := cmp.Diff([]float64{0.1, 0.5, 1, 2, 5, 10, 30, 60}, got); diff != "" {
		t.Errorf("upper bounds (-want +got):\n%s", diff)
	}
}

func TestGaugesFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		release := make(chan struct{})
		ca := vt.NewCA(t)
		server := vt.NewServer(t, vt.WithTLS(ca.ServerConfig()), vt.On("Held", vt.Script{vt.Until(release), vt.Answer(`0`)}))
		client := server.Client(t, vehicle.WithSink(promsink.New(reg)), vehicle.WithTLSFiles(ca.Files()))
		done := make(chan error)
		go func() {
			_, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "Held"})
			done <- err
		}()
		time.Sleep(time.Second)
		got := gather(t, reg)
		for name, want := range map[string]float64{"sovd_commands_in_flight": 1, "sovd_streams_in_flight": 1, "sovd_streams_waiting": 0, "sovd_pool_connections state=ready": 1} {
			if got[name] != want {
				t.Errorf("while a command runs: got %s %v, want %v", name, got[name], want)
			}
		}
		for _, certificate := range []string{"client", "ca"} {
			if left := got["sovd_certificate_expiry_seconds certificate="+certificate]; left <= 0 {
				t.Errorf("certificate of %s: got %v seconds, want some", certificate, left)
			}
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		for name, v := range gather(t, reg) {
			if strings.Contains(name, "in_flight") || strings.Contains(name, "pool") || strings.Contains(name, "expiry") {
				t.Errorf("when the client is closed: got %s %v, want none", name, v)
			}
		}
	})
}

// sums gives what a registry's histograms were told, added up.
func sums(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	got := make(map[string]float64)
	each(t, reg, func(name string, m *dto.Metric) {
		if h := m.GetHistogram(); h != nil {
			got[name] += h.GetSampleSum()
		}
	})
	return got
}

// Times are in seconds, whatever the clocks do.
func TestWhatHistogramsAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // Begin looks at the clock
		reg := prometheus.NewPedanticRegistry()
		s := promsink.New(reg)
		begun := time.Now()
		a, b := vehicle.Command{ID: uuid.New()}, vehicle.Command{ID: uuid.New()}
		chunk := func(cmd vehicle.Command, after time.Duration) vehicle.Chunk {
			return vehicle.Chunk{CommandID: cmd.ID, ReceivedAt: begun.Add(after)}
		}
		result := func(cmd vehicle.Command, took time.Duration) vehicle.Result {
			return vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, StartedAt: begun, FinishedAt: begun.Add(took)}
		}
		for i, err := range []error{
			s.Begin(t.Context(), a),
			s.Write(t.Context(), []vehicle.Chunk{chunk(a, 2*time.Second)}),
			s.Write(t.Context(), []vehicle.Chunk{chunk(a, 5*time.Second), {CommandID: a.ID}, chunk(a, 4*time.Second), chunk(a, 4500*time.Millisecond)}),
			s.Write(t.Context(), nil),
			s.End(t.Context(), result(a, 7*time.Second)),
			s.Write(t.Context(), []vehicle.Chunk{chunk(a, 9*time.Second)}), // it is over: there is nothing to measure from
			s.Begin(t.Context(), b),
			s.Write(t.Context(), []vehicle.Chunk{chunk(b, -time.Second)}),
			s.End(t.Context(), result(b, -time.Second)),
		} {
			if err != nil {
				t.Errorf("call %d: got error %v, want none", i+1, err)
			}
		}
		s.Observe(t.Context(), vehicle.StreamOpened{Wait: 3 * time.Second})
		s.Observe(t.Context(), vehicle.SinkCalled{Sink: "*pgsink.Sink", Method: "Write", Took: 6 * time.Second})
		if diff := cmp.Diff(map[string]float64{
			"sovd_time_to_first_chunk_seconds": 2, "sovd_chunk_gap_seconds": 3.5, "command_execution_duration_seconds": 7,
			"sovd_stream_wait_seconds": 3, "sovd_sink_duration_seconds": 6, "sovd_delivery_batch_chunks": 7,
		}, sums(t, reg)); diff != "" {
			t.Errorf("the sums (-want +got):\n%s", diff)
		}
		if got := gather(t, reg)["sovd_delivery_batch_chunks"]; got != 4 {
			t.Errorf("got %v batches, want 4: an empty one is none", got)
		}
	})
}

// The gauges are about all clients that are open.
func TestGaugesAddUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		with := vehicle.WithSink(promsink.New(reg))
		early := vt.NewCA(t)
		time.Sleep(time.Hour)
		late := vt.NewCA(t)
		held := vt.On("Held", vt.Script{vt.Stall()})
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		run := func(client *vehicle.Client, commands int) {
			for range commands {
				wg.Go(func() { _, _ = client.Execute(ctx, vehicle.Command{VehicleID: uuid.New(), Name: "Held"}) })
			}
		}
		dial := func(d func(context.Context, string) (net.Conn, error)) vehicle.Option {
			return vehicle.WithDialOptions(grpc.WithContextDialer(d))
		}
		plain := vt.NewServer(t)
		plain.Client(t, with) // idle
		for _, ca := range []*vt.CA{late, early} {
			server := vt.NewServer(t, held, vt.WithTLS(ca.ServerConfig()), vt.WithServerOptions(grpc.MaxConcurrentStreams(1)))
			run(server.Client(t, with, vehicle.WithTLSFiles(ca.Files()), vehicle.WithPoolSize(1)), 3)
		}
		for range 3 {
			run(plain.Client(t, with, dial(func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })), 1)
		}
		for range 4 {
			run(plain.Client(t, with, dial(func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") })), 1)
		}
		time.Sleep(500 * time.Millisecond) // before any of them tries again
		want := map[string]float64{
			"sovd_pool_connections state=idle": 1, "sovd_pool_connections state=ready": 2,
			"sovd_pool_connections state=connecting": 3, "sovd_pool_connections state=transient_failure": 4,
			"sovd_streams_in_flight": 6 + 3, "sovd_streams_waiting": 4 + 3,
			"sovd_certificate_expiry_seconds certificate=client": (23*time.Hour - 500*time.Millisecond).Seconds(),
			"sovd_certificate_expiry_seconds certificate=ca":     (364*24*time.Hour + 23*time.Hour - 500*time.Millisecond).Seconds(),
		}
		for range 10 { // the clients come in any order
			got := gather(t, reg)
			maps.DeleteFunc(got, func(name string, _ float64) bool { return want[name] == 0 })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
		leave()
		wg.Wait()
	})
}

// Several Sinks on one registry count together, and a name that is taken is left alone.
func TestRegisteringTwice(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	for _, taken := range []string{"sovd_chunks_total", "sovd_streams_waiting"} {
		reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: taken, Help: "Somebody else's."}))
	}
	server := vt.NewServer(t)
	for _, s := range []*promsink.Sink{promsink.New(reg), promsink.NewNamed(reg, "ReadDTC"), promsink.NewNamed(reg, "ClearDTC"), promsink.New(nil)} {
		client := server.Client(t, vehicle.WithSink(s))
		for _, name := range []string{"ReadDTC", "ClearDTC"} {
			if _, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: name}); err != nil {
				t.Error(err)
			}
		}
	}
	got := gather(t, reg)
	for name, want := range map[string]float64{
		"commands_executed_total status=completed":              6,
		"sovd_commands_total command=ReadDTC status=completed":  1,
		"sovd_commands_total command=ClearDTC status=completed": 1,
		"sovd_commands_total command=other status=completed":    2,
		"sovd_chunks_total":                 0,
		"sovd_streams_waiting":              0,
		"sovd_pool_connections state=ready": 3, // the fourth client has no registry
	} {
		if got[name] != want {
			t.Errorf("got %s %v, want %v", name, got[name], want)
		}
	}
}

// Neither IDs nor anything that came from outside is in a label, and the names are as Prometheus wants them.
func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	client := vt.NewServer(t).Client(t, vehicle.WithSink(promsink.NewNamed(reg, "ReadDTC")), vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Millisecond}))
	for i := range 20 {
		_, _ = client.Execute(t.Context(), vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), UserID: uuid.New(), Name: fmt.Sprint("Unknown", i)})
	}
	allowed := map[string][]string{
		"status": {"completed", "failed", "timeout"}, "command": {"ReadDTC", "other"}, "code": {}, "call": {"Begin", "Write", "End"},
		"sink": {"*promsink.Sink"}, "state": {"idle", "connecting", "ready", "transient_failure"}, "certificate": {"client", "ca"},
	}
	each(t, reg, func(name string, m *dto.Metric) {
		for _, l := range m.GetLabel() {
			if !slices.Contains(allowed[l.GetName()], l.GetValue()) {
				t.Errorf("got %s{%s=%q}, want one of %q", name, l.GetName(), l.GetValue(), allowed[l.GetName()])
			}
		}
	})
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("got problems %v, %v, want none", problems, err)
	}
}

// Two clients may share a Sink, and run the same command.
func TestOneCommandOfTwoClients(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	s := promsink.New(reg)
	cmd := vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "ReadDTC"}
	var wg sync.WaitGroup
	for range 2 { // the race detector looks on
		wg.Go(func() {
			_ = s.Begin(t.Context(), cmd)
			for range 100 {
				_ = s.Write(t.Context(), []vehicle.Chunk{{CommandID: cmd.ID, ReceivedAt: time.Now()}})
			}
			_ = s.End(t.Context(), vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted})
		})
	}
	wg.Wait()
	got := gather(t, reg)
	for name, want := range map[string]float64{"commands_executed_total status=completed": 2, "sovd_chunks_total": 200, "sovd_commands_in_flight": 0} {
		if got[name] != want {
			t.Errorf("got %s %v, want %v", name, got[name], want)
		}
	}
}

// recorder is a registry that only notes what it is given.
type recorder struct{ registered []prometheus.Collector }

func (r *recorder) Register(c prometheus.Collector) error {
	r.registered = append(r.registered, c)
	return nil
}
func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	r.registered = append(r.registered, cs...)
}
func (r *recorder) Unregister(prometheus.Collector) bool { return false }

// The package's comment has each metric with its labels and its kind, and docs/operations.md names none that is not there.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	var reg recorder
	promsink.NewNamed(&reg, "ReadDTC")
	named := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: {(.*)}}`)
	registered := map[string]string{} // kind, by name and labels
	for _, c := range reg.registered {
		descs := make(chan *prometheus.Desc, 1)
		c.Describe(descs)
		m := named.FindStringSubmatch((<-descs).String())
		if m == nil {
			t.Fatalf("%T: got a description that cannot be read", c)
		}
		name, kind := m[1], "gauge"
		if m[2] != "" {
			name += "{" + m[2] + "}"
		}
		switch c.(type) {
		case *prometheus.HistogramVec, prometheus.Histogram:
			kind = "histogram"
		case *prometheus.CounterVec:
			kind = "counter"
		case prometheus.Gauge:
		case prometheus.Counter:
			kind = "counter"
		}
		registered[name] = kind
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t([a-z_]+(?:\{[a-z,]+\})?) +(counter|gauge|histogram)\b`).FindAllStringSubmatch(prose.Read(t, "doc.go"), -1) {
		documented[m[1]] = m[2]
	}
	if diff := cmp.Diff(registered, documented); diff != "" {
		t.Errorf("doc.go (-registered +documented):\n%s", diff)
	}

	names := map[string]bool{}
	for name, kind := range registered {
		name, _, _ = strings.Cut(name, "{")
		names[name] = true
		if kind == "histogram" {
			names[name+"_count"] = true
		}
	}
	told := regexp.MustCompile("`((?:sovd|commands_executed|command_execution)_[a-z_]+)").FindAllStringSubmatch(prose.Read(t, "../../docs/operations.md"), -1)
	for _, m := range told {
		if !names[m[1]] {
			t.Errorf("docs/operations.md: got the metric %s, want one that is registered", m[1])
		}
	}
	if len(told) < 10 {
		t.Errorf("got %d metrics in docs/operations.md, want more: are they found at all?", len(told))
	}
}
