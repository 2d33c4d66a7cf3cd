package vehicle_test

import (
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The Go code in the documents is formatted and compiles, and go vet has nothing to say about it. What is not a whole file is the body
// of a function that has a ctx, a client and a vehicleID, or a declaration.
func TestTheCodeInTheDocumentsCompiles(t *testing.T) {
	t.Parallel()
	found := 0
	for name, snippets := range map[string][]string{
		"README.md":          fenced(t, "README.md"),
		"examples/README.md": fenced(t, "examples/README.md"),
		"doc.go":             indented(t, "doc.go"),
	} {
		found += len(snippets)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vet(t, snippets)
		})
	}
	if found < 3 {
		t.Errorf("got %d snippets, want more: are they found at all?", found)
	}
}

var fence = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// fenced gives the Go blocks of a Markdown file.
func fenced(t *testing.T, path string) (snippets []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		snippets = append(snippets, m[1])
	}
	return snippets
}

// indented gives the code of a package comment, as one snippet.
func indented(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for line := range strings.Lines(file.Doc.Text()) {
		if rest, ok := strings.CutPrefix(line, "\t"); ok || code.Len() > 0 && line == "\n" {
			code.WriteString(rest)
		}
	}
	return []string{strings.TrimSpace(code.String()) + "\n"}
}

// vet compiles the snippets and vets them, each as a file of one package.
func vet(t *testing.T, snippets []string) {
	t.Helper()
	dir := t.TempDir()
	args := []string{"vet"}
	for i, snippet := range snippets {
		if formatted, err := format.Source([]byte(snippet)); err != nil || string(formatted) != snippet {
			t.Errorf("error %v from gofmt, which wants:\n%s", err, formatted)
		}
		path := filepath.Join(dir, fmt.Sprintf("snippet%d_test.go", i+1))
		if err := os.WriteFile(path, []byte(whole(snippet)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if len(snippets) == 0 {
		return
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s\nthe snippets:\n%s", err, out, strings.Join(snippets, "\n"))
	}
}

var declaration = regexp.MustCompile(`^(func|type) `)

// whole makes a file of a snippet.
func whole(snippet string) string {
	if strings.HasPrefix(snippet, "package ") {
		return snippet
	}
	body := snippet
	if !declaration.MatchString(snippet) {
		body = "func _(ctx context.Context, client *vehicle.Client, vehicleID uuid.UUID) error {\n" +
			"_, _, _ = ctx, client, vehicleID\n" + snippet + "\nreturn nil\n}\n"
	}
	var file strings.Builder
	file.WriteString("package main\n\n")
	code := comment.ReplaceAllString(body, "")
	for _, path := range imports {
		name := path[strings.LastIndex(path, "/")+1:]
		if slices.Contains(packageNames.FindAllString(code, -1), name+".") {
			file.WriteString("import \"" + path + "\"\n")
		}
	}
	return file.String() + body
}

var (
	comment      = regexp.MustCompile(`(?m)//.*$`)
	packageNames = regexp.MustCompile(`\b[a-z]+\.`)
)

// imports are what snippets may use.
var imports = []string{
	"context", "errors", "fmt", "log/slog", "os", "testing", "time",
	"github.com/google/uuid",
	"google.golang.org/grpc/keepalive",
	modulePath, modulePath + "/sink", modulePath + "/vehicletest",
}
