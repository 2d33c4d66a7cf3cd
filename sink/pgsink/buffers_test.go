package pgsink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle/sink/pgsink"
)

// What pgx encodes a transaction in is there for the next one on the connection, whatever the application does with it in between.
func TestAConnectionKeepsWhatItEncodesIn(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, databaseURL(t))
			pool := db.newPool(func(c *pgxpool.Config) {
				withMode(mode)(c)
				c.MaxConns = 1
			})
			s := db.newSinkOn(pool)
			store := func(payloads ...string) {
				t.Helper()
				cmd := db.admitted()
				if err := execute(t.Context(), s, cmd, chunksOf(cmd, 0, payloads...)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(payloads, db.stored(cmd.ID).Chunks); diff != "" {
					t.Errorf("what is stored (-want +got):\n%s", diff)
				}
			}

			store(answer("first", 200)...)
			first := keptBy(t, pool)
			if mode != pgx.QueryExecModeExec && mode != pgx.QueryExecModeSimpleProtocol { // those have others
				for name, memory := range first {
					if !bytes.Contains(memory, []byte("first 299 xxx")) {
						t.Errorf("%s of the first transaction were not encoded in the %d bytes that are kept", name, len(memory))
					}
				}
			}

			long := strings.Repeat("the application's ", 1000)
			var got string
			if err := pool.QueryRow(t.Context(), "SELECT $1::text", long).Scan(&got); err != nil || got != long {
				t.Errorf("a text that the application selects: %v, got %d bytes of %d, the same: %t", err, len(got), len(long), got == long)
			}

			store(answer("second", 180)...)
			store("3", "4")
			for name, memory := range keptBy(t, pool) {
				if unsafe.SliceData(memory) != unsafe.SliceData(first[name]) {
					t.Errorf("%s of the second transaction were not encoded in the memory of the first", name)
				}
			}

			store(`"` + strings.Repeat("large ", pgsink.MaxBuffer/5) + `"`)
			store(answer("third", 190)...)
			for name, memory := range keptBy(t, pool) {
				if len(memory) > pgsink.MaxBuffer {
					t.Errorf("of %s a connection keeps %d bytes after a large payload, want no more than %d", name, len(memory), pgsink.MaxBuffer)
				}
			}
			if n := keptByPGX(t, pool); n > pgsink.MaxBuffer {
				t.Errorf("pgx keeps %d bytes after a large payload, want no more than %d", n, pgsink.MaxBuffer)
			}
		})
	}
}

// An application's tracer can log what a statement's arguments are.
func TestATracerSeesTheArguments(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, databaseURL(t))
	var traced argumentsTracer
	s := db.newSinkOn(db.newPool(func(c *pgxpool.Config) { c.ConnConfig.Tracer = &traced }))
	cmd := db.admitted()
	chunks := chunksOf(cmd, 0, answer("traced", 100)...)
	if err := execute(t.Context(), s, cmd, chunks); err != nil {
		t.Fatal(err)
	}
	traced.mu.Lock()
	defer traced.mu.Unlock()
	if text := strings.Join(traced.arguments, "\n"); !strings.Contains(text, chunks[1].ID().String()) {
		t.Errorf("the second chunk's ID is not among the arguments: got %.300s", text)
	}
}

// argumentsTracer collects the arguments as a logger writes them.
type argumentsTracer struct {
	mu        sync.Mutex
	arguments []string
}

func (*argumentsTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (*argumentsTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (*argumentsTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (tr *argumentsTracer) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	text, _ := json.Marshal(data.Args) //nolint:errchkjson // what cannot be written is not found
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.arguments = append(tr.arguments, string(text))
}
func (*argumentsTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// keptBy is all of the memory that the pool's only connection keeps.
func keptBy(t *testing.T, pool *pgxpool.Pool) map[string][]byte {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	arguments, messages := pgsink.Kept(conn.Conn())
	return map[string][]byte{"the arguments": arguments[:cap(arguments)], "the messages": messages[:cap(messages)]}
}

// keptByPGX is how many bytes of memory pgx keeps for what the pool's only connection sends.
func keptByPGX(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	conn.Conn().PgConn().Frontend().Send(look(func(messages []byte) { n = cap(messages) }))
	return n
}

// look is a message of no bytes that is shown the memory of those before it.
type look func(messages []byte)

func (l look) Encode(messages []byte) ([]byte, error) { l(messages); return messages, nil }
func (look) Decode([]byte) error                      { return nil }
func (look) Frontend()                                {}

// answer is 300 payloads of so many bytes and a few more.
func answer(name string, length int) (payloads []string) {
	for i := range 300 {
		payloads = append(payloads, fmt.Sprintf(`"%s %d %s"`, name, i, strings.Repeat("x", length)))
	}
	return payloads
}
