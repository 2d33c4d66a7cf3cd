package vehicle

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"

	"github.com/sovd-go/vehicle/internal/dialing"
	"github.com/sovd-go/vehicle/internal/foreign"
)

// How much a server may send before it is read, in bytes, and how much is read at a time. gRPC's own windows begin at 64 KiB
// and grow up to 16 MiB by what it measures; fixed ones spare a fast stream the stops until then. Of one long
// answer, client and server sharing two cores, windows of 2, 4 and 8 MiB let through the same within the noise, and those of
// 1 MiB a tenth less. A stream that nobody reads holds up to a window: 10,000 of
// them up to 40 GB, if each vehicle sends that much. The connection's window does not bound that: gRPC gives it back as
// data comes in, so that a slow reader holds up nobody else.
const (
	streamWindow = 4 << 20
	connWindow   = 16 << 20
	readBuffer   = 128 << 10
)

// dialer makes a connection, which does no I/O before its first stream. The limit is what its server says then.
type dialer func() (*grpc.ClientConn, *streamLimit, error)

// newDialer returns a dialer that makes connections to target as config says. It checks both.
func newDialer(target string, config config, keys keyring) (dialer, error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		// gRPC's retry sends the request again where a service config says so, which Command.Once
		// forbids. Its transparent retry of streams that the server never saw remains.
		grpc.WithDisableRetry(),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow), grpc.WithReadBufferSize(readBuffer),
		experimental.WithBufferPool(new(frames)),
	}
	if config.keepalive.Time > 0 { // gRPC would take 0 for its least, 10 s, and without the option it does not probe
		opts = append(opts, grpc.WithKeepaliveParams(config.keepalive))
	}
	if config.debug {
		// It wraps every message, which costs a third of a fast stream: only where somebody looks.
		opts = append(opts, grpc.WithChainStreamInterceptor(logging.StreamClientInterceptor(
			debugLogger(config.logger), logging.WithLevels(func(codes.Code) logging.Level { return logging.LevelDebug }))))
	}
	opts = append(opts, config.dialOptions...)
	info := keys.current().Info()
	return func() (*grpc.ClientConn, *streamLimit, error) {
		handshakes, limit := &handshakes{keys: keys, info: info}, new(streamLimit)
		cc, err := grpc.NewClient(target, append(handshakes.dialOptions(limit, config.bundle), opts...)...)
		if err != nil {
			return nil, nil, fmt.Errorf("vehicle: target %q: %w", target, err)
		}
		if scheme, _, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(cc.CanonicalTarget(), strings.ToLower(scheme)+"://") {
			_ = cc.Close() // gRPC knows no such scheme, and took all of it for a host's name
			return nil, nil, &targetError{target, fmt.Sprintf("no resolver for scheme %q; a target is host:port, or scheme:///name with a gRPC resolver's scheme", scheme)}
		}
		return cc, limit, nil
	}, nil
}

// bundleSize is how many bytes a bundle may have; 0: somebody may look at messages, by an option or gRPC's binary log, and they have to
// come as they were sent.
func (c *config) bundleSize() int {
	if c.debug || slices.ContainsFunc(c.dialOptions, dialing.MayLook) || os.Getenv("GRPC_BINARY_LOG_FILTER") != "" {
		return 0
	}
	return min(maxFramePayload, c.maxMessageSize)
}

// targetError is a target that cannot be used.
type targetError struct{ target, reason string }

func (e *targetError) Error() string {
	return fmt.Sprintf("vehicle: target %q: %s", e.target, e.reason)
}

// checkTarget finds what gRPC would only find when it connects, again and again.
func checkTarget(target string) error {
	bad := func(reason string) error { return &targetError{target, reason} }
	if strings.TrimSpace(target) == "" {
		return bad("empty; want host:port or another gRPC target")
	}
	if strings.ContainsFunc(target, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return bad("has a space or control character in it")
	}
	hostport, ok := dnsName(target)
	if !ok {
		return nil // another resolver's: its own business
	}
	host, port, err := net.SplitHostPort(hostport)
	switch {
	case err == nil:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad(fmt.Sprintf("port %q: want a number from 1 to 65535", port))
		}
	case strings.HasPrefix(hostport, "[") && strings.HasSuffix(hostport, "]"):
		host = hostport[1 : len(hostport)-1]
	default:
		host = hostport // alone: gRPC adds port 443
	}
	switch _, err := netip.ParseAddr(host); {
	case host == "":
		return bad("no host; want host:port")
	case err != nil && strings.ContainsAny(host, ":/\\?#@[]"): // not an IPv6 address, and no name
		return bad("want host:port")
	}
	return nil
}

// dnsName is the part of target that gRPC's DNS resolver gets; false where another resolver is asked.
func dnsName(target string) (string, bool) {
	if u, err := url.Parse(target); err == nil && resolver.Get(u.Scheme) != nil {
		parsed := resolver.Target{URL: *u}
		return parsed.Endpoint(), u.Scheme == "dns"
	}
	return target, !strings.Contains(target, "://")
}

// debugLogger hands go-grpc-middleware's records to logger. A server's error text is foreign, and goes
// through the same sieve as in an Error.
func debugLogger(logger *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, level logging.Level, message string, fields ...any) {
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "grpc.error" {
				fields[i+1] = foreign.Text(fmt.Sprint(fields[i+1]))
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
