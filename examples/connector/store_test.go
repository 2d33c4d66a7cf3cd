package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle/vehicletest"
)

// rowCounter counts the rows that have come from PostgreSQL.
type rowCounter struct{ rows atomic.Int64 }

func (c *rowCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (c *rowCounter) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	c.rows.Add(data.CommandTag.RowsAffected())
}

// countedStore is a store of the test's own on the connector's database.
func countedStore(t *testing.T, c *connector, page int) (store, *rowCounter) {
	t.Helper()
	config, err := pgxpool.ParseConfig(c.database)
	if err != nil {
		t.Fatal(err)
	}
	counter := new(rowCounter)
	config.ConnConfig.Tracer = counter
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return store{pool: pool, page: page, timeout: time.Minute}, counter
}

// A page costs what is on it, wherever in the answer it begins.
func TestPagesReadNoMoreThanTheyShow(t *testing.T) {
	t.Parallel()
	const chunks = 2*pageChunks + 10
	payloads := make([]string, chunks)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`"%0100d"`, i)
	}
	c := start(t, nil, vehicletest.On("ReadLog", vehicletest.Script{vehicletest.Answer(payloads...)}))
	id := c.submit("ReadLog")
	c.ended(id)
	tests := map[string]struct {
		page  int // bytes
		pages int
	}{
		"by their bytes":                 {1020, 53}, // ten payloads of 102 bytes
		"by the number of chunks":        {1 << 20, 3},
		"one where a chunk is too large": {1, chunks},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, read := countedStore(t, c, test.page)
			next, pages := int64(0), 0
			for more := true; more; pages++ {
				var page []storedChunk
				var err error
				if page, more, err = s.chunks(t.Context(), id, next); err != nil {
					t.Fatal(err)
				}
				for _, chunk := range page {
					if int64(chunk.Seq) != next || string(chunk.Payload) != payloads[next] || chunk.Final != (next == chunks-1) {
						t.Fatalf("got chunk %d %s %t, want chunk %d %s", chunk.Seq, chunk.Payload, chunk.Final, next, payloads[next])
					}
					next++
				}
			}
			if next != chunks || pages != test.pages {
				t.Errorf("got %d chunks on %d pages, want %d on %d", next, pages, chunks, test.pages)
			}
			if got := read.rows.Load(); got != chunks {
				t.Errorf("got %d rows from PostgreSQL, want %d", got, chunks)
			}
		})
	}
	t.Run("there is nothing after the last", func(t *testing.T) {
		t.Parallel()
		s, _ := countedStore(t, c, 1000)
		for _, from := range []int64{chunks, 1 << 31} {
			if page, more, err := s.chunks(t.Context(), id, from); len(page) != 0 || more || err != nil {
				t.Errorf("from %d: got %d chunks, %t, %v, want nothing", from, len(page), more, err)
			}
		}
		if page, more, err := s.chunks(t.Context(), uuid.New(), 0); len(page) != 0 || more || err != nil {
			t.Errorf("of an unknown command: got %d chunks, %t, %v, want nothing", len(page), more, err)
		}
	})
}

// jsonb cannot hold some payloads; who reads them gets what the vehicle sent all the same.
func TestPayloadsThatPostgreSQLCannotHoldAsJSON(t *testing.T) {
	t.Parallel()
	payloads := []string{`"pad\u0000"`, `{"a":1e400000}`, `{"$json":"looks wrapped"}`, `{"$json":"1","longer":"2"}`, `"plain"`}
	c := start(t, nil, vehicletest.On("Read", vehicletest.Script{vehicletest.Answer(payloads...)}))
	got := c.ended(c.submit("Read"))
	var texts []string
	for _, chunk := range got.Chunks {
		texts = append(texts, strings.ReplaceAll(string(chunk.Payload), `": `, `":`))
	}
	if diff := cmp.Diff(payloads, texts); diff != "" {
		t.Errorf("the payloads (-want +got):\n%s", diff)
	}
}

// What looks wrapped and has no JSON in it is another program's, and is shown as it is stored.
func TestPayloadsThatOnlyLookWrapped(t *testing.T) {
	t.Parallel()
	stored := []string{`{"$json":"no JSON"}`, `{"$json":""}`, `{"$json":"1 2"}`, `{"$json":3}`, `{"a":1,"$json":"2"}`}
	c := start(t, nil, vehicletest.On("Read", vehicletest.Script{vehicletest.Answer(`0`, `1`, `2`, `3`, `4`)}))
	id := c.submit("Read")
	c.ended(id)
	var wantEvents []string
	for seq, payload := range stored {
		c.exec(`UPDATE responses SET response_payload = $1 WHERE command_id = $2 AND sequence_number = $3`, payload, id.String(), seq)
		wantEvents = append(wantEvents, fmt.Sprintf("%d %s", seq, payload))
	}
	var texts []string
	for _, chunk := range c.show("/commands/" + id.String()).Chunks {
		texts = append(texts, string(chunk.Payload))
	}
	if diff := cmp.Diff(stored, texts); diff != "" {
		t.Errorf("the payloads (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(wantEvents, "end status completed"), c.follow(id).rest()); diff != "" {
		t.Errorf("the events (-want +got):\n%s", diff)
	}
}
