package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/vehicletest"
)

// The servers of all tests. A test has a database of its own; in Redis its commands' ids keep it apart.
var (
	postgresURL = os.Getenv("VEHICLE_TEST_DATABASE_URL")
	redisURL    = os.Getenv("VEHICLE_TEST_REDIS_URL")
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) (code int) {
	time.Local = time.FixedZone("somewhere", 2*60*60) // what is answered is UTC all the same
	redis.SetLogger(silence{})                        // it prints what it cannot dial, which is what some tests are about
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if postgresURL == "" {
		pg, err := servers.StartPostgres(context.Background(), "max_connections=300")
		if err != nil {
			fail(err)
			return code
		}
		defer func() { fail(pg.Close()) }()
		postgresURL = pg.URL()
	}
	if redisURL == "" {
		rd, err := servers.StartRedis(context.Background())
		if err != nil {
			fail(err)
			return code
		}
		defer func() { fail(rd.Close()) }()
		redisURL = rd.URL()
	}
	idle := goleak.IgnoreCurrent() // what waits for the servers' processes
	if code = m.Run(); code == 0 {
		http.DefaultClient.CloseIdleConnections()
		// A pool of go-redis that could not dial looks once a second whether it can, or has been closed.
		fail(goleak.Find(idle, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial")))
	}
	return code
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// connector is the program as a test has it, over real connections.
type connector struct {
	tb       testing.TB
	url      string
	vehicles *vehicletest.Server
	db       *pgxpool.Pool // the test's own
	database string        // its URL
	service  *service
	log      *buffer
	stop     func() error // ends it as a signal does; may be called twice
}

// start runs a connector until the test ends, with what edit changes.
func start(tb testing.TB, edit func(*settings), vehicles ...vehicletest.Option) *connector {
	tb.Helper()
	c := &connector{tb: tb, database: newDatabase(tb), log: new(buffer)}
	c.vehicles = vehicletest.NewServer(tb, append(vehicles, vehicletest.WithTCP())...)
	set := defaults()
	set.database, set.redis, set.recoverAfter, set.grace = c.database, redisURL, time.Hour, 100*time.Millisecond
	set.migrate = true
	if edit != nil {
		edit(&set)
	}
	c.db = newPool(tb, c.database)
	c.run(set)
	return c
}

// run is the program's, but for the environment.
func (c *connector) run(set settings) {
	c.tb.Helper()
	log := slog.New(slog.NewTextHandler(c.log, nil))
	t := targets{database: set.database, redis: set.redis, vehicle: c.client}
	if set.embedded {
		t.cut = c.vehicles.CutConnections
	}
	b, err := open(t, set, log)
	if err != nil {
		c.tb.Fatal(err)
	}
	if set.migrate {
		if err := b.migrate(c.tb.Context()); err != nil {
			c.tb.Fatal(err)
		}
	}
	listener, err := new(net.ListenConfig).Listen(c.tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		c.tb.Fatal(err)
	}
	c.url = "http://" + listener.Addr().String()
	c.service = newService(b, set, log)
	ctx, signal := context.WithCancel(context.WithoutCancel(c.tb.Context()))
	ended := make(chan error, 1)
	go func() {
		err := c.service.serve(ctx, listener)
		if closing := b.close(); err == nil {
			err = closing
		}
		ended <- err
	}()
	c.stop = sync.OnceValue(func() error {
		signal()
		return <-ended
	})
	c.tb.Cleanup(func() {
		if err := c.stop(); err != nil {
			c.tb.Errorf("ending the connector: %v", err)
		}
		if c.tb.Failed() {
			c.tb.Logf("the connector's log:\n%s", c.log)
		}
	})
}

// client retries as the default does, and sooner.
func (c *connector) client(opts ...vehicle.Option) (*vehicle.Client, error) {
	opts = append(opts, vehicle.WithRetry(vehicle.RetryPolicy{BaseDelay: 10 * time.Millisecond}))
	return vehicle.New(c.vehicles.Target(), append(c.vehicles.Options(), opts...)...)
}

func newDatabase(tb testing.TB) string {
	tb.Helper()
	name := "connector_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	ctx := context.WithoutCancel(tb.Context()) // for the cleanup too
	admin := func(sql string) {
		conn, err := pgx.Connect(ctx, postgresURL)
		if err != nil {
			tb.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, sql); err != nil {
			tb.Error(err)
		}
	}
	admin("CREATE DATABASE " + name)
	tb.Cleanup(func() { admin("DROP DATABASE " + name + " WITH (FORCE)") })
	u, err := url.Parse(postgresURL)
	if err != nil {
		tb.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func newPool(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	pool, err := pgxpool.New(tb.Context(), url) // which bounds the call alone
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

func (c *connector) exec(sql string, args ...any) {
	c.tb.Helper()
	if _, err := c.db.Exec(context.Background(), sql, args...); err != nil {
		c.tb.Fatal(err)
	}
}

// reply is an answer of the connector's.
type reply struct {
	status int
	header http.Header
	body   string
}

func (c *connector) do(method, path, contentType, body string, header ...string) reply {
	c.tb.Helper()
	res := c.open(method, path, contentType, body, header...)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.tb.Fatal(err)
	}
	if h := res.Header; strings.HasPrefix(string(text), "{") &&
		(h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff") {
		c.tb.Errorf("%s %s: got %v, want JSON that nobody keeps or takes for something else", method, path, h)
	}
	return reply{status: res.StatusCode, header: res.Header, body: string(text)}
}

func (c *connector) open(method, path, contentType, body string, header ...string) *http.Response {
	c.tb.Helper()
	req, err := http.NewRequestWithContext(c.tb.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.tb.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.tb.Fatal(err)
	}
	return res
}

func (c *connector) get(path string) reply {
	c.tb.Helper()
	return c.do(http.MethodGet, path, "", "")
}

func (c *connector) post(body string) reply {
	c.tb.Helper()
	return c.do(http.MethodPost, "/commands", "application/json", body)
}

// submit posts a command that must be taken, and gives its id.
func (c *connector) submit(name string) uuid.UUID {
	c.tb.Helper()
	return c.accepted(c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":%q}`, uuid.NewString(), name)))
}

func (c *connector) accepted(r reply) uuid.UUID {
	c.tb.Helper()
	var body struct {
		ID uuid.UUID `json:"command_id"`
	}
	if err := json.Unmarshal([]byte(r.body), &body); err != nil || r.status != http.StatusAccepted {
		c.tb.Fatalf("got %d %s, want 202", r.status, r.body)
	}
	if got, want := r.header.Get("Location"), "/commands/"+body.ID.String(); got != want {
		c.tb.Errorf("Location: got %q, want %q", got, want)
	}
	return body.ID
}

// shown is what GET /commands/{id} shows.
type shown struct {
	record
	Chunks   []storedChunk `json:"chunks"`
	NextFrom *int32        `json:"next_from"`
}

func (c *connector) show(path string) shown {
	c.tb.Helper()
	r := c.get(path)
	var s shown
	if err := json.Unmarshal([]byte(r.body), &s); err != nil || r.status != http.StatusOK {
		c.tb.Fatalf("%s: got %d %.200s, %v", path, r.status, r.body, err)
	}
	return s
}

// ended waits for a command to end and shows it.
func (c *connector) ended(id uuid.UUID) shown {
	c.tb.Helper()
	c.follow(id).rest()
	return c.show("/commands/" + id.String())
}

func (c *connector) stat(name string) int64 {
	c.tb.Helper()
	var all map[string]int64
	if err := json.Unmarshal([]byte(c.get("/stats").body), &all); err != nil {
		c.tb.Fatal(err)
	}
	return all[name]
}

// following is a client of GET /commands/{id}/events.
type following struct {
	tb    testing.TB
	lines *bufio.Scanner
	close func() error
}

func (c *connector) follow(id uuid.UUID, header ...string) *following {
	c.tb.Helper()
	res := c.open(http.MethodGet, "/commands/"+id.String()+"/events", "", "", header...)
	if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != "text/event-stream" || res.Header.Get("X-Accel-Buffering") != "no" {
		c.tb.Fatalf("got %s and %v, want a stream of events that nginx does not hold back", res.Status, res.Header)
	}
	c.tb.Cleanup(func() { _ = res.Body.Close() })
	return &following{tb: c.tb, lines: bufio.NewScanner(res.Body), close: res.Body.Close}
}

// next gives the next field or comment; "" at the end.
func (f *following) next() string {
	f.tb.Helper()
	for f.lines.Scan() {
		if line := f.lines.Text(); line != "" {
			return line
		}
	}
	if err := f.lines.Err(); err != nil {
		f.tb.Errorf("reading events: %v", err)
	}
	return ""
}

// nextIn gives the next of those lines that begin so.
func (f *following) nextIn(prefix string) string {
	f.tb.Helper()
	for {
		line := f.next()
		if text, ok := strings.CutPrefix(line, prefix); ok || line == "" {
			return text
		}
	}
}

// event is an event in short: its id, and its payload, or its status and error.
func (f *following) event() string {
	f.tb.Helper()
	id := f.nextIn("id: ")
	if id == "" {
		return ""
	}
	var e struct {
		Event   string          `json:"event"`
		Payload json.RawMessage `json:"response_payload"`
		Status  string          `json:"status"`
		Error   string          `json:"error_message"`
	}
	if err := json.Unmarshal([]byte(f.nextIn("data: ")), &e); err != nil {
		f.tb.Fatal(err)
	}
	if e.Event == "response" {
		return id + " " + string(e.Payload)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", id, e.Event, e.Status, e.Error))
}

// rest gives the events until the end.
func (f *following) rest() []string {
	f.tb.Helper()
	var events []string
	for e := f.event(); e != ""; e = f.event() {
		events = append(events, e)
	}
	return events
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually waits for what only polling can tell.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(limit) {
			tb.Fatalf("it has not come about that %s", what)
		}
		<-tick.C
	}
}
