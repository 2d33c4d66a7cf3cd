package servers

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestPgBouncerPassesTransactionsOn(t *testing.T) {
	t.Parallel()
	pg, err := StartPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	bouncer, err := StartPgBouncer(t.Context(), pg.URL(), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bouncer.Close(); err != nil {
			t.Error(err)
		}
	})
	config, err := pgx.ParseConfig(bouncer.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	if err := conn.QueryRow(t.Context(), "select 40 + $1::int4", 2).Scan(&n); err != nil || n != 42 {
		t.Errorf("got %d, %v, want 42", n, err)
	}
}
