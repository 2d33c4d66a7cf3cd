package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/sink/redissink"
)

// getEvents gives a command's events as server-sent events, from the first one on, whenever the client comes, and ends
// after the last. The data of each is what Redis has; it says itself which kind it is. An event's id is its sequence
// number; a client that lost the connection sends the last one (Last-Event-ID) and gets what follows.
func (s *service) getEvents(w http.ResponseWriter, r *http.Request) {
	id, ok := parseID(r.PathValue("id"))
	if !ok {
		noCommand.write(w)
		return
	}
	f := &feed{service: s, id: id, out: eventWriter{w: w, control: http.NewResponseController(w)}}
	switch last := r.Header.Get("Last-Event-ID"); last {
	case "":
	case lastEventID: // EventSource comes back after every end: this tells it not to
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		seq, err := strconv.ParseInt(last, 10, 32)
		if err != nil {
			invalid("Last-Event-ID: want the id of an event").write(w)
			return
		}
		f.next = seq + 1
	}
	select {
	case s.followers <- struct{}{}:
		defer func() { <-s.followers }()
	default:
		busy.write(w)
		return
	}
	rec, err := s.store.command(r.Context(), id)
	if err != nil {
		s.unreadable(w, err)
		return
	}
	if err := f.out.open(); err != nil || r.Method == http.MethodHead { // which is answered, and would hold a place
		return
	}
	if !rec.ended() && f.live(r.Context()) {
		return
	}
	f.fromStore(r.Context())
}

// feed is one client that follows a command.
type feed struct {
	*service
	id   uuid.UUID
	out  eventWriter
	next int64 // the lowest sequence number that the client has not had
}

// live gives the events as Redis has them. It says true when the client has got the last one, or has gone, and false
// when the rest is to come from PostgreSQL: Redis has lost events, never had them, or cannot be reached.
func (f *feed) live(ctx context.Context) (done bool) {
	following, cancel := context.WithCancel(ctx)
	events := make(chan redissink.Event)
	lost := make(chan error, 1)
	var follower sync.WaitGroup
	defer follower.Wait()
	defer cancel()
	follower.Go(func() { lost <- f.follow(following, events) })

	beat := time.NewTicker(f.set.heartbeat)
	defer beat.Stop()
	behind := int64(-1) // what the client lacked at the last beat, though PostgreSQL had it
	for {
		select {
		case e := <-events:
			// What comes before e is not on Redis where the command's publisher keeps no streams. And Redis calls a command
			// failed too whose events could not all be published: see announcer.
			if e.Event != "response" || f.lacks(e) {
				if done, err := f.sendStored(ctx); done {
					return true
				} else if f.lacks(e) {
					f.log.Warn("following a command on Redis", "error", errors.Join(errNotStored, err))
					return false
				}
			}
			if last, err := f.send(e); last || err != nil {
				return true
			}
		case err := <-lost:
			if ctx.Err() != nil {
				return true
			}
			f.log.Warn("following a command on Redis", "error", err)
			return false
		case <-beat.C:
			if f.out.beat() != nil {
				return true
			}
			// Nothing more comes from Redis if the process that ran the command has crashed, or could not publish.
			if f.ended(ctx) {
				return false
			}
			if page, _, err := f.store.chunks(ctx, f.id, f.next); err == nil && len(page) > 0 {
				if behind == f.next {
					return false
				}
				behind = f.next
			}
		case <-ctx.Done():
			return true
		}
	}
}

// lacks says whether the client has not had what comes before e.
func (f *feed) lacks(e redissink.Event) bool { return e.Event == "response" && int64(e.Seq) > f.next }

// ended says whether the command is recorded as ended.
func (f *feed) ended(ctx context.Context) bool {
	rec, err := f.store.command(ctx, f.id)
	return err == nil && rec.ended()
}

var errNotStored = errors.New("events before the first one are not stored")

var errNoLastEvent = errors.New("the events ended before the last")

// follow hands on what Redis has until ctx ends.
func (f *feed) follow(ctx context.Context, events chan<- redissink.Event) error {
	for e, err := range redissink.Follow(ctx, f.rdb, f.id) {
		if err != nil {
			return err
		}
		select {
		case events <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errNoLastEvent // the reader of events knows better
}

// fromStore gives the events as PostgreSQL has them, until the last. It looks from time to time.
func (f *feed) fromStore(ctx context.Context) {
	poll, beat := time.NewTicker(f.set.poll), time.NewTicker(f.set.heartbeat)
	defer poll.Stop()
	defer beat.Stop()
	for {
		done, err := f.sendStored(ctx)
		if done || ctx.Err() != nil {
			return
		}
		if err != nil { // of the database: it may come back, and EventSource would not
			f.log.Warn("reading a command for its followers", "error", err)
		}
		for waiting := true; waiting; {
			select {
			case <-poll.C:
				waiting = false
			case <-beat.C:
				if f.out.beat() != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// sendStored gives what is there. It says true when the client has got the last event, or has gone.
func (f *feed) sendStored(ctx context.Context) (done bool, err error) {
	rec, err := f.store.command(ctx, f.id)
	if err != nil {
		return errors.Is(err, errNoCommand), err
	}
	for more := true; more; {
		var chunks []storedChunk
		if chunks, more, err = f.store.chunks(ctx, f.id, f.next); err != nil {
			return false, err
		}
		for _, chunk := range chunks {
			if _, err := f.send(chunk.event(f.id)); err != nil {
				return true, err
			}
		}
	}
	if rec.ended() {
		return f.send(rec.lastEvent())
	}
	return false, nil
}

// send gives the client an event that it has not had, and says whether it was the last.
func (f *feed) send(e redissink.Event) (last bool, err error) {
	if last = e.Event != "response"; last {
		return true, f.out.event(lastEventID, e)
	}
	if int64(e.Seq) < f.next {
		return false, nil
	}
	f.next = int64(e.Seq) + 1
	return false, f.out.event(strconv.Itoa(int(e.Seq)), e)
}

const lastEventID = "end"

// eventWriter writes the text/event-stream format of the HTML standard.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// eventWriteTime is for a client that does not read.
const eventWriteTime = 30 * time.Second

func (e eventWriter) open() error {
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // for nginx
	return e.write("retry: 3000\n\n")
}

func (e eventWriter) event(id string, event redissink.Event) error {
	// Compact, which is one line, and by itself: within the event it would be a level deeper than it may be.
	payload, err := json.Marshal(event.Payload)
	if err != nil {
		return err
	}
	event.Payload = payload
	data, err := event.MarshalJSON()
	if err != nil {
		return err
	}
	// Without an event: field, since EventSource has an event of its own that is called error.
	return e.write(fmt.Sprintf("id: %s\ndata: %s\n\n", id, data))
}

// beat keeps proxies from closing the connection, and finds out that the client has gone.
func (e eventWriter) beat() error { return e.write(": heartbeat\n\n") }

func (e eventWriter) write(text string) error {
	if err := e.control.SetWriteDeadline(time.Now().Add(eventWriteTime)); err != nil {
		return err
	}
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.control.Flush()
}
