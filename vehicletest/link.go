package vehicletest

import "context"

// The steps below do something to the whole connection, and so to every call on it. What the call has
// sent before them is written to the connection first: a client that reads gets exactly that, but for one
// case: on systems other than Linux a reset may overtake what the kernel had not sent yet, and a close with
// something unread is a reset.

// Cut cuts the connection: over TCP with a reset (RST), in memory by closing the pipe. Before anything
// was sent it comes before the response headers, and between the final chunk and the end of the script
// it comes before the status.
func Cut() Step {
	return func(ctx context.Context, c *Call) error {
		if err := c.flush(ctx); err != nil {
			return err
		}
		if err := c.conn.drain(ctx); err != nil {
			return err
		}
		c.conn.cut()
		<-ctx.Done() // gRPC notices at once
		return ctx.Err()
	}
}

// HangUp closes the connection in the manner of TCP (FIN) and without a word of HTTP/2: a proxy that
// went away. In memory it is the same as [Cut].
func HangUp() Step {
	return func(ctx context.Context, c *Call) error {
		if err := c.flush(ctx); err != nil {
			return err
		}
		if err := c.conn.hangUp(ctx); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// BlackHole makes the connection one that died without FIN, a NAT entry that was dropped: it stays open,
// nothing passes in either direction any more, keepalive pings go unanswered. The step lasts until the
// call's deadline, or until the server closes.
func BlackHole() Step {
	return func(ctx context.Context, c *Call) error {
		if err := c.flush(ctx); err != nil {
			return err
		}
		c.conn.hole.Store(true)
		<-ctx.Done()
		return ctx.Err()
	}
}

// GoAway tells the client with GOAWAY to take its next calls elsewhere, as a gateway does that is
// deployed anew. The calls on the connection go on; new connections are accepted.
func GoAway() Step {
	return func(ctx context.Context, c *Call) error {
		if err := c.flush(ctx); err != nil {
			return err
		}
		c.conn.sendGoAway()
		select {
		case <-c.conn.frames.goAway:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
