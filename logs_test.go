package vehicle_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// Every message that the module logs is in docs/logs.md, with its level and attributes, and nothing else is.
func TestLogsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (Debug|Info|Warn|Error) \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		line := m[2] + " " + m[1]
		for _, attribute := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[3], -1) {
			line += " " + attribute[1]
		}
		documented = append(documented, line)
	}
	var logged []string
	for _, pattern := range []string{"*.go", "sink/*.go", "sink/*/*.go", "internal/within/*.go", "internal/sinkcall/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				logged = append(logged, logCalls(t, file)...)
			}
		}
	}
	slices.Sort(documented)
	slices.Sort(logged)
	if diff := cmp.Diff(slices.Compact(logged), documented); diff != "" {
		t.Errorf("(-logged +documented):\n%s", diff)
	}
	if len(logged) < 10 {
		t.Errorf("got %d messages, want more: are they found at all?", len(logged))
	}
}

// A command does not suffer from what a log handler does.
func TestALogHandlerThatPanics(t *testing.T) {
	t.Parallel()
	server := vt.NewServer(t, vt.On("Scripted", vt.Script{vt.Fail(codes.Unavailable, "asleep")}, vt.Script{vt.Answer(`0`)}))
	log := slog.NewJSONHandler(writerFunc(func([]byte) (int, error) { panic("in the handler") }), nil)
	client := server.Client(t, quickly(), vehicle.WithSink(rude{}), vehicle.WithLogger(slog.New(log)))
	if res, err := client.Execute(t.Context(), command("Scripted")); err != nil || res.Attempts != 2 {
		t.Errorf("got %v after %d attempts, want none after 2", err, res.Attempts)
	}
}

// logCalls finds calls that have one of slog's levels among their arguments, and the message and the attributes behind it. Those that are
// put together elsewhere are what varies: they are told here.
func logCalls(t *testing.T, path string) (found []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		for i, arg := range call.Args[:max(len(call.Args)-1, 0)] {
			level, ok := arg.(*ast.SelectorExpr)
			if !ok || !strings.HasPrefix(level.Sel.Name, "Level") {
				continue
			}
			if message, ok := call.Args[i+1].(*ast.BasicLit); ok && message.Kind == token.STRING {
				text, err := strconv.Unquote(message.Value)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, strings.TrimPrefix(level.Sel.Name, "Level")+" "+text+attributes(t, text, call, call.Args[i+2:]))
			}
		}
		return true
	})
	return found
}

// attributes are the names of a call's attributes.
func attributes(t *testing.T, message string, call *ast.CallExpr, args []ast.Expr) (names string) {
	t.Helper()
	if call.Ellipsis.IsValid() {
		elsewhere := map[string]string{
			"vehicle: TLS files reloaded": " ca cert not_after", // the tests of reloading and of sink.Slog look at these
			"command begun":               " command_id vehicle_id command user_id",
			"command ended":               " status chunks replayed attempts duration error",
		}
		if elsewhere[message] == "" {
			t.Errorf("%q: got a record whose attributes cannot be found", message)
		}
		return elsewhere[message]
	}
	for _, arg := range args {
		attr, ok := arg.(*ast.CallExpr)
		if !ok || len(attr.Args) != 2 {
			t.Errorf("%q: got an attribute that is not made in its place", message)
			continue
		}
		key, ok := attr.Args[0].(*ast.BasicLit)
		if !ok {
			t.Errorf("%q: got an attribute whose name is no literal", message)
			continue
		}
		names += " " + strings.Trim(key.Value, `"`)
	}
	return names
}
