package servers

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestPostgresKeepsItsDataOverCrashesAndStops(t *testing.T) {
	t.Parallel()
	pg, err := StartPostgres(t.Context(), "max_connections=20")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	exec := func(sql string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), pg.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("create table kept (n int)")
	if err := pg.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec("insert into kept values (1)")
	if err := pg.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conn, err := pgx.Connect(t.Context(), pg.URL()); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a stopped server takes connections")
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	var fsync, connections string
	if err := conn.QueryRow(t.Context(), "select n, current_setting('fsync'), current_setting('max_connections') from kept").Scan(&n, &fsync, &connections); err != nil {
		t.Fatal(err)
	}
	if n != 1 || fsync != "on" || connections != "20" {
		t.Errorf("got n=%d fsync=%s max_connections=%s, want 1, on, 20", n, fsync, connections)
	}
}
