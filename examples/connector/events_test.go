package main

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// held is a vehicle that waits in the middle of its answer.
func held() (release chan struct{}, answer vehicletest.Option) {
	release = make(chan struct{})
	return release, vehicletest.On("Read", vehicletest.Script{
		vehicletest.Send("10", "11"), vehicletest.Until(release), vehicletest.Answer("12", "13"),
	})
}

var heldEvents = []string{"0 10", "1 11", "2 12", "3 13", "end status completed"}

func TestFollowersGetEveryEventWheneverTheyCome(t *testing.T) {
	t.Parallel()
	release, answer := held()
	c := start(t, nil, answer)
	id := c.submit("Read")
	early := c.follow(id)
	got := []string{early.event(), early.event()} // the command is in the middle of its answer
	during := c.follow(id)
	again := c.follow(id, "Last-Event-ID", "0")
	first := again.event()
	close(release)
	if diff := cmp.Diff(heldEvents, append(got, early.rest()...)); diff != "" {
		t.Errorf("who came early (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(heldEvents, during.rest()); diff != "" {
		t.Errorf("who came in the middle (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(heldEvents[1:], append([]string{first}, again.rest()...)); diff != "" {
		t.Errorf("who came again in the middle (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(heldEvents, c.follow(id).rest()); diff != "" {
		t.Errorf("who came late (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(heldEvents[3:], c.follow(id, "Last-Event-ID", "2").rest()); diff != "" {
		t.Errorf("who came again late (-want +got):\n%s", diff)
	}
	path := "/commands/" + id.String() + "/events"
	if got := c.do(http.MethodGet, path, "", "", "Last-Event-ID", "end"); got.status != http.StatusNoContent {
		t.Errorf("who came again after the end: got %d, want 204", got.status)
	}
	if got := c.do(http.MethodGet, path, "", "", "Last-Event-ID", "x"); got.status != http.StatusBadRequest {
		t.Errorf("who came with an id that is none: got %d, want 400", got.status)
	}
}

func TestFollowersHearHeartbeats(t *testing.T) {
	t.Parallel()
	release, answer := held()
	c := start(t, func(s *settings) { s.heartbeat = 20 * time.Millisecond }, answer)
	f := c.follow(c.submit("Read"))
	for range 3 {
		if f.nextIn(": heartbeat") != "" {
			t.Fatal("the comment has a text")
		}
	}
	close(release)
	if got := f.rest(); len(got) == 0 || got[len(got)-1] != "end status completed" {
		t.Errorf("got %q, want the last event", got)
	}
}

func TestMoreFollowersThanMayAreRefused(t *testing.T) {
	t.Parallel()
	release, answer := held()
	defer close(release)
	c := start(t, func(s *settings) { s.maxFollowers = 1 }, answer)
	id := c.submit("Read")
	f := c.follow(id)
	if got := c.get("/commands/" + id.String() + "/events"); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 503 with Retry-After", got.status, got.body)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the place is free", func() bool { return c.stat("followers") == 0 })
	c.follow(id)
}

func TestWhoAsksForTheHeadOnlyTakesNoFollowersPlace(t *testing.T) {
	t.Parallel()
	release, answer := held()
	defer close(release)
	c := start(t, nil, answer)
	path := "/commands/" + c.submit("Read").String() + "/events"
	client := &http.Client{Transport: new(http.Transport)} // its connection would be busy with what follows the head
	defer client.CloseIdleConnections()
	res, err := client.Head(c.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Errorf("got %s and Content-Type %q, want that of a stream of events", res.Status, got)
	}
	eventually(t, "nobody follows", func() bool { return c.stat("followers") == 0 })
}

// The stream in Redis is gone in the middle of an answer, and then Redis itself.
func TestFollowersGetFromPostgreSQLWhatRedisHasLost(t *testing.T) {
	t.Parallel()
	rd := ownRedis(t)
	release, answer := held()
	c := start(t, func(s *settings) { s.redis, s.heartbeat, s.poll = rd.URL(), 20*time.Millisecond, 20*time.Millisecond }, answer)
	id := c.submit("Read")
	f := c.follow(id)
	got := []string{f.event(), f.event()}
	if err := c.service.rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	late := c.follow(id)
	if err := rd.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	if diff := cmp.Diff(heldEvents, append(got, f.rest()...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(heldEvents, late.rest()); diff != "" {
		t.Errorf("who came when the stream was gone (-want +got):\n%s", diff)
	}
}

// ownRedis starts a Redis that a test may do what it likes to.
func ownRedis(t *testing.T) *servers.Redis {
	t.Helper()
	rd, err := servers.StartRedis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rd.Close() })
	return rd
}

// limitRedis makes it refuse every write, or none with 0.
func (c *connector) limitRedis(bytes string) {
	c.tb.Helper()
	if err := c.service.rdb.ConfigSet(c.tb.Context(), "maxmemory", bytes).Err(); err != nil {
		c.tb.Fatal(err)
	}
}

// Redis is full in the middle of an answer, and later takes the command's end.
func TestFollowersGetFromPostgreSQLWhatRedisHasRefused(t *testing.T) {
	t.Parallel()
	rd := ownRedis(t)
	fill, release := make(chan struct{}), make(chan struct{})
	c := start(t, func(s *settings) { s.redis = rd.URL() }, vehicletest.On("Read", vehicletest.Script{
		vehicletest.Send("10", "11"), vehicletest.Until(fill), vehicletest.Send("12"), vehicletest.Until(release), vehicletest.Answer("13"),
	}))
	id := c.submit("Read")
	f := c.follow(id)
	got := []string{f.event(), f.event()}
	c.limitRedis("1")
	close(fill)
	eventually(t, "Redis has refused a write", func() bool { return c.stat("redis_errors") > 0 })
	c.limitRedis("0")
	close(release)
	if diff := cmp.Diff(heldEvents, append(got, f.rest()...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Redis was full when the command began, and so has nothing of it while it runs.
func TestFollowersOfARunningCommandGetWhatOnlyPostgreSQLHas(t *testing.T) {
	t.Parallel()
	rd := ownRedis(t)
	release, answer := held()
	c := start(t, func(s *settings) { s.redis, s.heartbeat, s.poll = rd.URL(), 20*time.Millisecond, 20*time.Millisecond }, answer)
	c.limitRedis("1")
	id := c.submit("Read")
	eventually(t, "Redis has refused a write", func() bool { return c.stat("redis_errors") > 0 })
	eventually(t, "two chunks are stored", func() bool { return len(c.show("/commands/"+id.String()).Chunks) == 2 })
	c.limitRedis("0")
	f := c.follow(id)
	beats := 0
	for line := f.next(); line != "id: 0"; line = f.next() {
		if line == ": heartbeat" {
			beats++
		}
		if beats > 100 {
			t.Fatalf("got %d heartbeats and no chunk, want what is stored", beats)
		}
	}
	close(release)
	if diff := cmp.Diff(heldEvents[1:], f.rest()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAFollowerWhoseDatabaseGoesAwayGetsTheRestLater(t *testing.T) {
	t.Parallel()
	pg, err := servers.StartPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	rd := ownRedis(t)
	release, answer := held()
	c := start(t, func(s *settings) {
		s.database, s.redis, s.heartbeat, s.poll = pg.URL(), rd.URL(), 20*time.Millisecond, 20*time.Millisecond
	}, answer)
	f := c.follow(c.submit("Read"))
	got := []string{f.event(), f.event()}
	if err := rd.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	for range 3 {
		f.nextIn(": heartbeat")
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(heldEvents, append(got, f.rest()...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// It answers nothing, as behind a network that drops packets, or under a lock on the table.
func TestWhereTheDatabaseHangsReadersAreToldAndFollowersHearHeartbeats(t *testing.T) {
	t.Parallel()
	release, answer := held()
	c := start(t, func(s *settings) { s.readTimeout, s.heartbeat = 50*time.Millisecond, 20*time.Millisecond }, answer)
	id := c.submit("Read")
	f := c.follow(id)
	got := []string{f.event(), f.event()}
	lock, err := c.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }) // before the connector ends
	for _, test := range []struct{ table, path string }{{"responses", ""}, {"commands", "/events"}} {
		if _, err := lock.Exec(t.Context(), "LOCK TABLE "+test.table); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/commands/"+id.String()+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("GET %s: got %v, want an answer", test.path, err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("GET %s: got %s, want 503", test.path, res.Status)
		}
	}
	for range 3 {
		f.nextIn(": heartbeat")
	}
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	if diff := cmp.Diff(heldEvents, append(got, f.rest()...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Such a command is run by a service that has been there for longer, and publishes what happens and no more.
func TestFollowersOfACommandWithoutAStreamGetWhatCameBeforeThem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, before, chunks int32 // the answer's first number; chunks before the follower comes, and in all
	}{
		"in the middle of an answer": {0, 2, 4},
		"one that begins with 1":     {1, 2, 4},
		"after its last chunk":       {0, 4, 4},
		"before it":                  {0, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, nil)
			stored := pgsink.New(c.db)
			defer func() { _ = stored.Close(t.Context()) }() // its writers would outlive the test
			other := sink.Chain(stored, redissink.New(c.service.rdb))
			cmd := vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "Read"}
			write := func(from, to int32) {
				for i := from; i < to; i++ {
					chunk := vehicle.Chunk{CommandID: cmd.ID, VehicleID: cmd.VehicleID, Seq: test.first + i, Final: i == test.chunks-1, Payload: []byte("7")}
					if err := other.Write(t.Context(), []vehicle.Chunk{chunk}); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := other.Begin(t.Context(), cmd); err != nil {
				t.Fatal(err)
			}
			write(0, test.before)
			f, channel := c.follow(cmd.ID), "response:"+cmd.ID.String()
			eventually(t, "the connector has subscribed", func() bool {
				return c.service.rdb.PubSubNumSub(t.Context(), channel).Val()[channel] == 1
			})
			write(test.before, test.chunks)
			if err := other.End(t.Context(), vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, FinishedAt: time.Now()}); err != nil {
				t.Fatal(err)
			}
			var want []string
			for i := range test.chunks {
				want = append(want, fmt.Sprintf("%d 7", test.first+i))
			}
			if diff := cmp.Diff(append(want, "end status completed"), f.rest()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
