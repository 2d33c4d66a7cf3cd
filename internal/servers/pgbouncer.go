package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a private PgBouncer in transaction mode in front of a PostgreSQL server: each transaction
// may run on another of its few connections to it.
type PgBouncer struct {
	dir     string
	url     url.URL
	process *process
}

// StartPgBouncer starts one in front of the server at databaseURL, with so many connections to it.
func StartPgBouncer(ctx context.Context, databaseURL string, conns int) (*PgBouncer, error) {
	path, err := findProgram("pgbouncer", "/usr/sbin", "/opt/homebrew/bin", "/usr/local/bin")
	if err != nil {
		return nil, err
	}
	server, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("pgbouncer", postgresAccount)
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{dir: dir, url: url.URL{
		Scheme: "postgres", User: url.UserPassword(server.User, server.Password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + server.Database, RawQuery: "sslmode=disable",
	}}
	if err := b.start(ctx, path, port, server, conns); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *PgBouncer) start(ctx context.Context, path string, port int, server *pgx.ConnConfig, conns int) error {
	ini, err := b.write("pgbouncer.ini", fmt.Sprintf(`[databases]
* = host=%s port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = plain
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_client_conn = 100
`, server.Host, server.Port, port, filepath.Join(b.dir, "users.txt"), conns))
	if err != nil {
		return err
	}
	if _, err := b.write("users.txt", fmt.Sprintf("%q %q\n", server.User, server.Password)); err != nil {
		return err
	}
	if b.process, err = startProcess(path, b.dir, postgresAccount, ini); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return b.process.waitReady(ctx, func(ctx context.Context) error {
		config, err := pgx.ParseConfig(b.URL())
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

func (b *PgBouncer) write(name, text string) (string, error) {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", err
	}
	return path, giveTo(path, postgresAccount)
}

// URL is where the server is reached through PgBouncer.
func (b *PgBouncer) URL() string { return b.url.String() }

// Close stops it.
func (b *PgBouncer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	var err error
	if b.process != nil {
		err = b.process.stop(ctx, syscall.SIGTERM)
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}
