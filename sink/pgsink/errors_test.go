package pgsink

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/sovd-go/vehicle/internal/within"
)

// What is retried, together or alone, and what is an error at once.
func TestWhatBecomesOfATransactionThatFailed(t *testing.T) {
	t.Parallel()
	const dead, alive = false, true
	server := func(code string) error { return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code}) }
	function := func(code string) error {
		return &pgconn.PgError{Code: code, Where: "PL/pgSQL function refuse() line 1 at RAISE"}
	}
	for _, test := range []struct {
		name  string
		err   error
		alive bool
		want  verdict
	}{
		{"the connection broke", io.ErrUnexpectedEOF, dead, down},
		{"pgx refused an argument", errors.New("cannot encode"), alive, blame},
		{"the pool is closed", fmt.Errorf("wrapped: %w", puddle.ErrClosedPool), dead, hopeless},
		{"the sink is closed", ErrClosed, dead, hopeless},
		{"a tracer panicked", &within.PanicError{}, dead, hopeless},
		{"the connection has another encoding", &dbError{cause: errEncoding}, dead, hopeless},
		{"a row could be neither inserted nor updated", errRaced, alive, stuck},

		{"a value is refused", server("22P02"), alive, blame},
		{"a constraint is violated", server("23514"), alive, blame},
		{"a privilege is missing", server("42501"), alive, blame},
		{"a row is locked", server("55P03"), alive, stuck},
		{"a statement took too long", server("57014"), alive, stuck},
		{"transactions conflict", server("40001"), alive, contended},
		{"transactions deadlock", server("40P01"), alive, contended},
		{"the server is a standby", server("25006"), alive, hopeless},
		{"a table is missing", server("42P01"), alive, hopeless},
		{"the disk is full", server("53100"), alive, hopeless},
		{"the password is wrong", server("28P01"), dead, hopeless},
		{"the database is missing", server("3D000"), dead, hopeless},
		{"the schema is missing", server("3F000"), alive, hopeless},
		{"the server stops", server("57P01"), dead, down},
		{"the server crashed", server("57P02"), dead, down},
		{"the server starts", server("57P03"), dead, down},
		{"the session was idle for too long", server("57P05"), dead, down},
		{"a pooler lost its server", server("08006"), dead, down},
		{"there is no memory", server("53200"), alive, down},
		{"there are too many connections", server("53300"), dead, down},
		{"the database is being copied", server("55006"), dead, down},

		{"a function refuses a row", function("P0001"), alive, blame},
		{"a function waited for a row", function("55P03"), alive, stuck},
		{"a function conflicts with another transaction", function("40001"), alive, stuck},
		{"a function lost another server", function("08006"), alive, stuck},
		{"a function misses a table", function("42P01"), alive, blame},
		{"a function in SQL misses one, in German", &pgconn.PgError{Code: "42P01", InternalQuery: "SELECT 1 FROM banned"}, alive, blame},
		{"the server stops while a function runs", function("57P01"), dead, down},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := judge(test.err, test.alive); got != test.want {
				t.Errorf("got verdict %d, want %d", got, test.want)
			}
		})
	}
}

// What says that the server was not reached is told as it is; any other text of the driver's may quote an argument.
func TestTextsOfErrorsOfTheDriver(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"the connection was closed amid an operation", fmt.Errorf("failed: %w", pgconn.ErrConnClosed), "failed: conn closed"},
		{"the connection broke", fmt.Errorf("failed: %w", io.ErrUnexpectedEOF), "failed: unexpected EOF"},
		{"an argument does not fit", errors.New("cannot encode secret"), "unexpected error of type *errors.errorString"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got, want := newDBError(test.err).Error(), "pgsink: "+test.want; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
