package vehicletest

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// Request is a request as it arrived. It is not changed afterwards, and must not be.
type Request struct {
	Command  *vehiclepb.CommandRequest
	Metadata metadata.MD
	// Deadline is when the client gives up, by this process's clock; zero where the client set none.
	Deadline time.Time
	// Attempt is what x-sovd-attempt says; 0 where it is absent or no number.
	Attempt int
	// ResumeFrom is what x-sovd-resume-from says, the first sequence number wanted; negative where it is
	// absent or no number.
	ResumeFrom int32
	// Try counts the requests for this command id, from 1, by what the server has seen.
	Try int
	// Conn numbers the connection that the request came on, from 1 in the order of their arrival.
	Conn int
	// TLS is the state of that connection, with the client's certificates; nil without TLS.
	TLS *tls.ConnectionState
	// Arrived is when the request was complete.
	Arrived time.Time

	done chan struct{}
	end  End // valid once done is closed
}

// End is how a call ended, as the server saw it.
type End struct {
	How Ending
	// Code is the status that the script ended with, also where it could no longer be sent.
	Code codes.Code
}

// String is for messages.
func (e End) String() string { return fmt.Sprintf("%s with %s", e.How, e.Code) }

// Ending is what ended a call.
type Ending string

const (
	// Finished is a call whose script ended and whose status went out. A client that left after that was not noticed.
	Finished Ending = "finished"
	// Canceled is one whose stream the client reset while the script ran. A client does so at its own deadline too,
	// which may be before the server's clock has reached it.
	Canceled Ending = "canceled"
	// Expired is one whose deadline passed while the script ran.
	Expired Ending = "expired"
	// Disconnected is one whose connection was closed while the script ran, by either side, or was cut by it.
	Disconnected Ending = "disconnected"
)

// Wait waits for the call to end and says how it did. The error is ctx's, and nil where the call has ended before.
func (r *Request) Wait(ctx context.Context) (End, error) {
	select {
	case <-r.done:
	case <-ctx.Done():
		if !r.ended() { // of two that are ready, select takes either
			return End{}, ctx.Err()
		}
	}
	return r.end, nil
}

func (r *Request) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Done is closed when the call has ended; Wait then returns at once.
func (r *Request) Done() <-chan struct{} { return r.done }

// Requests gives the requests so far, in the order in which they arrived. The slice is the caller's.
func (s *Server) Requests() []*Request { return s.record.all() }

// WaitRequests waits until n requests have arrived, and gives those that [Server.Requests] gives. The
// error wraps ctx's and says how many have arrived.
func (s *Server) WaitRequests(ctx context.Context, n int) ([]*Request, error) {
	return s.record.wait(ctx, n)
}

// recorder keeps the requests. The zero value is ready.
type recorder struct {
	limit int // zero or less: none

	mu        sync.Mutex
	requests  []*Request
	forgotten []*Request // but still running, when the last was forgotten
	arrived   int
	tries     map[string]int
	kept      map[string]int // of requests, by command id
	more      chan struct{}  // closed by the next arrival; nil: nobody waits
}

func (rec *recorder) arrive(ctx context.Context, cmd *vehiclepb.CommandRequest, c *conn) *Request {
	r := &Request{
		Command:    cmd,
		Conn:       c.number,
		Arrived:    time.Now(),
		ResumeFrom: -1,
		done:       make(chan struct{}),
	}
	r.Metadata, _ = metadata.FromIncomingContext(ctx)
	r.Deadline, _ = ctx.Deadline()
	if secured, ok := c.Conn.(*tls.Conn); ok {
		state := secured.ConnectionState()
		r.TLS = &state
	}
	if n, ok := number(r.Metadata, "x-sovd-attempt"); ok {
		r.Attempt = int(n)
	}
	if n, ok := number(r.Metadata, "x-sovd-resume-from"); ok {
		r.ResumeFrom = n
	}

	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.tries == nil {
		rec.tries, rec.kept = make(map[string]int), make(map[string]int)
	}
	id := cmd.GetCommandId()
	rec.tries[id]++
	rec.kept[id]++
	r.Try = rec.tries[id]
	rec.requests = append(rec.requests, r)
	rec.arrived++
	if rec.limit > 0 && len(rec.requests) > rec.limit {
		rec.forgetOldest()
	}
	if rec.more != nil {
		close(rec.more)
		rec.more = nil
	}
	return r
}

func (rec *recorder) forgetOldest() {
	oldest := rec.requests[0]
	id := oldest.Command.GetCommandId()
	rec.forgotten = slices.DeleteFunc(append(rec.forgotten, oldest), (*Request).ended)
	rec.requests[0] = nil // append moves the slice on in time, and frees what is before it
	rec.requests = rec.requests[1:]
	if rec.kept[id]--; rec.kept[id] == 0 {
		delete(rec.kept, id)
		delete(rec.tries, id)
	}
}

func (rec *recorder) all() []*Request {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Clone(rec.requests)
}

func (rec *recorder) wait(ctx context.Context, n int) ([]*Request, error) {
	for {
		arrived, more := rec.progress()
		if arrived >= n {
			return rec.all(), nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("vehicletest: %d of %d requests arrived: %w", arrived, n, ctx.Err())
		}
	}
}

// progress says how many requests there were, forgotten ones included, and gives what the next one closes.
func (rec *recorder) progress() (int, <-chan struct{}) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.more == nil {
		rec.more = make(chan struct{})
	}
	return rec.arrived, rec.more
}

// running names the requests that have not ended, forgotten ones included.
func (rec *recorder) running() []string {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var names []string
	for _, r := range slices.Concat(rec.forgotten, rec.requests) {
		if !r.ended() {
			names = append(names, fmt.Sprintf("%s %s (try %d)", r.Command.GetCommandName(), r.Command.GetCommandId(), r.Try))
		}
	}
	return names
}

func number(md metadata.MD, key string) (int32, bool) {
	values := md.Get(key)
	if len(values) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(values[0], 10, 32)
	return int32(n), err == nil
}
