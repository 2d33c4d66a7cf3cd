package vehicle_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// What cannot be meant is found when it is said, and the error names it.
func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts []vehicle.Option
		want []string // in the error
	}{
		"TLS and plaintext":                      {client{vehicle.WithTLS(nil), vehicle.WithInsecure()}, []string{"WithTLS", "WithInsecure", "contradict"}},
		"TLS from files and from code":           {client{vehicle.WithTLSFiles(vehicle.TLSFiles{}), vehicle.WithTLS(nil)}, []string{"WithTLSFiles", "WithTLS ", "contradict"}},
		"plaintext and TLS from files":           {client{vehicle.WithInsecure(), vehicle.WithTLSFiles(vehicle.TLSFiles{})}, []string{"WithInsecure", "WithTLSFiles", "contradict"}},
		"retries and none":                       {client{vehicle.WithRetry(vehicle.RetryPolicy{}), vehicle.WithoutRetry()}, []string{"WithRetry", "WithoutRetry", "contradict"}},
		"none and retries":                       {client{vehicle.WithoutRetry(), vehicle.WithRetry(vehicle.RetryPolicy{})}, []string{"WithRetry", "WithoutRetry", "contradict"}},
		"no connection":                          {client{vehicle.WithPoolSize(0)}, []string{"WithPoolSize(0)"}},
		"a negative number of them":              {client{vehicle.WithPoolSize(-3)}, []string{"WithPoolSize(-3)"}},
		"messages of no size":                    {client{vehicle.WithMaxMessageSize(0)}, []string{"WithMaxMessageSize(0)"}},
		"a negative keepalive timeout":           {client{vehicle.WithKeepalive(keepalive.ClientParameters{Time: time.Minute, Timeout: -time.Second})}, []string{"WithKeepalive", "Timeout -1s"}},
		"a negative window":                      {client{vehicle.WithReorderWindow(-1)}, []string{"WithReorderWindow(-1)"}},
		"no command at once":                     {client{vehicle.WithConcurrency(0)}, []string{"WithConcurrency(0)"}},
		"a mode that there is not":               {client{vehicle.WithResume(7)}, []string{"WithResume(7)"}},
		"a multiplier that shrinks":              {client{vehicle.WithRetry(vehicle.RetryPolicy{Multiplier: 0.5})}, []string{"WithRetry", "Multiplier 0.5"}},
		"a jitter over the whole":                {client{vehicle.WithRetry(vehicle.RetryPolicy{Jitter: 1.5})}, []string{"WithRetry", "Jitter 1.5"}},
		"a longest delay below the base":         {client{vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: 2 * time.Second, MaxDelay: time.Second})}, []string{"MaxDelay 1s", "BaseDelay 2s"}},
		"a longest delay below the default base": {client{vehicle.WithRetry(vehicle.RetryPolicy{MaxDelay: 500 * time.Millisecond})}, []string{"MaxDelay 500ms", "BaseDelay 1s"}},
		"a negative longest delay":               {client{vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: -1, MaxDelay: -1})}, []string{"WithRetry", "MaxDelay -1ns"}},
		"a sink that is nil":                     {client{vehicle.WithSink(newRecorder(t), nil)}, []string{"WithSink", "sink 2 of 2"}},
		"metadata of ours":                       {client{vehicle.WithMetadata(metadata.Pairs("x-sovd-attempt", "7"))}, []string{"WithMetadata", `"x-sovd-attempt"`}},
		"metadata of gRPC's":                     {client{vehicle.WithMetadata(metadata.MD{"Grpc-Timeout": {"1S"}})}, []string{"WithMetadata", `"grpc-timeout"`}},
		"metadata that gRPC drops":               {client{vehicle.WithMetadata(metadata.Pairs("user-agent", "garage/1"))}, []string{"WithMetadata", `"user-agent"`}},
		"metadata that gRPC sets":                {client{vehicle.WithMetadata(metadata.Pairs("content-type", "text/plain"))}, []string{"WithMetadata", `"content-type"`}},
		"metadata that HTTP/2 forbids":           {client{vehicle.WithMetadata(metadata.Pairs("te", "gzip"))}, []string{"WithMetadata", `"te"`}},
		"metadata that is not ASCII":             {client{vehicle.WithMetadata(metadata.Pairs("tenant", "M\u00fcller"))}, []string{"WithMetadata", `"tenant"`}},
		"metadata of HTTP's":                     {client{vehicle.WithMetadata(metadata.Pairs(":path", "/"))}, []string{"WithMetadata", `":path"`}},
		"metadata without a key":                 {client{vehicle.WithMetadata(metadata.Pairs("", "x"))}, []string{"WithMetadata", `""`}},
		"metadata that is no header":             {client{vehicle.WithMetadata(metadata.Pairs("tenant", "a\nb"))}, []string{"WithMetadata", `"tenant"`}},
		"several at once are all named":          {client{vehicle.WithPoolSize(0), vehicle.WithReorderWindow(-1), vehicle.WithTLS(nil), vehicle.WithInsecure()}, []string{"WithPoolSize(0)", "WithReorderWindow(-1)", "WithInsecure"}},
	}
	server := vt.NewServer(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := vehicle.New("localhost:50051", tt.opts...)
			if err == nil {
				t.Fatalf("New: got no error, want one (closing: %v)", c.Close())
			}
			if c != nil {
				t.Errorf("New: got a client beside %v, want nil", err)
			}
			var calls call
			for _, opt := range tt.opts {
				if o, ok := opt.(vehicle.CallOption); ok {
					calls = append(calls, o)
				}
			}
			texts := []string{err.Error()}
			if len(calls) == len(tt.opts) { // the call says the same
				res, err := server.Client(t).Execute(t.Context(), command("ReadDTC"), calls...)
				wantSentinel(t, err, "ErrInvalidCommand")
				if res.Status != vehicle.StatusFailed || res.Attempts != 0 {
					t.Errorf("Execute: got %s after %d attempts, want failed after none", res.Status, res.Attempts)
				}
				texts = append(texts, err.Error())
				results := 0
				for _, err := range server.Client(t).ExecuteAll(t.Context(), slices.Values([]vehicle.Command{command("ReadDTC"), command("ReadDTC")}), calls...) {
					wantSentinel(t, err, "ErrInvalidCommand")
					results++
				}
				if results != 2 {
					t.Errorf("ExecuteAll: got %d results, want each command's", results)
				}
			}
			for _, text := range texts {
				for _, want := range tt.want {
					if !strings.Contains(text, want) {
						t.Errorf("got %s, want %q in it", text, want)
					}
				}
				if strings.Contains(text, "a\nb") {
					t.Errorf("got %s, want no metadata value in it", text)
				}
			}
		})
	}
}

// An option of nil, as a condition leaves behind, is none.
func TestNilOptionsAreNone(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	if _, err := server.Client(t, nil, vehicle.WithDialOptions(nil)).Execute(t.Context(), command("ReadDTC"), nil, vehicle.WithReorderWindow(1), nil); err != nil {
		t.Errorf("Execute: got %v, want no error", err)
	}
}

// A call's contradiction is its own: what the client was told is a default.
func TestCallMayContradictItsClient(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t)
	client := server.Client(t, vehicle.WithoutRetry())
	_, err := client.Execute(t.Context(), command("ReadDTC"), vehicle.WithRetry(vehicle.RetryPolicy{}))
	if err != nil {
		t.Errorf("Execute: got %v, want no error", err)
	}
	_, err = client.Execute(t.Context(), command("ReadDTC"), vehicle.WithRetry(vehicle.RetryPolicy{}), vehicle.WithoutRetry())
	if !errors.Is(err, vehicle.ErrInvalidCommand) {
		t.Errorf("Execute with both: got %v, want ErrInvalidCommand", err)
	}
}
