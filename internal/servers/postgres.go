package servers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server, as durable as one in production: fsync and
// synchronous_commit are on. PostgreSQL refuses to run as root; for root it runs as the user postgres
// that its packages create. A Postgres is not for concurrent use; its server is.
type Postgres struct {
	bin      string // the folder of initdb and postgres
	dir      string
	account  string
	port     int
	password string
	settings []string
	process  *process // nil while it is stopped
}

const postgresAccount = "postgres"

// StartPostgres starts a server with an empty database and waits until it takes connections. Settings
// are those of postgresql.conf, as in "max_connections=200". ctx bounds the start alone: the server
// runs until Close.
func StartPostgres(ctx context.Context, settings ...string) (*Postgres, error) {
	initdb, err := findProgram("initdb",
		"/usr/lib/postgresql/*/bin",         // Debian
		"/usr/pgsql-*/bin",                  // Red Hat
		"/opt/homebrew/opt/postgresql*/bin", // macOS
		"/usr/local/opt/postgresql*/bin",
	)
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("postgres", postgresAccount)
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: filepath.Dir(initdb), dir: dir, account: postgresAccount, password: rand.Text(), settings: settings}
	if err := p.create(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for range 5 { // others look for free ports too
		if p.port, err = freePort(); err != nil {
			break
		}
		if err = p.Start(ctx); err == nil {
			return p, nil
		}
	}
	return nil, errors.Join(err, p.Close())
}

// create makes the data folder.
func (p *Postgres) create(ctx context.Context) error {
	passwords := filepath.Join(p.dir, "password")
	if err := os.WriteFile(passwords, []byte(p.password), 0o600); err != nil {
		return err
	}
	if err := giveTo(passwords, p.account); err != nil {
		return err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), //nolint:gosec // G204: our own program
		"--pgdata="+p.data(), "--username=postgres", "--pwfile="+passwords, "--auth=scram-sha-256",
		"--encoding=UTF8", "--no-locale", "--no-sync")
	initdb.Dir = p.dir
	if err := detach(initdb, p.account); err != nil {
		return err
	}
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return os.Remove(passwords)
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// URL is where the server's database is, for pgx and libpq. It stays the same over restarts.
func (p *Postgres) URL() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", p.password),
		Host: "127.0.0.1:" + strconv.Itoa(p.port), Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Start starts a stopped server, on the port that it had, and waits until it takes connections.
func (p *Postgres) Start(ctx context.Context) error {
	if p.process != nil {
		return errors.New("postgres runs already")
	}
	args := []string{"-D", p.data(), "-p", strconv.Itoa(p.port)}
	for _, setting := range append([]string{"listen_addresses=127.0.0.1", "unix_socket_directories="}, p.settings...) {
		args = append(args, "-c", setting)
	}
	process, err := startProcess(filepath.Join(p.bin, "postgres"), p.dir, p.account, args...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := process.waitReady(ctx, p.probe); err != nil {
		return errors.Join(err, process.stop(context.WithoutCancel(ctx), os.Kill))
	}
	p.process = process
	return nil
}

const startTime = time.Minute

func (p *Postgres) probe(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Stop stops the server as pg_ctl stop -m fast does: open transactions are rolled back, connections cut.
func (p *Postgres) Stop(ctx context.Context) error { return p.stop(ctx, syscall.SIGINT) }

// Crash stops the server as pg_ctl stop -m immediate does: nothing is written any more, and the next
// Start recovers from the write-ahead log.
func (p *Postgres) Crash(ctx context.Context) error { return p.stop(ctx, syscall.SIGQUIT) }

func (p *Postgres) stop(ctx context.Context, sig os.Signal) error {
	if p.process == nil {
		return nil
	}
	err := p.process.stop(ctx, sig)
	p.process = nil
	return err
}

// Close stops the server and removes its data.
func (p *Postgres) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	return errors.Join(p.stop(ctx, syscall.SIGQUIT), os.RemoveAll(p.dir))
}
