package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/vehicletest"
)

// At the end one command still gets its answer and the other one is cancelled: both are recorded, and their followers
// are told.
func TestShutdownEndsEveryCommandRecorded(t *testing.T) {
	t.Parallel()
	release, answer := held()
	c := start(t, func(s *settings) { s.grace = time.Second }, answer,
		vehicletest.On("Stall", vehicletest.Script{vehicletest.Send("0"), vehicletest.Stall()}))
	quick, slow := c.submit("Read"), c.submit("Stall")
	quickly, slowly := c.follow(quick), c.follow(slow)
	quickly.event()
	slowly.event()
	keptAlive := c.get("/healthz") // a connection that is open when the listener closes
	ended := make(chan error, 1)
	started := time.Now()
	go func() { ended <- c.stop() }()
	eventually(t, "it is shutting down", c.service.ending.Load)
	close(release)
	if diff := cmp.Diff(heldEvents[1:], quickly.rest()); diff != "" {
		t.Errorf("the command that could end (-want +got):\n%s", diff)
	}
	if got := slowly.rest(); len(got) != 1 || !strings.HasPrefix(got[0], "end error failed ") {
		t.Errorf("the command that was cancelled: got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took < time.Second || took > 10*time.Second {
		t.Errorf("it took %v, want the grace of 1 s and little more", took)
	}
	for id, want := range map[uuid.UUID]string{quick: "completed command_completed", slow: "failed command_failed"} {
		var got string
		err := c.db.QueryRow(t.Context(), `SELECT c.status || ' ' || string_agg(a.action, ',') FROM commands c JOIN audit_logs a USING (command_id)
			WHERE c.command_id = $1::uuid GROUP BY c.status`, id.String()).Scan(&got)
		if err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if keptAlive.status != http.StatusOK {
		t.Errorf("/healthz: got %d", keptAlive.status)
	}
}

func TestWhileItShutsDownNothingIsTaken(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	c.service.commands.close()
	c.service.ending.Store(true)
	if got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"ReadDTC"}`, uuid.NewString())); got.status != http.StatusServiceUnavailable ||
		!strings.Contains(got.body, "shutting_down") || got.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 503 with Retry-After", got.status, got.body)
	}
	if got := c.get("/readyz"); got.status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: got %d %s, want 503", got.status, got.body)
	}
}

// A follower of a command that runs elsewhere has nothing to wait for here.
func TestShutdownSendsTheFollowersOfOthersAway(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	id := uuid.New()
	c.exec(`INSERT INTO commands (command_id, vehicle_id, command_name, status) VALUES ($1::uuid, $1::uuid, 'ReadDTC', 'in_progress')`, id.String())
	f := c.follow(id)
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if got := f.rest(); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

// The connector does not stay without a way in.
func TestAListenerThatBreaksEndsTheConnector(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- newService(c.service.backends, c.service.set, c.service.log).serve(ctx, listener) }()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

// Browsers open connections ahead, and load balancers look whether they can.
func TestShutdownDoesNotWaitForConnectionsWithoutRequests(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	for range 3 {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(c.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(c.url + "/healthz") // which is accepted after them
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	started := time.Now()
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took >= lastEvents {
		t.Errorf("it took %v, want less than the %v that followers have", took, lastEvents)
	}
}

func TestRedisDown(t *testing.T) {
	t.Parallel()
	const nowhere = "redis://127.0.0.1:1/0"
	t.Run("does not stop diagnostics, and is counted", func(t *testing.T) {
		t.Parallel()
		c := start(t, func(s *settings) { s.redis, s.heartbeat, s.poll = nowhere, 20*time.Millisecond, 20*time.Millisecond },
			vehicletest.On("Read", vehicletest.Script{vehicletest.Answer("10", "11", "12", "13")}))
		id := c.submit("Read")
		if diff := cmp.Diff(heldEvents, c.follow(id).rest()); diff != "" {
			t.Errorf("the events (-want +got):\n%s", diff)
		}
		if got := c.show("/commands/" + id.String()); got.Status != vehicle.StatusCompleted || len(got.Chunks) != 4 {
			t.Errorf("got %+v", got)
		}
		if got := c.stat("redis_errors"); got != 1 {
			t.Errorf("got %d errors in /stats, want 1, of Begin", got)
		}
		if got := c.get("/readyz"); got.status != http.StatusOK || !strings.Contains(got.body, `"redis":"unreachable"`) {
			t.Errorf("/readyz: got %d %s, want 200 that says so", got.status, got.body)
		}
	})
	t.Run("refuses commands where Redis is required", func(t *testing.T) {
		t.Parallel()
		c := start(t, func(s *settings) { s.redis, s.redisRequired, s.recordTimeout = nowhere, true, 300*time.Millisecond })
		got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"ReadDTC"}`, uuid.NewString()))
		if got.status != http.StatusServiceUnavailable {
			t.Errorf("got %d %s, want 503", got.status, got.body)
		}
		if got := c.get("/readyz"); got.status != http.StatusServiceUnavailable {
			t.Errorf("/readyz: got %d %s, want 503", got.status, got.body)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
		if got := len(c.vehicles.Requests()); got > 0 {
			t.Errorf("got %d requests at the vehicle, want none", got)
		}
		var running int
		if err := c.db.QueryRow(t.Context(), `SELECT count(*) FROM commands WHERE status NOT IN ('failed')`).Scan(&running); err != nil || running != 0 {
			t.Errorf("got %d commands that are not recorded as failed, %v", running, err)
		}
	})
	t.Run("in the middle of a command fails it where Redis is required", func(t *testing.T) {
		t.Parallel()
		rd := ownRedis(t)
		release, answer := held()
		c := start(t, func(s *settings) { s.redis, s.redisRequired, s.heartbeat = rd.URL(), true, 20*time.Millisecond }, answer)
		id := c.submit("Read")
		f := c.follow(id)
		f.event()
		f.event()
		c.limitRedis("1")
		close(release)
		if got := f.rest(); len(got) == 0 || !strings.HasPrefix(got[len(got)-1], "end error failed ") {
			t.Errorf("got %q, want that the command failed", got)
		}
	})
	t.Run("that comes up again serves the next command", func(t *testing.T) {
		t.Parallel()
		rd, err := servers.StartRedis(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = rd.Close() })
		if err := rd.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := start(t, func(s *settings) { s.redis, s.heartbeat, s.poll = rd.URL(), 20*time.Millisecond, 20*time.Millisecond })
		c.ended(c.submit("ReadDTC"))
		lost := c.stat("redis_errors")
		if err := rd.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client has noticed", func() bool { return c.service.rdb.Ping(t.Context()).Err() == nil })
		c.ended(c.submit("ReadDTC"))
		if got := c.stat("redis_errors"); lost != 1 || got != lost {
			t.Errorf("got %d and then %d errors, want 1 and no more", lost, got)
		}
	})
}

// A process has crashed in the middle of a command; somebody follows the command.
func TestCommandsOfACrashedProcessAreEnded(t *testing.T) {
	t.Parallel()
	release, answer := held()
	defer close(release)
	c := start(t, func(s *settings) {
		s.recoverAfter, s.recoverEvery, s.heartbeat = time.Minute, 50*time.Millisecond, 20*time.Millisecond
	}, answer)
	ours := c.submit("Read")
	c.exec(`UPDATE commands SET submitted_at = now() - interval '1 day'`)
	crashed, other := uuid.New(), uuid.New()
	for id, age := range map[uuid.UUID]string{crashed: "1 hour", other: "1 second"} {
		c.exec(`INSERT INTO commands (command_id, vehicle_id, command_name, status, submitted_at)
			VALUES ($1::uuid, $1::uuid, 'ReadDTC', 'in_progress', now() - $2::text::interval)`, id.String(), age)
	}
	if got := c.follow(crashed).rest(); len(got) != 1 || !strings.HasPrefix(got[0], "end error failed interrupted") {
		t.Errorf("got %q, want the command's end", got)
	}
	eventually(t, "it is counted", func() bool { return c.stat("commands_recovered") == 1 })
	for name, id := range map[string]uuid.UUID{"running here": ours, "running elsewhere": other} {
		if got := c.show("/commands/" + id.String()).Status; got != vehicle.StatusInProgress {
			t.Errorf("the command %s: got status %s", name, got)
		}
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	want := `{"checks":{"postgres":"ok","redis":"ok","vehicle":"ok"},"ready":true}`
	if got := c.get("/readyz"); got.status != http.StatusOK || strings.TrimSpace(got.body) != want {
		t.Errorf("got %d %s, want %s", got.status, got.body, want)
	}
	if err := c.vehicles.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the vehicle service is missed", func() bool {
		got := c.get("/readyz")
		return got.status == http.StatusServiceUnavailable && strings.Contains(got.body, `"vehicle":"unreachable"`)
	})
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	ctx, signal := context.WithCancel(t.Context())
	defer signal()
	var log buffer
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-embedded"}, func(name string) string { return map[string]string{"LISTEN_ADDR": "127.0.0.1:0"}[name] }, &log)
	}()
	address := regexp.MustCompile(`url=(\S+)`)
	eventually(t, "it listens", func() bool { return address.MatchString(log.String()) || len(ended) > 0 })
	if !address.MatchString(log.String()) {
		t.Fatalf("got %v\n%s", <-ended, &log)
	}
	c := &connector{tb: t, url: address.FindStringSubmatch(log.String())[1]}
	if got := c.ended(c.submit("ReadDTC")); got.Status != vehicle.StatusCompleted || len(got.Chunks) != 3 {
		t.Errorf("got %+v", got)
	}
	if got := c.get("/"); !strings.Contains(got.body, "Cut the link") {
		t.Error("the page does not offer to cut the link")
	}
	long := c.submit(longCommand)
	cut := c.follow(long)
	cut.event()
	if got := c.do(http.MethodPost, "/link/cut", "", ""); got.status != http.StatusNoContent {
		t.Errorf("cutting the link: got %d %s, want 204", got.status, got.body)
	}
	if got, want := len(cut.rest())+1, len(snapshots())+1; got != want {
		t.Errorf("after a cut: got %d events, want %d", got, want)
	}
	if got := c.attempts(long); !strings.Contains(got, "\n2 from ") {
		t.Errorf("the attempts: got %q, want a second that resumes", got)
	}
	last := c.submit("ReadDTC")
	f := c.follow(last)
	signal()
	if err := <-ended; err != nil {
		t.Errorf("got error %v\n%s", err, &log)
	}
	if got := f.rest(); len(got) != 4 {
		t.Errorf("who followed at the end: got %q, want 4 events", got)
	}
}

func TestAVehicleServiceThatCannotBeUsedKeepsTheConnectorFromStarting(t *testing.T) {
	t.Parallel()
	broken := errors.New("no such certificate")
	_, err := open(targets{database: postgresURL, redis: redisURL, vehicle: func(...vehicle.Option) (*vehicle.Client, error) {
		return nil, broken
	}}, defaults(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestARedisThatHangsHasASecondUnlessItsURLSaysOtherwise(t *testing.T) {
	t.Parallel()
	rdb, err := openRedis("redis://127.0.0.1:1/0?read_timeout=7s")
	if err != nil {
		t.Fatal(err)
	}
	defer rdb.Close()
	got, want := rdb.Options(), []time.Duration{time.Second, 7 * time.Second, time.Second}
	if diff := cmp.Diff(want, []time.Duration{got.DialTimeout, got.ReadTimeout, got.WriteTimeout}); diff != "" {
		t.Errorf("to dial, to read, to write (-want +got):\n%s", diff)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DATABASE_URL": "postgres:", "REDIS_URL": "redis:", "LISTEN_ADDR": ":1"}
	args := []string{"-migrate", "-redis-required", "-max-running", "1", "-max-followers", "1", "-command-timeout", "2s", "-grace", "3s"}
	got, err := parse(args, func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.database, want.redis, want.listen, want.migrate, want.redisRequired = "postgres:", "redis:", ":1", true, true
	want.maxRunning, want.maxFollowers, want.commandTimeout, want.grace, want.recoverAfter = 1, 1, 2*time.Second, 3*time.Second, 62*time.Second
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DATABASE_URL": "postgres://u:secret@127.0.0.1/d", "REDIS_URL": "redis://:secret@127.0.0.1/0"}
	tests := map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"nothing is set":           {nil, map[string]string{}, "set DATABASE_URL and REDIS_URL"},
		"no database":              {nil, map[string]string{"REDIS_URL": env["REDIS_URL"]}, "set DATABASE_URL and REDIS_URL"},
		"no Redis":                 {nil, map[string]string{"DATABASE_URL": env["DATABASE_URL"]}, "set DATABASE_URL and REDIS_URL"},
		"an argument":              {[]string{"x"}, env, `unexpected argument "x"`},
		"no commands":              {[]string{"-max-running", "0"}, env, "-max-running"},
		"no followers":             {[]string{"-max-followers", "0"}, env, "-max-followers"},
		"no time":                  {[]string{"-command-timeout", "0s"}, env, "-command-timeout"},
		"more time than there is":  {[]string{"-command-timeout", "2562047h47m16s"}, map[string]string{}, "292 years"},
		"a flag that is none":      {[]string{"-x"}, env, flag.ErrHelp.Error()},
		"a database that is none":  {nil, map[string]string{"DATABASE_URL": "postgres://u:secret@h:x/d", "REDIS_URL": env["REDIS_URL"]}, "DATABASE_URL"},
		"a Redis that is none":     {nil, map[string]string{"DATABASE_URL": env["DATABASE_URL"], "REDIS_URL": "redis://:secret@h:x/0"}, "REDIS_URL"},
		"a Redis of another kind":  {nil, map[string]string{"DATABASE_URL": env["DATABASE_URL"], "REDIS_URL": "http://:secret@h/0"}, "REDIS_URL"},
		"an address that is none":  {nil, map[string]string{"DATABASE_URL": env["DATABASE_URL"], "REDIS_URL": env["REDIS_URL"], "LISTEN_ADDR": "nowhere"}, "nowhere"},
		"nothing to migrate there": {[]string{"-migrate"}, map[string]string{"DATABASE_URL": "postgres://u:secret@127.0.0.1:1/d", "REDIS_URL": env["REDIS_URL"]}, "-migrate"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var output buffer
			err := run(t.Context(), test.args, func(name string) string { return test.env[name] }, &output)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if strings.Contains(fmt.Sprint(err)+output.String(), "secret") {
				t.Errorf("the password is in %v, or in %s", err, &output)
			}
		})
	}
}
