package pgsink_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// docs/operations.md says how to delete the payloads of old commands: on the application's tables, and no others.
func TestTheRetentionOfTheDocuments(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	sql := regexp.MustCompile("(?ms)^```sql\n(.*?)^```$").FindSubmatch(page)
	if sql == nil {
		t.Fatal("docs/operations.md: got no SQL in it")
	}
	db := newAppDatabase(t, databaseURL(t))
	s := db.newSink()
	old, recent, running := db.admitted(), db.admitted(), db.admitted()
	if err := execute(t.Context(), s, old, chunksOf(old, 0, "1", "2")); err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), s, recent, chunksOf(recent, 0, "1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), chunksOf(running, 0, "1")); err != nil {
		t.Fatal(err)
	}
	db.exec(`UPDATE {commands} SET completed_at = now() - interval '91 days', submitted_at = now() - interval '91 days'
		WHERE command_id IN ($1::uuid, $2::uuid)`, old.ID.String(), running.ID.String())
	pool := db.newPool(func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["search_path"] = pgx.Identifier{db.schema}.Sanitize()
	})
	var deleted []int64
	for range 2 {
		tag, err := pool.Exec(t.Context(), string(sql[1]))
		if err != nil {
			t.Fatal(err)
		}
		deleted = append(deleted, tag.RowsAffected())
	}
	if diff := cmp.Diff([]int64{2, 0}, deleted); diff != "" {
		t.Errorf("rows deleted by each run (-want +got):\n%s", diff)
	}
	if got := len(db.stored(recent.ID).Chunks) + len(db.stored(running.ID).Chunks); got != 2 {
		t.Errorf("chunks of the commands that stay: got %d, want 2", got)
	}
}
