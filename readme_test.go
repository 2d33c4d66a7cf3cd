package vehicle_test

import (
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sovd-go/vehicle/internal/prose"
)

// The Go code in the documents is formatted and compiles, go vet has nothing to say about it, and the tests in it pass. What is not a whole
// file is the body of a function that has a ctx, a client and a vehicleID, or a declaration.
func TestTheCodeInTheDocumentsCompiles(t *testing.T) {
	t.Parallel()
	snippets := map[string]string{} // by where they are
	add := func(document string, found []string) {
		for i, snippet := range found {
			snippets[fmt.Sprintf("%s: snippet %d", document, i+1)] = snippet
		}
	}
	add("doc.go", indented(t, "doc.go"))
	for _, document := range documents(t) {
		add(document, fenced(t, document))
	}
	if len(snippets) < 12 {
		t.Errorf("got %d snippets, want more: are they found at all?", len(snippets))
	}
	vet(t, snippets)
}

// documents are the repository's Markdown files.
func documents(t *testing.T) []string {
	t.Helper()
	names := tracked(t, "*.md")
	if !slices.Contains(names, "README.md") {
		t.Fatalf("got documents %q, want README.md among them", names)
	}
	return names
}

// tracked are the repository's files, those too that are new.
func tracked(t *testing.T, patterns ...string) []string {
	t.Helper()
	args := append([]string{"ls-files", "-co", "--exclude-standard", "--"}, patterns...)
	out, err := exec.CommandContext(t.Context(), "git", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(file string) bool {
		_, err := os.Stat(file)
		return err != nil // it has just been deleted
	})
}

var fence = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// fenced gives the Go blocks of a Markdown file.
func fenced(t *testing.T, path string) (snippets []string) {
	t.Helper()
	for _, m := range fence.FindAllStringSubmatch(prose.Read(t, path), -1) {
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

// vet compiles the snippets and vets them, each as a package of its own, in a module that needs what this one needs. It runs those that are tests.
func vet(t *testing.T, snippets map[string]string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	mod := strings.Replace(prose.Read(t, "go.mod"), "module "+modulePath, "module snippets", 1)
	write("go.mod", mod+fmt.Sprintf("\nrequire %s v0.0.0\nreplace %s => %q\n", modulePath, modulePath, root))
	write("go.sum", prose.Read(t, "go.sum"))
	test := []string{"test", "-mod=mod"}
	for i, where := range slices.Sorted(maps.Keys(snippets)) {
		snippet := snippets[where]
		if formatted, err := format.Source([]byte(snippet)); err != nil || string(formatted) != snippet {
			t.Errorf("%s: error %v from gofmt, which wants:\n%s", where, err, formatted)
			continue
		}
		pkg := strings.NewReplacer("/", "-", " ", "-", ":", "", ".", "-").Replace(where) // go vet names it
		if err := os.Mkdir(filepath.Join(dir, pkg), 0o700); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(pkg, fmt.Sprintf("snippet%d_test.go", i)), whole(snippet))
		if strings.HasPrefix(snippet, "func Test") {
			test = append(test, "./"+pkg)
		}
	}
	if len(test) < 4 {
		t.Errorf("got %d tests among the snippets, want the README's two: are they found at all?", len(test)-2)
	}
	for _, args := range [][]string{{"vet", "-mod=mod", "./..."}, test} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go %s: %v\n%s", args[0], err, out)
		}
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
	"google.golang.org/grpc", "google.golang.org/grpc/keepalive",
	modulePath, modulePath + "/sink", modulePath + "/vehiclepb", modulePath + "/vehicletest",
}

// The README's tables have every option and every variable.
func TestTheReadmeKeepsUpWithTheCode(t *testing.T) {
	t.Parallel()
	readme := prose.Read(t, "README.md")
	for _, source := range []struct{ file, pattern string }{
		{"options.go", `(?m)^func (With\w+)\(`},
		{"env.go", `"(VEHICLE_\w+)"`},
		{"errors.go", `(?m)^\t(Err\w+) += errors`},
	} {
		names := regexp.MustCompile(source.pattern).FindAllStringSubmatch(prose.Read(t, source.file), -1)
		if len(names) < 8 {
			t.Errorf("got %d names in %s, want more: are they found at all?", len(names), source.file)
		}
		for _, name := range names {
			if !regexp.MustCompile("`" + name[1] + "[`(]").MatchString(readme) {
				t.Errorf("README.md: got nothing about %s of %s", name[1], source.file)
			}
		}
	}
}

// The files, options, errors, variables and tests that a document names are there.
func TestTheDocumentsNameWhatIsThere(t *testing.T) {
	t.Parallel()
	files := tracked(t)
	var code strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, ".go") || strings.HasPrefix(file, "scripts/") {
			code.WriteString(prose.Read(t, file))
		}
	}
	declared := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:func (?:\([^)]*\) )?|type |\t)([A-Z]\w+)`).FindAllStringSubmatch(code.String(), -1) {
		declared[m[1]] = true
	}
	for _, name := range regexp.MustCompile(`"(VEHICLE_\w+)"`).FindAllStringSubmatch(code.String(), -1) {
		declared[name[1]] = true
	}
	names := regexp.MustCompile(
		`(?:^|[^.\w])(With[A-Z]\w+|Err[A-Z]\w+|VEHICLE_\w+|Test[A-Z]\w+|Benchmark[A-Z]\w+)|\b(?:vehicle|sink|(?:pg|redis|prom|otel)sink|vehicletest)\.([A-Z]\w+)`)
	paths := regexp.MustCompile(`^[\w*/]+\.(?:go|s|yaml|golden)$`)
	found := 0
	for _, document := range documents(t) {
		for _, span := range codeSpan.FindAllString(codeBlock.ReplaceAllString(prose.Read(t, document), ""), -1) {
			span = strings.Trim(span, "`")
			if paths.MatchString(span) {
				found++
				if !slices.ContainsFunc(files, func(file string) bool {
					here, _ := filepath.Match(span, file)
					below, _ := filepath.Match(span, filepath.Base(file))
					return here || below
				}) {
					t.Errorf("%s: got no file %s", document, span)
				}
			}
			for _, m := range names.FindAllStringSubmatch(span, -1) {
				found++
				if name := m[1] + m[2]; !declared[name] {
					t.Errorf("%s: got nothing that is called %s in the code", document, name)
				}
			}
		}
	}
	if found < 200 {
		t.Errorf("got %d names, want more: are they found at all?", found)
	}
}
