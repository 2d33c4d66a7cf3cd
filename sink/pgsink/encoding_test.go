package pgsink_test

import (
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A server whose encoding lacks a character refuses its escape, which the check does not foresee.
func TestAPayloadThatTheServerRefusesUnexpectedlyIsWrapped(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			db := newEncodedDatabase(t, encoding, "UTF8")
			s := db.newSinkOn(db.newPool(func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["log_parameter_max_length_on_error"] = "-1" }))
			for _, payloads := range [][]string{
				{`"\u00e9"`, `"\u20ac"`, `"\u0000"`},                               // the last is wrapped in any case
				{"[\"PL/I\",\n\"PL/I \\u20ac\"]"}, {`["SQL function ", "\u20ac"]`}, // the server quotes it where it names the functions it was in
			} {
				cmd := newCommand()
				if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, payloads...)); err != nil {
					t.Errorf("%s: %v", payloads, err)
				}
				var want []string
				for _, payload := range payloads {
					want = append(want, `{"$json": `+strconv.Quote(payload)+`}`)
				}
				if diff := cmp.Diff(want, db.stored(cmd.ID).Chunks); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// Wrapped or not, a character is one that the server's encoding lacks.
func TestAPayloadThatTheServerCannotHoldIsAnError(t *testing.T) {
	t.Parallel()
	db := newEncodedDatabase(t, "LATIN1", "UTF8")
	cmd := newCommand()
	if err := execute(t.Context(), db.newSink(), cmd, chunksOf(cmd, 0, `"€"`)); err == nil || !strings.Contains(err.Error(), "22P05") {
		t.Errorf("got %v, want 22P05", err)
	}
}

// newEncodedDatabase is a database of its own, whose connections have this client_encoding, or say nothing of it.
func newEncodedDatabase(t *testing.T, encoding, client string) *database {
	t.Helper()
	admin := openDatabase(t, databaseURL(t))
	name := pgx.Identifier{"encoded " + uuid.NewString()}.Sanitize()
	admin.exec(`CREATE DATABASE ` + name + ` TEMPLATE template0 ENCODING ` + encoding + ` LC_COLLATE 'C' LC_CTYPE 'C'`)
	t.Cleanup(func() { admin.exec(`DROP DATABASE ` + name + ` WITH (FORCE)`) })
	u, err := url.Parse(admin.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + strings.Trim(name, `"`)
	if client != "" {
		q := u.Query()
		q.Set("client_encoding", client)
		u.RawQuery = q.Encode()
	}
	return newDatabase(t, u.String())
}

// A server takes what it is sent to be in its own encoding, unless the client names another. It would store é as two characters, and
// History would give back a byte that is not UTF-8.
func TestAConnectionWithAnotherEncodingIsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, server, client, want string }{
		{"the server's own", "LATIN1", "", "LATIN1"},
		{"one that was asked for", "UTF8", "WIN1252", "WIN1252"},
		{"of bytes as they are", "SQL_ASCII", "", ""},
		{"of bytes as they are, which the server takes for UTF-8", "UTF8", "SQL_ASCII", ""},
		{"of bytes as they are, which the server takes for another", "LATIN1", "SQL_ASCII", "SQL_ASCII"},
		{"UTF-8 to a server of another", "LATIN1", "UTF8", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newEncodedDatabase(t, test.server, test.client)
			s := db.newSink()
			cmd := newCommand()
			err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, `"é"`))
			var got []string
			var read error
			for c, err := range s.History(t.Context(), cmd.ID) {
				read = err
				got = append(got, string(c.Payload))
			}
			if test.want == "" {
				if err != nil || read != nil || !cmp.Equal(got, []string{`"é"`}) {
					t.Errorf("got %v, and History %q, %v, want \"é\" stored", err, got, read)
				}
				return
			}
			for call, err := range map[string]error{"Begin": err, "History": read} {
				if err == nil || !strings.Contains(err.Error(), "client_encoding is "+test.want) {
					t.Errorf("%s: got %v, want an error that says that client_encoding is %s", call, err, test.want)
				}
			}
		})
	}
}

// PgBouncer says client_encoding as it was asked for, and PostgreSQL has more than one name for UTF-8.
func TestUTF8IsKnownByEachOfItsNames(t *testing.T) {
	t.Parallel()
	bouncer := bouncerURL(t, 2)
	for _, name := range []string{"UTF8", "utf-8", "Unicode"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			db.url = bouncer
			pool := db.newPool(func(c *pgxpool.Config) {
				c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
				c.ConnConfig.RuntimeParams["client_encoding"] = name
			})
			cmd := newCommand()
			if err := execute(t.Context(), db.newSinkOn(pool), cmd, chunksOf(cmd, 0, `"é"`)); err != nil {
				t.Errorf("got %v, want it stored", err)
			}
		})
	}
}
