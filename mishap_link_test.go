package vehicle_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// answerMishaps are those of answers that no vehicle should give, and of callers that leave in the middle of one.
func answerMishaps() map[string]mishap {
	unavailable := vt.Fail(codes.Unavailable, "gateway restarting")
	return map[string]mishap{
		"a message is no protobuf":       {want: "ErrMalformedResponse", scripts: []vt.Script{{vt.SendBytes([]byte("not protobuf"))}}},
		"a chunk's number is negative":   {want: "ErrSequence", scripts: []vt.Script{{vt.SendRaw(seq(-1, `1`))}}},
		"a chunk 0 comes after chunk 1":  {want: "ErrSequence", scripts: []vt.Script{{vt.SendRaw(seq(1, `1`), seq(0, `1`))}}},
		"a resumed answer turns back":    {want: "ErrReplayDiverged", opts: []vehicle.Option{quickly()}, scripts: []vt.Script{{vt.Send(`1`, `2`), unavailable}, {vt.SendRaw(seq(2, `3`), seq(0, `1`))}}},
		"a name is not valid UTF-8":      {want: "ErrInvalidCommand", ruin: func(c *vehicle.Command) { c.Name = "Read\xff" }},
		"a parameter is not valid UTF-8": {want: "ErrInvalidCommand", ruin: func(c *vehicle.Command) { c.Params = map[string]any{"mask": secret + "\xff"} }},
		"an interceptor panics": {want: "ErrInternal",
			opts: []vehicle.Option{vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(panics))}},
		"an interceptor panics before a connection is ready": {want: "ErrTimeout",
			opts: []vehicle.Option{vehicle.WithDialOptions(grpc.WithChainStreamInterceptor(panics), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				return nil, errors.New("no route to the gateway")
			}))},
			run: func(ctx context.Context, client *vehicle.Client, _ vehicle.Command) error {
				ctx, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				return client.WaitReady(ctx)
			}},
		"the caller cancels while a sink is busy": {want: "ErrCanceled", scripts: []vt.Script{{vt.Answer(`1`)}},
			opts: []vehicle.Option{vehicle.WithSink(troubled{write: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})},
			run:  executeForASecond},
		"the caller cancels before a retry": {want: "ErrCanceled", scripts: []vt.Script{{unavailable}},
			opts: []vehicle.Option{vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: time.Minute})},
			run:  executeForASecond},
		"the loop's body panics": {want: "ErrCanceled", scripts: []vt.Script{{vt.Send(`1`), vt.Stall()}},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				stream := client.Stream(ctx, cmd)
				func() {
					defer func() { _ = recover() }()
					for range stream.Chunks() {
						panic("in the body")
					}
				}()
				return stream.Result().Err
			}},
		"the client is closed before it is ready": {want: "ErrClosed",
			run: func(ctx context.Context, client *vehicle.Client, _ vehicle.Command) error {
				return errors.Join(client.Close(), client.WaitReady(ctx))
			}},
	}
}

func panics(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
	panic(secret)
}

// executeForASecond cancels the command when it has run for that long.
func executeForASecond(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
	ctx, cancel := context.WithCancel(ctx)
	defer time.AfterFunc(time.Second, cancel).Stop()
	return execute(ctx, client, cmd)
}

// linkMishaps are those of links: handshakes that cannot succeed, and what the two sides allow each other.
func linkMishaps() map[string]mishap {
	// handshake is of a client with ca's files and a server with certificates of another's.
	handshake := func(serve func(t *testing.T, ca *vt.CA) vt.Option) mishap {
		return mishap{want: "ErrUnavailable", connect: func(t *testing.T, opts ...vt.Option) *vehicle.Client {
			return vt.NewServer(t, append(opts, serve(t, vt.NewCA(t)))...).Client(t)
		}}
	}
	unknown := handshake(func(t *testing.T, ca *vt.CA) vt.Option {
		return vt.WithTLS(vt.NewCA(t).ServerConfig(), vehicle.WithTLSFiles(ca.Files()))
	})
	unknownAtOnce := unknown
	unknownAtOnce.run = func(ctx context.Context, client *vehicle.Client, _ vehicle.Command) error {
		return client.WaitReady(ctx)
	}
	return map[string]mishap{
		"TLS: the server's authority is unknown":               unknown,
		"TLS: the server's authority is unknown, in WaitReady": unknownAtOnce,
		"TLS: the server's certificate has expired": handshake(func(_ *testing.T, ca *vt.CA) vt.Option {
			return vt.WithMutualTLS(ca, vt.CertExpired())
		}),
		"TLS: the server has another name": handshake(func(_ *testing.T, ca *vt.CA) vt.Option {
			files := ca.Files()
			files.ServerName = "gateway.example.com"
			return vt.WithTLS(ca.ServerConfig(vt.CertForNames("gateway.internal")), vehicle.WithTLSFiles(files))
		}),
		"TLS: the server wants a client certificate": handshake(func(_ *testing.T, ca *vt.CA) vt.Option {
			return vt.WithTLS(ca.ServerConfig(), vehicle.WithTLSFiles(vehicle.TLSFiles{CA: ca.Files().CA}))
		}),
		"TLS: the server does not know the client's authority": handshake(func(t *testing.T, ca *vt.CA) vt.Option {
			cert, err := ca.IssueServer()
			if err != nil {
				t.Fatal(err)
			}
			return vt.WithTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: vt.NewCA(t).Pool()},
				vehicle.WithTLSFiles(ca.Files()))
		}),
		"TLS: the client's certificate has expired": handshake(func(t *testing.T, ca *vt.CA) vt.Option {
			config, err := ca.ClientConfig(vt.CertExpired())
			if err != nil {
				t.Fatal(err)
			}
			return vt.WithTLS(ca.ServerConfig(), vehicle.WithTLS(config))
		}),
		"TLS: the server speaks plaintext": {want: "ErrUnavailable", connect: func(t *testing.T, opts ...vt.Option) *vehicle.Client {
			server := vt.NewServer(t, opts...)
			client, err := vehicle.New(server.Target(), vehicle.WithTLSFiles(vt.NewCA(t).Files()),
				vehicle.WithDialOptions(grpc.WithContextDialer(server.Dial)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			return client
		}},
		"the server hangs up on plaintext": {want: "ErrUnavailable",
			opts: []vehicle.Option{vehicle.WithoutRetry(), vehicle.WithDialOptions(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				client, server := net.Pipe()
				return &hangUp{Conn: client, peer: server, spoken: make(chan struct{})}, nil
			}))}},
		"the server allows fewer pings": {want: "ErrUnavailable", scripts: []vt.Script{{vt.Stall()}},
			ruin: func(c *vehicle.Command) { c.Once = true },
			opts: []vehicle.Option{vehicle.WithAttemptTimeout(0)}},
		"the server allows no more streams": {want: "ErrTimeout", scripts: []vt.Script{{vt.Stall()}},
			connect: func(t *testing.T, opts ...vt.Option) *vehicle.Client {
				return vt.NewServer(t, append(opts, vt.WithServerOptions(grpc.MaxConcurrentStreams(1)))...).Client(t,
					vehicle.WithPoolSize(1), vehicle.WithoutRetry())
			},
			run: func(ctx context.Context, client *vehicle.Client, cmd vehicle.Command) error {
				before := cmd
				before.ID = uuid.New()
				ctx, cancel := context.WithCancel(ctx)
				ended := make(chan error)
				go func() {
					_, err := client.Execute(ctx, before, vehicle.WithAttemptTimeout(0))
					ended <- err
				}()
				defer func() { cancel(); <-ended }()
				synctest.Wait() // until the other command has the stream
				return execute(ctx, client, cmd)
			}},
	}
}

// hangUp is a connection to a server that listens to the first words, and then hangs up, as one that wants TLS does.
type hangUp struct {
	net.Conn
	peer   net.Conn
	once   sync.Once
	spoken chan struct{}
}

func (c *hangUp) Write(b []byte) (int, error) {
	c.once.Do(func() { close(c.spoken) })
	return len(b), nil
}

func (c *hangUp) Read([]byte) (int, error) {
	<-c.spoken
	return 0, io.EOF
}

func (c *hangUp) Close() error { return errors.Join(c.Conn.Close(), c.peer.Close()) }
