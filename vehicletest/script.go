package vehicletest

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// Script is what the vehicle does in one attempt: its steps, one after the other. After the last step
// the call ends with OK, whether or not a final chunk was sent. A script may be run by several calls at
// once.
type Script []Step

// Run runs the steps until one fails. It lets a step of one script run another script.
func (s Script) Run(ctx context.Context, c *Call) error {
	for _, step := range s {
		if err := step(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// Step is one thing that a vehicle does. An error ends the call: a gRPC status is sent as it is, an
// error of ctx as the code that belongs to it, any other as UNKNOWN. ctx ends with the call, with its
// connection, and when the server closes; a step that waits must honour it. A step that panics ends the call
// with INTERNAL, one that ends its goroutine (t.FailNow) cuts the connection. Steps may be called by several
// calls at once.
type Step func(ctx context.Context, c *Call) error

// Send sends one chunk for each payload, none of them final, numbered from where the call stands.
// Payloads go out as they are, be they JSON or UTF-8 or neither.
func Send(payloads ...string) Step {
	return func(_ context.Context, c *Call) error {
		for _, payload := range payloads {
			if err := c.chunk(payload, func(*vehiclepb.CommandResponse) {}); err != nil {
				return err
			}
		}
		return nil
	}
}

// Answer is [Send] with a final last chunk. Without payloads it sends nothing.
func Answer(payloads ...string) Step {
	return func(ctx context.Context, c *Call) error {
		if len(payloads) == 0 {
			return nil
		}
		last := len(payloads) - 1
		if err := Send(payloads[:last]...)(ctx, c); err != nil {
			return err
		}
		return c.chunk(payloads[last], func(m *vehiclepb.CommandResponse) { m.IsFinal = true })
	}
}

// SendEdited sends one well-formed chunk that is not final, after edit has changed in it what should be
// wrong: another number, command id or timestamp, or none.
func SendEdited(payload string, edit func(*vehiclepb.CommandResponse)) Step {
	return func(_ context.Context, c *Call) error { return c.chunk(payload, edit) }
}

// SendRaw sends messages as they are, but for an empty command id, which becomes the request's: a test
// writes its messages before it knows that id. ([SendEdited] can send an empty one.) Numbers are the
// messages' own, and the call's count stays where it is.
func SendRaw(messages ...*vehiclepb.CommandResponse) Step {
	return func(_ context.Context, c *Call) error {
		for _, m := range messages {
			if m.GetCommandId() == "" {
				m = proto.CloneOf(m)
				m.CommandId = c.Request.Command.GetCommandId()
			}
			if err := c.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
}

// SendBytes sends one gRPC message of these bytes, which need not be protobuf.
func SendBytes(b []byte) Step {
	return func(_ context.Context, c *Call) error { return c.SendBytes(b) }
}

// NumberFrom gives the next chunk the number n; the default is 0, and older vehicles begin with 1.
func NumberFrom(n int32) Step {
	return func(_ context.Context, c *Call) error {
		c.Next = n
		return nil
	}
}

// Resume makes the call begin where the client asked in x-sovd-resume-from: numbered chunks below are
// counted and not sent. Without it an answer is sent from its start, as by vehicles that do not know
// the key. Other steps (delays, [SendRaw]) run as ever.
func Resume() Step {
	return func(_ context.Context, c *Call) error {
		if from := c.Request.ResumeFrom; from >= 0 {
			c.skipTo = from
		}
		return nil
	}
}

// Delay waits for d, or until the call ends.
func Delay(d time.Duration) Step {
	return func(ctx context.Context, _ *Call) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Until waits until signal is closed, or something is received from it, or the call ends: a test that
// holds the other end needs no sleep.
func Until(signal <-chan struct{}) Step {
	return func(ctx context.Context, _ *Call) error {
		select {
		case <-signal:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stall does nothing until the call ends: the client cancels, its deadline passes, the connection is
// lost, or the server closes.
func Stall() Step { return Until(nil) }

// Header sends the response headers now, md beside gRPC's own. Without it they go with the first
// message, or with the status.
func Header(md metadata.MD) Step {
	return func(_ context.Context, c *Call) error { return c.stream.SendHeader(md) }
}

// Trailer adds md to the status that ends the call, wherever the script ends, for example
// grpc-retry-pushback-ms.
func Trailer(md metadata.MD) Step {
	return func(_ context.Context, c *Call) error {
		c.stream.SetTrailer(md)
		return nil
	}
}

// Fail ends the call with a status and its details, for example an errdetails.RetryInfo. With codes.OK
// it does nothing.
func Fail(code codes.Code, message string, details ...proto.Message) Step {
	st := status.New(code, message)
	if len(details) > 0 && code != codes.OK { // which has none
		converted := make([]protoadapt.MessageV1, len(details))
		for i, d := range details {
			converted[i] = protoadapt.MessageV1Of(d)
		}
		var err error
		if st, err = st.WithDetails(converted...); err != nil {
			st = status.Newf(codes.Internal, "vehicletest: Fail: %v", err)
		}
	}
	return func(context.Context, *Call) error { return st.Err() }
}
