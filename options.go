package vehicle

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// Option configures a [Client], in [New] and [NewFromEnv]. A later option overrides an earlier one of
// the same name, but for [WithSink], [WithMetadata] and [WithDialOptions], which add. [WithRetry] and
// [WithoutRetry] contradict each other, as do [WithTLS], [WithTLSFiles] and [WithInsecure]: two of them in one list are an error.
type Option interface {
	applyClient(*config)
}

// CallOption configures one call. It is also an [Option]: given to [New] it is the client's default.
type CallOption interface {
	Option
	applyCall(*callConfig)
}

type clientOption func(*config)

func (o clientOption) applyClient(c *config) { o(c) }

type callOption func(*callConfig)

func (o callOption) applyClient(c *config)   { o(&c.call) }
func (o callOption) applyCall(c *callConfig) { o(c) }

// config is what New was told. The zero value is not usable; see defaultConfig.
type config struct {
	security       security
	poolSize       int
	keepalive      keepalive.ClientParameters
	maxMessageSize int
	receiveLimit   grpc.CallOption // the same, as gRPC wants it
	logger         *slog.Logger
	dialOptions    []grpc.DialOption
	call           callConfig

	// What follows of that.
	debug  bool // attempts are logged
	bundle int  // see bundleSize
}

// callConfig is what one call was told, on top of its client's.
type callConfig struct {
	attemptTimeout time.Duration
	idleTimeout    time.Duration
	retry          RetryPolicy
	retryOptions   []string // which of WithRetry and WithoutRetry this list of options has
	resume         ResumeMode
	reorderWindow  int
	sinks          []Sink
	observers      observers // among the sinks
	metadata       metadata.MD
	concurrency    int
	aheadAfter     int // see lookahead
}

const (
	defaultPoolSize       = 16 // see WithPoolSize
	defaultMaxMessageSize = 10 << 20
	defaultAttemptTimeout = 30 * time.Second
	defaultReorderWindow  = 64
	defaultConcurrency    = 64
)

func defaultConfig() config {
	return config{
		poolSize:       defaultPoolSize,
		keepalive:      keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true},
		maxMessageSize: defaultMaxMessageSize,
		logger:         slog.New(slog.DiscardHandler),
		call: callConfig{
			attemptTimeout: defaultAttemptTimeout,
			reorderWindow:  defaultReorderWindow,
			concurrency:    defaultConcurrency,
			aheadAfter:     aheadAfter,
		},
	}
}

// with returns the configuration with opts applied, checked.
func (c config) with(opts []Option) (config, error) {
	c.call = c.call.fork()
	c.security.options = nil // of this list; what came before is a default and may be overridden
	for _, opt := range opts {
		if opt != nil {
			opt.applyClient(&c)
		}
	}
	c.receiveLimit = grpc.MaxCallRecvMsgSize(c.maxMessageSize)
	return c, errors.Join(
		c.security.validate(),
		atLeast("WithPoolSize", c.poolSize, 1),
		atLeast("WithMaxMessageSize", c.maxMessageSize, 1),
		validateKeepalive(c.keepalive),
		c.call.validate(),
	)
}

// with returns the configuration with opts applied, checked. It does not change what c refers to.
func (c callConfig) with(opts []CallOption) (callConfig, error) {
	if len(opts) == 0 {
		return c, nil
	}
	c = c.fork()
	for _, opt := range opts {
		if opt != nil {
			opt.applyCall(&c)
		}
	}
	return c, c.validate()
}

// fork makes c independent of the configuration that it was copied from.
func (c callConfig) fork() callConfig {
	c.sinks = slices.Clip(c.sinks)
	c.observers = slices.Clip(c.observers)
	c.metadata = maps.Clone(c.metadata)
	c.retryOptions = nil
	return c
}

func (c *callConfig) validate() error {
	var contradiction error
	if len(c.retryOptions) > 1 {
		contradiction = fmt.Errorf("vehicle: %s contradict each other: give one of them", strings.Join(c.retryOptions, " and "))
	}
	return errors.Join(
		contradiction,
		c.retry.validate(),
		c.resume.validate(),
		atLeast("WithReorderWindow", c.reorderWindow, 0),
		atLeast("WithConcurrency", c.concurrency, 1),
		validateSinks(c.sinks),
		validateMetadata(c.metadata),
	)
}

func atLeast(option string, n, least int) error {
	if n < least {
		return fmt.Errorf("vehicle: %s(%d): want at least %d", option, n, least)
	}
	return nil
}

func validateKeepalive(params keepalive.ClientParameters) error {
	if params.Timeout < 0 {
		return fmt.Errorf("vehicle: WithKeepalive: Timeout %v: want 0 or more", params.Timeout)
	}
	return nil
}

func validateSinks(sinks []Sink) error {
	for i, s := range sinks {
		if s == nil {
			return fmt.Errorf("vehicle: WithSink: sink %d of %d is nil", i+1, len(sinks))
		}
	}
	return nil
}

// validateMetadata refuses what gRPC would refuse, or overwrite, only when the command is under way.
func validateMetadata(md metadata.MD) error {
	for key, values := range md {
		switch {
		case strings.HasPrefix(key, "grpc-"), strings.HasPrefix(key, "x-sovd-"),
			key == "content-type", key == "te", key == "user-agent": // gRPC drops these without a word
			return fmt.Errorf("vehicle: WithMetadata: key %q is reserved", key)
		case key == "", strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "":
			return fmt.Errorf("vehicle: WithMetadata: key %q has characters other than a-z, 0-9, '-', '_' and '.'", key)
		case strings.HasSuffix(key, "-bin"):
			continue
		}
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
				return fmt.Errorf("vehicle: WithMetadata: a value of key %q is not printable ASCII; only keys that end in -bin take other bytes", key)
			}
		}
	}
	return nil
}

// WithTLSFiles uses TLS with certificates from PEM files: the CA bundle that must have signed the
// server's certificate, and, for mutual TLS, the client's certificate and key. The default is TLS with the
// system's roots and no client certificate. The files are loaded and checked in [New]: one that is missing,
// damaged, expired, or does not match is an error that names it.
//
// The files may be replaced while the client runs, also by moving a symbolic link, as Kubernetes and
// cert-manager do. A new connection uses what they hold when it is made. The connections that are there, idle
// ones too, are replaced within 5 s, so that a handshake that now fails is found before a command needs it; running
// commands finish on the connections that they began on. Files that cannot be used, such as half a
// rotation, are logged at Warn and change nothing. So that nothing fails meanwhile, let the new authority
// into all bundles before certificates of it are used.
func WithTLSFiles(files TLSFiles) Option {
	return clientOption(func(c *config) { c.security.useFiles(files) })
}

// WithTLS uses TLS with a configuration of the caller's, for certificates that do not come from files
// (SPIFFE, an HSM). It is cloned and never changed, nil is as the zero Config; TLS 1.2 is the least version that is spoken.
// GetClientCertificate, VerifyPeerCertificate and VerifyConnection are called in each handshake, and sessions are
// not resumed. InsecureSkipVerify without one of the latter two is an error of [New]: the server must be verified.
func WithTLS(tlsConfig *tls.Config) Option {
	tlsConfig = tlsConfig.Clone()
	return clientOption(func(c *config) { c.security.useConfig(tlsConfig) })
}

// WithInsecure speaks plaintext: commands, answers and metadata can be read and changed by anyone on
// the way. It is for tests, for unix sockets, and for links that something else protects. To a target that is
// neither loopback nor a unix socket, New logs one warning.
func WithInsecure() Option {
	return clientOption(func(c *config) { c.security.useNothing() })
}

// WithPoolSize is the most connections that the client opens; the default is 16, the least is 1. A
// connection is opened when those there have about 100 streams in flight each, or when the server
// makes a stream wait for a place; a command goes to the least busy healthy one.
//
// The default is where more stopped helping, client and server sharing two cores: of 1,024 commands at once that take
// 50 ms each, against a server that allows 100 streams on a connection, a pool of 1, 2, 4, 8, 12, 16, 24 and 32 ran 1.0,
// 1.6, 1.8, 2.2, 2.4, 3.0, 2.6 and 2.3 times as many in a second as the generated stub did on one connection
// (BenchmarkPoolSize). Where a resolver spreads each connection over several addresses, the pool opens that many times more.
func WithPoolSize(n int) Option {
	return clientOption(func(c *config) { c.poolSize = n })
}

// WithKeepalive sets when a silent connection is probed; the default is a ping after 30 s without
// traffic, 10 s for its answer, also without streams, so that a link that died without a word is
// noticed before the next command needs it. Time 0 or less turns probing off; less than 10 s counts as 10 s.
// Timeout 0 is gRPC's default, 20 s.
//
// Keepalive is an agreement with the server. gRPC servers by default allow one ping in five minutes on
// a connection with streams and one in two hours without, and close the connection of a client
// that pings more often (GOAWAY, ENHANCE_YOUR_CALM, "too_many_pings") when it has done so three times
// without the server sending anything in between; the streams on it end with UNAVAILABLE. The client
// then doubles the connection's interval. The SDK resumes such a command at once on a new connection and without
// charging its retry budget, so that the disagreement costs reconnections in the connection's first half hour
// and no commands but those marked Once and those run [WithoutRetry]. The better cure is the server's
// keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}.
func WithKeepalive(params keepalive.ClientParameters) Option {
	return clientOption(func(c *config) { c.keepalive = params })
}

// WithMaxMessageSize is the largest message that is received, in bytes; the default is 10 MiB. A larger
// one fails its command with [ErrMalformedResponse].
func WithMaxMessageSize(bytes int) Option {
	return clientOption(func(c *config) { c.maxMessageSize = bytes })
}

// WithLogger says where the client logs; the default is nowhere, and nil means that too. Retries are
// logged at Info, attempts at Debug. Parameters and payloads are never logged. Its handler may call [Client.Close]; a panic of it
// changes nothing.
func WithLogger(logger *slog.Logger) Option {
	return clientOption(func(c *config) {
		if logger == nil {
			logger = slog.New(slog.DiscardHandler)
		}
		c.logger = logger
	})
}

// WithDialOptions adds gRPC dial options to every connection, after the SDK's own: stats handlers,
// interceptors, resolvers. Interceptors and stats handlers see each attempt, and see it again where it
// moved to another connection before it was sent, because the first was full; the metadata x-sovd-attempt tells. gRPC's own
// retry is off, whatever a service config says, since it would send a command of [Command].Once twice.
//
// The SDK's own are windows of 4 MiB for a stream and 16 MiB for a connection, and read buffers of 128 KiB for a connection. A
// stream that nobody reads holds up to its window in memory: with very many slow ones give grpc.WithInitialWindowSize a smaller one.
// Other transport credentials than the SDK's cost speed: frames that arrive together are then read one by one, and that a server
// takes no more streams on a connection shows only in what has to wait. So does any option: chunks that arrived together
// are handed to gRPC as one message only where there is none, since an option may be an interceptor that looks at messages, and gRPC
// does not tell. With one, a fast stream of small chunks takes up to a quarter more of the client's CPU.
func WithDialOptions(opts ...grpc.DialOption) Option {
	opts = slices.DeleteFunc(slices.Clone(opts), func(o grpc.DialOption) bool { return o == nil }) // as a condition leaves behind
	return clientOption(func(c *config) { c.dialOptions = append(c.dialOptions, opts...) })
}

// WithAttemptTimeout bounds each attempt at a command, the sinks' writing included; the default is
// 30 s. The caller's ctx bounds all attempts and the waits between them. Zero or less means no bound of
// its own. An attempt that runs out counts against [RetryPolicy].TimeoutRetries.
func WithAttemptTimeout(d time.Duration) CallOption {
	return callOption(func(c *callConfig) { c.attemptTimeout = d })
}

// WithIdleTimeout bounds the wait for the next chunk; the default is none, and so is zero or less. Only
// the time spent waiting for the network counts, not a sink's; before the first chunk that is also the wait for a
// connection, and for a place on it. An attempt that is idle for longer ends as if its deadline had passed.
func WithIdleTimeout(d time.Duration) CallOption {
	return callOption(func(c *callConfig) { c.idleTimeout = d })
}

// WithRetry sets how often and when an attempt is repeated. Zero fields mean their defaults.
func WithRetry(policy RetryPolicy) CallOption {
	return callOption(func(c *callConfig) { c.setRetry("WithRetry", policy) })
}

// WithoutRetry makes the first failure the last, also one that costs no budget (see [WithKeepalive]).
func WithoutRetry() CallOption {
	return callOption(func(c *callConfig) {
		c.setRetry("WithoutRetry", RetryPolicy{MaxRetries: -1, TimeoutRetries: -1})
	})
}

func (c *callConfig) setRetry(option string, policy RetryPolicy) {
	c.retry = policy
	if !slices.Contains(c.retryOptions, option) {
		c.retryOptions = append(c.retryOptions, option)
	}
}

// WithResume says how an answer goes on after a retry; the default is [ResumeVerified].
func WithResume(mode ResumeMode) CallOption {
	return callOption(func(c *callConfig) { c.resume = mode })
}

// WithReorderWindow is how many chunks may wait for one that is late; the default is 64, and 0 takes
// only chunks in order. The window can hold that many messages of the largest size.
func WithReorderWindow(n int) CallOption {
	return callOption(func(c *callConfig) { c.reorderWindow = n })
}

// WithSink adds sinks. Several are served in order, each batch going to the next when the one before
// has taken it, and a call's come after the client's. Without a sink, chunks only come out of [Stream].
func WithSink(sinks ...Sink) CallOption {
	sinks = slices.Clone(sinks)
	found := observersIn(sinks)
	return callOption(func(c *callConfig) {
		c.sinks = append(c.sinks, sinks...)
		c.observers = append(c.observers, found...)
	})
}

// WithMetadata sends gRPC metadata along, beside what the caller's ctx carries. A call's values for a
// key replace the client's. Keys are lower-cased; those that begin with grpc- or x-sovd- are reserved, and so are
// content-type, te and user-agent (for the last see grpc.WithUserAgent).
func WithMetadata(md metadata.MD) CallOption {
	lower := make(metadata.MD, len(md))
	for key, values := range md {
		lower[strings.ToLower(key)] = append(lower[strings.ToLower(key)], values...)
	}
	return callOption(func(c *callConfig) {
		if c.metadata == nil {
			c.metadata = make(metadata.MD, len(md))
		}
		maps.Copy(c.metadata, lower)
	})
}

// WithConcurrency is how many commands [Client.ExecuteAll] runs at once; the default is 64, the least is 1.
func WithConcurrency(n int) CallOption {
	return callOption(func(c *callConfig) { c.concurrency = n })
}
