package vehicletest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"runtime/debug"
	"slices"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle"
)

// Option configures a [Server].
type Option func(*config)

type config struct {
	tcp        bool
	tls        *tls.Config
	tlsClient  []vehicle.Option
	seed       uint64
	history    int
	logger     *slog.Logger
	responders []Responder
	server     []grpc.ServerOption
}

// Responder chooses what the vehicle does with a request. nil leaves the request to the next responder,
// and to the built-in vehicles after the last. It is called from several goroutines at once.
type Responder func(*Request) Script

// WithResponder adds a responder. Responders are asked in the order of the options.
func WithResponder(respond Responder) Option {
	return func(c *config) { c.responders = append(c.responders, respond) }
}

// On scripts a command: the first request for a command id runs the first script, the second the
// second, and so on; the last one is for all that follow. A nil script leaves its attempt to the next
// responder. On is a [WithResponder] that looks at the command's name and at [Request].Try.
func On(command string, attempts ...Script) Option {
	return WithResponder(func(r *Request) Script {
		if r.Command.GetCommandName() != command || len(attempts) == 0 {
			return nil
		}
		return attempts[min(r.Try, len(attempts))-1]
	})
}

// WithTCP serves on a free port of 127.0.0.1. The default is in memory.
func WithTCP() Option { return func(c *config) { c.tcp = true } }

// WithTLS serves TLS with this configuration, mutual TLS where it asks for client certificates. The client options
// are how a client reaches such a server: [Server.Options] has them instead of [vehicle.WithInsecure].
func WithTLS(server *tls.Config, client ...vehicle.Option) Option {
	return func(c *config) {
		c.tls, c.tlsClient = withHTTP2(server), client
		if choose := c.tls.GetConfigForClient; choose != nil {
			c.tls.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				chosen, err := choose(hello)
				if chosen == nil || err != nil {
					return nil, err
				}
				return withHTTP2(chosen), nil
			}
		}
	}
}

// withHTTP2 is a copy that offers HTTP/2: gRPC clients insist.
func withHTTP2(config *tls.Config) *tls.Config {
	config = config.Clone()
	if !slices.Contains(config.NextProtos, "h2") {
		config.NextProtos = append(slices.Clone(config.NextProtos), "h2")
	}
	return config
}

// WithSeed chooses the built-in vehicles; the default is 0. The same seed and vehicle id give the same
// vehicle, byte for byte.
func WithSeed(seed uint64) Option { return func(c *config) { c.seed = seed } }

// WithHistory bounds how many requests the server remembers, for programs that run for long: the oldest
// are forgotten, and with the last of its requests a command's number of tries. The default, and zero or
// less, is all.
func WithHistory(n int) Option { return func(c *config) { c.history = n } }

// WithLogger logs the begin and end of each call, and a step's panic. The default is silence. Neither
// parameters nor payloads are logged.
func WithLogger(logger *slog.Logger) Option { return func(c *config) { c.logger = logger } }

// WithServerOptions adds gRPC server options, for MaxConcurrentStreams, keepalive enforcement,
// MaxConnectionAge and the like, not for credentials ([WithTLS]). They hold for each connection. The server writes without a buffer, so
// that [Cut] cuts exactly where the script says; grpc.WriteBufferSize makes it faster and Cut less exact.
func WithServerOptions(opts ...grpc.ServerOption) Option {
	return func(c *config) { c.server = append(c.server, opts...) }
}

func (c *config) grpcServer() *grpc.Server {
	opts := []grpc.ServerOption{grpc.WriteBufferSize(0), grpc.ChainStreamInterceptor(c.interceptors()...)}
	opts = append(opts, c.server...)
	return grpc.NewServer(append(opts, grpc.ForceServerCodecV2(newCodec()), grpc.WaitForHandlers(true))...)
}

func (c *config) interceptors() []grpc.StreamServerInterceptor {
	logger := c.logger
	var chain []grpc.StreamServerInterceptor
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	} else {
		log := func(ctx context.Context, level logging.Level, msg string, fields ...any) {
			logger.Log(ctx, slog.Level(level), msg, fields...)
		}
		chain = append(chain, logging.StreamServerInterceptor(logging.LoggerFunc(log),
			logging.WithLogOnEvents(logging.StartCall, logging.FinishCall))) // no payload events
	}
	recovered := func(ctx context.Context, p any) error {
		logger.ErrorContext(ctx, "a step panicked", "panic", p, "stack", string(debug.Stack()))
		return status.Errorf(codes.Internal, "vehicletest: a step panicked: %v", p)
	}
	return append(chain, recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(recovered)))
}
