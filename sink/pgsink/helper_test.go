package pgsink_test

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/pgsink"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(workerURL); url != "" {
		os.Exit(work(url))
	}
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// shared is the server of the tests that do not stop it.
var shared sharedServer

type sharedServer struct {
	once    sync.Once
	url     string
	own     *servers.Postgres
	err     error
	example string // a schema
}

func (s *sharedServer) start() (string, error) {
	s.once.Do(func() {
		if s.url = os.Getenv("VEHICLE_TEST_DATABASE_URL"); s.url != "" {
			return
		}
		if s.own, s.err = servers.StartPostgres(context.Background(), "max_connections=300"); s.err == nil {
			s.url = s.own.URL()
		}
	})
	return s.url, s.err
}

func (s *sharedServer) close() (err error) {
	if s.example != "" {
		err = onServer(context.Background(), s.url, "DROP SCHEMA "+s.example+" CASCADE")
	}
	if s.own == nil {
		return err
	}
	return errors.Join(err, s.own.Close())
}

// exampleURL has a schema of its own for the examples, which have no TB.
func exampleURL() string {
	server, err := shared.start()
	if err != nil {
		panic(err)
	}
	schema := "example_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := onServer(context.Background(), server, "CREATE SCHEMA "+schema); err != nil {
		panic(err)
	}
	shared.example = schema
	u, err := url.Parse(server)
	if err != nil {
		panic(err)
	}
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

func databaseURL(tb testing.TB) string {
	tb.Helper()
	url, err := shared.start()
	if err != nil {
		tb.Fatal(err)
	}
	return url
}

// privateServer is for tests that stop and crash it.
func privateServer(tb testing.TB) *servers.Postgres {
	tb.Helper()
	pg, err := servers.StartPostgres(tb.Context(), "max_connections=300")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := pg.Close(); err != nil {
			tb.Error(err)
		}
	})
	return pg
}

// bouncerURL is a private PgBouncer in front of the tests' server, with so many connections to it.
func bouncerURL(tb testing.TB, conns int) string {
	tb.Helper()
	bouncer, err := servers.StartPgBouncer(tb.Context(), databaseURL(tb), conns)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := bouncer.Close(); err != nil {
			tb.Error(err)
		}
	})
	return bouncer.URL()
}

// database is a schema of its own for one test.
type database struct {
	tb     testing.TB
	url    string
	schema string
	pool   *pgxpool.Pool // the test's own
	app    bool          // it is the web application's schema
}

// newDatabase has the tables that Migrate creates.
func newDatabase(tb testing.TB, url string) *database {
	tb.Helper()
	db := openDatabase(tb, url)
	if err := pgsink.Migrate(tb.Context(), db.pool, pgsink.WithSchema(db.schema)); err != nil {
		tb.Fatal(err)
	}
	return db
}

//go:embed testdata/app.sql
var appSQL string

// newAppDatabase has the web application's tables.
func newAppDatabase(tb testing.TB, url string) *database {
	tb.Helper()
	db := openDatabase(tb, url)
	db.app = true
	name := pgx.Identifier{db.schema}.Sanitize()
	db.exec("CREATE SCHEMA " + name + ";" + strings.ReplaceAll(appSQL, "{schema}", name))
	return db
}

func openDatabase(tb testing.TB, url string) *database {
	tb.Helper()
	db := &database{tb: tb, url: url, schema: `test "` + uuid.NewString() + `"`}
	db.pool = db.newPool(nil)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		if _, err := db.pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{db.schema}.Sanitize()+" CASCADE"); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// newPool opens a pool that is closed with the test.
func (db *database) newPool(configure func(*pgxpool.Config)) *pgxpool.Pool {
	db.tb.Helper()
	config, err := pgxpool.ParseConfig(db.url)
	if err != nil {
		db.tb.Fatal(err)
	}
	config.MaxConns = 16
	if configure != nil {
		configure(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		db.tb.Fatal(err)
	}
	db.tb.Cleanup(pool.Close)
	return pool
}

// newSink makes a sink that is closed with the test.
func (db *database) newSink(opts ...pgsink.Option) *pgsink.Sink {
	db.tb.Helper()
	return db.newSinkOn(db.newPool(nil), opts...)
}

func (db *database) newSinkOn(pool *pgxpool.Pool, opts ...pgsink.Option) *pgsink.Sink {
	db.tb.Helper()
	s := pgsink.New(pool, append([]pgsink.Option{pgsink.WithSchema(db.schema)}, opts...)...)
	db.tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			db.tb.Error(err)
		}
	})
	return s
}

// table is a table's quoted name.
func (db *database) table(name string) string { return pgx.Identifier{db.schema, name}.Sanitize() }

// exec runs statements in which {table} stands for a table's quoted name.
func (db *database) exec(sql string, args ...any) {
	db.tb.Helper()
	if len(args) == 0 {
		args = append(args, pgx.QueryExecModeSimpleProtocol)
	}
	if _, err := db.pool.Exec(context.Background(), db.sql(sql), args...); err != nil {
		db.tb.Fatal(err)
	}
}

func (db *database) sql(sql string) string {
	for _, name := range []string{"users", "vehicles", "commands", "responses", "audit_logs"} {
		sql = strings.ReplaceAll(sql, "{"+name+"}", db.table(name))
	}
	return sql
}

// query reads one value.
func query[T any](db *database, sql string, args ...any) T {
	db.tb.Helper()
	var v T
	if err := db.pool.QueryRow(context.Background(), db.sql(sql), args...).Scan(&v); err != nil {
		db.tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

// admit makes the command's vehicle and user known to the application.
func (db *database) admit(ctx context.Context, cmd vehicle.Command) error {
	if !db.app {
		return nil
	}
	_, err := db.pool.Exec(ctx, db.sql(`WITH u AS (
			INSERT INTO {users} VALUES ($1::uuid, $1::text, $1::text, 'x', 'engineer') ON CONFLICT DO NOTHING)
		INSERT INTO {vehicles} VALUES ($2::uuid, right($2::text, 17), 'make', 'model', 2025, 'connected') ON CONFLICT DO NOTHING`),
		cmd.UserID.String(), cmd.VehicleID.String())
	return err
}

// submit does what the application does before a command runs: it inserts the row, as pending.
func (db *database) submit(cmd vehicle.Command) {
	db.tb.Helper()
	if err := db.admit(context.Background(), cmd); err != nil {
		db.tb.Fatal(err)
	}
	db.exec(`INSERT INTO {commands} (command_id, user_id, vehicle_id, command_name, command_params)
		VALUES ($1::uuid, $2::uuid, $3::uuid, $4, '{"from": "the application"}')`,
		cmd.ID.String(), cmd.UserID.String(), cmd.VehicleID.String(), cmd.Name)
}

// stored is what the tables hold of a command.
type stored struct {
	Status       string
	ErrorMessage string
	Completed    bool
	Chunks       []string // payloads, in order
	Audit        []string // actions, in order
}

func (db *database) stored(id uuid.UUID) stored {
	db.tb.Helper()
	ctx := context.Background()
	var s stored
	err := db.pool.QueryRow(ctx, db.sql(`SELECT coalesce(max(status), ''), coalesce(max(CASE error_message WHEN '' THEN 'not NULL' ELSE error_message END), ''), coalesce(bool_or(completed_at IS NOT NULL), false)
		FROM {commands} WHERE command_id = $1::uuid`), id.String()).Scan(&s.Status, &s.ErrorMessage, &s.Completed)
	if err != nil {
		db.tb.Fatal(err)
	}
	s.Chunks = db.texts(`SELECT response_payload::text FROM {responses} WHERE command_id = $1::uuid ORDER BY sequence_number, response_id`, id.String())
	s.Audit = db.texts(`SELECT action FROM {audit_logs} WHERE command_id = $1::uuid ORDER BY "timestamp", action`, id.String())
	return s
}

func (db *database) texts(sql string, args ...any) []string {
	db.tb.Helper()
	rows, err := db.pool.Query(context.Background(), db.sql(sql), args...)
	if err != nil {
		db.tb.Fatal(err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		db.tb.Fatal(err)
	}
	return texts
}

func newCommand() vehicle.Command {
	return vehicle.Command{
		ID: uuid.New(), VehicleID: uuid.New(), UserID: uuid.New(),
		Name: "ReadDTC", Params: map[string]any{"ecu": "0x7E0"},
	}
}

// admitted is a command whose vehicle and user are known.
func (db *database) admitted() vehicle.Command {
	db.tb.Helper()
	cmd := newCommand()
	if err := db.admit(context.Background(), cmd); err != nil {
		db.tb.Fatal(err)
	}
	return cmd
}

// chunksOf are chunks from first on; the last is final.
func chunksOf(cmd vehicle.Command, first int32, payloads ...string) []vehicle.Chunk {
	chunks := make([]vehicle.Chunk, len(payloads))
	for i, payload := range payloads {
		chunks[i] = vehicle.Chunk{
			CommandID: cmd.ID, VehicleID: cmd.VehicleID, Seq: first + int32(i), Payload: json.RawMessage(payload),
			Final: i == len(payloads)-1, ReceivedAt: time.Now(),
		}
	}
	return chunks
}

func completed(cmd vehicle.Command, chunks int) vehicle.Result {
	return vehicle.Result{Command: cmd, Status: vehicle.StatusCompleted, Chunks: chunks, FinishedAt: time.Now()}
}

func failed(cmd vehicle.Command, err error) vehicle.Result {
	return vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: err, FinishedAt: time.Now()}
}

// execute takes a command through the sink, one Write for each of the batches.
func execute(ctx context.Context, s vehicle.Sink, cmd vehicle.Command, batches ...[]vehicle.Chunk) error {
	if err := s.Begin(ctx, cmd); err != nil {
		return fmt.Errorf("Begin: %w", err)
	}
	n := 0
	for _, batch := range batches {
		if err := s.Write(ctx, batch); err != nil {
			return fmt.Errorf("Write: %w", err)
		}
		n += len(batch)
	}
	if err := s.End(ctx, completed(cmd, n)); err != nil {
		return fmt.Errorf("End: %w", err)
	}
	return nil
}

// onServer runs a statement on a connection of its own.
func onServer(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}
