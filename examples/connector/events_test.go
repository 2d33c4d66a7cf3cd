package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sovd-go/vehicle/internal/servers"
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

// The stream in Redis is gone in the middle of an answer, and then Redis itself.
func TestFollowersGetFromPostgreSQLWhatRedisHasLost(t *testing.T) {
	t.Parallel()
	rd, err := servers.StartRedis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rd.Close() })
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

func TestAFollowerWhoseDatabaseGoesAwayGetsTheRestLater(t *testing.T) {
	t.Parallel()
	pg, err := servers.StartPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	rd, err := servers.StartRedis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rd.Close() })
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
