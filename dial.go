package vehicle

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// newDialer returns a function that makes connections to target as config says. It checks both, and
// the connections do no I/O before their first stream.
func newDialer(target string, config config) (func() (*grpc.ClientConn, error), error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	creds, err := config.security.credentials()
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(config.keepalive),
		// gRPC's retry sends the request again where a service config says so, which Command.Once
		// forbids. Its transparent retry of streams that the server never saw remains.
		grpc.WithDisableRetry(),
	}
	if config.logger.Enabled(context.Background(), slog.LevelDebug) {
		// It wraps every message, which costs a third of a fast stream: only where somebody looks.
		opts = append(opts, grpc.WithChainStreamInterceptor(logging.StreamClientInterceptor(
			debugLogger(config.logger), logging.WithLevels(func(codes.Code) logging.Level { return logging.LevelDebug }))))
	}
	opts = append(opts, config.dialOptions...)
	return func() (*grpc.ClientConn, error) {
		cc, err := grpc.NewClient(target, opts...)
		if err != nil {
			return nil, fmt.Errorf("vehicle: target %q: %w", target, err)
		}
		if scheme, _, ok := strings.Cut(target, "://"); ok && strings.HasSuffix(cc.CanonicalTarget(), target) && cc.CanonicalTarget() != target {
			_ = cc.Close() // gRPC knows no such scheme, and took all of it for a host's name
			return nil, fmt.Errorf("vehicle: target %q: no resolver for scheme %q; a target is host:port, or scheme:///name with a gRPC resolver's scheme", target, scheme)
		}
		return cc, nil
	}, nil
}

// checkTarget finds what gRPC would only find when it connects, again and again.
func checkTarget(target string) error {
	bad := func(reason string) error { return fmt.Errorf("vehicle: target %q: %s", target, reason) }
	if strings.TrimSpace(target) == "" {
		return bad("empty; want host:port or another gRPC target")
	}
	if strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return bad("has a space or control character in it")
	}
	hostport := strings.TrimPrefix(target, "dns:///")
	if strings.Contains(hostport, "://") || strings.HasPrefix(hostport, "unix") {
		return nil // another resolver's: its own business
	}
	if !strings.Contains(hostport, ":") || strings.HasSuffix(hostport, "]") {
		return nil // a host alone: gRPC adds port 443
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		if net.ParseIP(hostport) != nil {
			return nil // an IPv6 address alone
		}
		return bad("want host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad(fmt.Sprintf("port %q: want a number from 1 to 65535", port))
	}
	if host == "" {
		return bad("no host before the port")
	}
	return nil
}

// debugLogger hands go-grpc-middleware's records to logger. A server's error text is foreign, and goes
// through the same sieve as in an Error.
func debugLogger(logger *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, level logging.Level, message string, fields ...any) {
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "grpc.error" {
				fields[i+1] = sanitize(fmt.Sprint(fields[i+1]))
			}
		}
		logger.Log(ctx, slog.Level(level), message, fields...)
	})
}

// withMetadata adds md to what ctx carries already.
func withMetadata(ctx context.Context, md metadata.MD) context.Context {
	if len(md) == 0 {
		return ctx
	}
	out, _ := metadata.FromOutgoingContext(ctx) // a copy
	return metadata.NewOutgoingContext(ctx, metadata.Join(out, md))
}
