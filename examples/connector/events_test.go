package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
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

// Whoever reads them cannot tell where they came from.
func TestEventsFromPostgreSQLAreThoseOfRedis(t *testing.T) {
	t.Parallel()
	c := start(t, nil, vehicletest.On("Read", vehicletest.Script{vehicletest.Answer(`{"a":[1.50,"<&>"]}`, `null`)}))
	local := regexp.MustCompile(`_at":"[^"]*[^"Z]"`)
	for _, name := range []string{"Read", "FlyAway"} {
		id := c.submit(name)
		c.ended(id)
		var announced, stored []string
		for e, err := range redissink.Follow(t.Context(), c.service.rdb, id) {
			text, _ := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			announced = append(announced, string(text))
		}
		f := c.follow(id)
		for data := f.nextIn("data: "); data != ""; data = f.nextIn("data: ") {
			stored = append(stored, data)
		}
		if diff := cmp.Diff(announced, stored); diff != "" {
			t.Errorf("%s (-Redis +PostgreSQL):\n%s", name, diff)
		}
		for _, text := range append(stored, c.get("/commands/"+id.String()).body) {
			if local.MatchString(text) {
				t.Errorf("%s: got a time that is not UTC: %s", name, text)
			}
		}
	}
}

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
	if err := c.service.rdb.Del(t.Context(), streamOf(id)).Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(heldEvents, c.follow(id).rest()); diff != "" {
		t.Errorf("who came when Redis had forgotten (-want +got):\n%s", diff)
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
	for range 3 { // they go on
		f.nextIn(": heartbeat")
	}
	close(release)
	if diff := cmp.Diff(heldEvents[2:], f.rest()); diff != "" {
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
			cmd, stored, announced := c.foreign(false)
			var seqs []int32
			var want []string
			for seq := test.first; seq < test.first+test.chunks; seq++ {
				seqs, want = append(seqs, seq), append(want, fmt.Sprintf("%d 7", seq))
			}
			both := sink.Chain(stored, announced)
			c.write(both, cmd, seqs[:test.before]...)
			f := c.followPublished(cmd.ID)
			c.write(both, cmd, seqs[test.before:]...)
			c.end(both, cmd)
			if diff := cmp.Diff(append(want, "end status completed"), f.rest()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// streamOf is redissink's.
func streamOf(id uuid.UUID) string { return "stream:{response:" + id.String() + "}" }

// The vehicle goes on only when the gap has been noticed: what is stored then is not yet the whole answer.
func TestFollowersGetFromPostgreSQLWhatRedisHasTrimmed(t *testing.T) {
	t.Parallel()
	release, again := make(chan struct{}), make(chan struct{})
	c := start(t, func(s *settings) { s.poll = 20 * time.Millisecond }, vehicletest.On("Read", vehicletest.Script{
		vehicletest.Send("10", "11"), vehicletest.Until(release), vehicletest.Send("12"), vehicletest.Until(again), vehicletest.Answer("13"),
	}))
	id := c.submit("Read")
	early := c.follow(id)
	got := []string{early.event(), early.event()}
	if err := c.service.rdb.XTrimMaxLen(t.Context(), streamOf(id), 0).Err(); err != nil {
		t.Fatal(err)
	}
	late := c.follow(id)
	close(release)
	gotLate := []string{late.event(), late.event(), late.event()}
	close(again)
	if diff := cmp.Diff(heldEvents, append(got, early.rest()...)); diff != "" {
		t.Errorf("who came before (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(heldEvents, append(gotLate, late.rest()...)); diff != "" {
		t.Errorf("who came after (-want +got):\n%s", diff)
	}
}

// The event around it is a level deeper than encoding/json goes.
func TestFollowersGetAPayloadThatIsAsDeepAsJSONMayBe(t *testing.T) {
	t.Parallel()
	const levels = 10_000
	payload := strings.Repeat("[", levels) + strings.Repeat("]", levels)
	release := make(chan struct{})
	c := start(t, func(s *settings) { s.poll = 20 * time.Millisecond }, vehicletest.On("Read", vehicletest.Script{
		vehicletest.Send(payload), vehicletest.Until(release), vehicletest.Answer("1"),
	}))
	id := c.submit("Read")
	early := c.follow(id)
	got := early.nextIn("data: ")
	close(release)
	if !strings.Contains(got, `"response_payload":`+payload+`,"sequence_number":0,`) {
		t.Errorf("who came early: got %d bytes, want the payload", len(got))
	}
	if diff := cmp.Diff([]string{"1 1", "end status completed"}, early.rest()); diff != "" {
		t.Errorf("who came early (-want +got):\n%s", diff)
	}
	late := c.follow(id)
	if again := late.nextIn("data: "); again != got {
		t.Errorf("who came late: got %d bytes, want the same %d", len(again), len(got))
	}
	if diff := cmp.Diff([]string{"1 1", "end status completed"}, late.rest()); diff != "" {
		t.Errorf("who came late (-want +got):\n%s", diff)
	}
}

// foreign is a command of another process, as PostgreSQL has it, and sinks for its events.
func (c *connector) foreign(streams bool) (cmd vehicle.Command, stored, announced vehicle.Sink) {
	c.tb.Helper()
	cmd = vehicle.Command{ID: uuid.New(), VehicleID: uuid.New(), Name: "Read"}
	pg, rd := pgsink.New(c.db), redissink.New(c.service.rdb)
	if streams {
		rd = redissink.New(c.service.rdb, redissink.WithStream(100, time.Minute))
	}
	c.tb.Cleanup(func() { // their goroutines would outlive the test
		ctx := context.WithoutCancel(c.tb.Context())
		_, _ = pg.Close(ctx), rd.Close(ctx)
	})
	for _, s := range []vehicle.Sink{pg, rd} {
		if err := s.Begin(c.tb.Context(), cmd); err != nil {
			c.tb.Fatal(err)
		}
	}
	return cmd, pg, rd
}

// followPublished returns when the connector hears what is published.
func (c *connector) followPublished(id uuid.UUID) *following {
	c.tb.Helper()
	f, channel := c.follow(id), "response:"+id.String()
	eventually(c.tb, "the connector has subscribed", func() bool {
		return c.service.rdb.PubSubNumSub(c.tb.Context(), channel).Val()[channel] == 1
	})
	return f
}

// write gives chunks to a sink.
func (c *connector) write(to vehicle.Sink, cmd vehicle.Command, seqs ...int32) {
	c.tb.Helper()
	for _, seq := range seqs {
		chunk := vehicle.Chunk{CommandID: cmd.ID, VehicleID: cmd.VehicleID, Seq: seq, Payload: []byte("7")}
		if err := to.Write(c.tb.Context(), []vehicle.Chunk{chunk}); err != nil {
			c.tb.Fatal(err)
		}
	}
}

// end gives a sink the command's end.
func (c *connector) end(to vehicle.Sink, cmd vehicle.Command) {
	c.tb.Helper()
	if err := to.End(c.tb.Context(), vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, FinishedAt: time.Now()}); err != nil {
		c.tb.Fatal(err)
	}
}

// PostgreSQL says nothing of them: a replica that is behind, for one.
func TestFollowersGetWhatOnlyRedisHas(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	cmd, _, announced := c.foreign(true)
	c.write(announced, cmd, 0, 1)
	f := c.follow(cmd.ID)
	got := []string{f.event(), f.event()}
	c.write(announced, cmd, 2)
	c.end(announced, cmd)
	if diff := cmp.Diff([]string{"0 7", "1 7", "2 7", "end status completed"}, append(got, f.rest()...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Redis has no stream of the command, and what comes before its next event cannot be read.
func TestFollowersGetNoEventBeforeThoseThatTheyLack(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"commands", "responses"} {
		t.Run("while "+table+" cannot be read", func(t *testing.T) {
			t.Parallel()
			c := start(t, func(s *settings) {
				s.readTimeout, s.heartbeat, s.poll = 50*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
			})
			cmd, stored, announced := c.foreign(false)
			c.write(announced, cmd, 0, 1)
			f := c.followPublished(cmd.ID)
			lock, err := c.db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }) // before the connector ends
			if _, err := lock.Exec(t.Context(), "LOCK TABLE "+table); err != nil {
				t.Fatal(err)
			}
			c.write(announced, cmd, 2)
			eventually(t, "the connector has read in vain", func() bool { return strings.Contains(c.log.String(), errNotStored.Error()) })
			if err := lock.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.write(stored, cmd, 0, 1, 2, 3)
			c.end(stored, cmd)
			if diff := cmp.Diff([]string{"0 7", "1 7", "2 7", "3 7", "end status completed"}, f.rest()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
