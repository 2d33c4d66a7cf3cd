package vehicle

import (
	"time"

	"google.golang.org/grpc/connectivity"
)

// Stats is how a client's connections stand at one moment.
type Stats struct {
	// Idle, Connecting, Ready and Failing count the connections, by what gRPC says of them. Failing ones wait before
	// they try again. Connections that have been replaced and still carry streams are not among them.
	Idle, Connecting, Ready, Failing int
	// Streams counts the streams on which an answer may still come; Waiting of them have not been opened yet.
	Streams, Waiting int
	// ClientCertificateEnds is when the client's certificate expires, CACertificatesEnd when the last of the
	// authorities does that the server may be signed by. Zero: there is none, or it is not known, as of the system's roots.
	ClientCertificateEnds, CACertificatesEnd time.Time
}

// Stats says how the connections stand. It does no I/O and is safe for concurrent use.
func (c *Client) Stats() Stats {
	var s Stats
	s.ClientCertificateEnds, s.CACertificatesEnd = c.keys.ends()
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		switch conn.GetState() {
		case connectivity.Idle:
			s.Idle++
		case connectivity.Connecting:
			s.Connecting++
		case connectivity.Ready:
			s.Ready++
		case connectivity.TransientFailure, connectivity.Shutdown:
			s.Failing++
		}
		s.Streams += conn.streams
		s.Waiting += conn.streams - conn.open
	}
	for conn := range p.retired {
		s.Streams += conn.streams
		s.Waiting += conn.streams - conn.open
	}
	return s
}
