package pgsink_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sovd-go/vehicle/sink/pgsink"
)

// What people see of the database's trouble, which docs/troubleshooting.md quotes. UPDATE_ERRORS=1 go test -run TestErrorTexts
// ./sink/pgsink rewrites the golden file.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	app := newAppDatabase(t, databaseURL(t))
	empty := openDatabase(t, databaseURL(t))
	store, claiming := app.newSink(), app.newSink(pgsink.WithClaim())
	running, claimed := app.admitted(), app.admitted()
	for _, err := range []error{store.Begin(ctx, running), app.newSink(pgsink.WithClaim()).Begin(ctx, claimed)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	closed := pgsink.New(app.newPool(nil), pgsink.WithSchema(app.schema))
	if err := closed.Close(ctx); err != nil {
		t.Fatal(err)
	}
	guarded := newAppDatabase(t, databaseURL(t))
	fn := pgx.Identifier{guarded.schema, "refuse"}.Sanitize()
	guarded.exec(`CREATE FUNCTION ` + fn + `() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON {commands} FOR EACH ROW EXECUTE FUNCTION ` + fn + `()`)
	latin := app.newPool(func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["client_encoding"] = "LATIN1" })
	texts := map[string]error{
		"a trigger refuses the command":    guarded.newSink().Begin(ctx, guarded.admitted()),
		"there are no tables":              empty.newSink().Begin(ctx, newCommand()),
		"the vehicle is not known":         store.Begin(ctx, newCommand()),
		"the command is running here":      store.Begin(ctx, running),
		"the command is claimed elsewhere": claiming.Begin(ctx, claimed),
		"the sink is closed":               closed.Begin(ctx, newCommand()),
		"the connection is not in UTF-8":   app.newSinkOn(latin).Begin(ctx, newCommand()),
	}
	varying := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	var got strings.Builder
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if texts[name] == nil {
			t.Fatalf("%s: got no error", name)
		}
		fmt.Fprintf(&got, "%s\n\t%s\n\n", name, varying.ReplaceAllString(texts[name].Error(), "UUID"))
	}
	const file = "testdata/errors.golden"
	if os.Getenv("UPDATE_ERRORS") != "" {
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(got.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), strings.TrimSuffix(got.String(), "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
