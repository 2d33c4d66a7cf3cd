package vehicle_test

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/sovd-go/vehicle/internal/prose"
)

// Links between the documents lead somewhere: to a file, and to a heading that is there.
func TestLinksInTheDocumentsResolve(t *testing.T) {
	t.Parallel()
	found := 0
	for _, document := range documents(t) {
		text := withoutCode(prose.Read(t, document))
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: link %s: %v", document, m[1], err)
				continue
			}
			if target.Scheme != "" || target.Host != "" {
				continue // the world's
			}
			found++
			file := document
			if target.Path != "" {
				file = path.Join(path.Dir(document), target.Path)
			}
			if _, err := os.Stat(file); err != nil || strings.HasPrefix(file, "../") {
				t.Errorf("%s: link %s: got no file %s", document, m[1], file)
				continue
			}
			if target.Fragment != "" && !anchors(prose.Read(t, file))[target.Fragment] {
				t.Errorf("%s: link %s: got no heading %q in %s", document, m[1], target.Fragment, file)
			}
		}
	}
	if found < 20 {
		t.Errorf("got %d links, want more: are they found at all?", found)
	}
}

var (
	link       = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	codeBlock  = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan   = regexp.MustCompile("`[^`\n]*`")
	heading    = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	linkedText = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// withoutCode leaves out what is not read as Markdown.
func withoutCode(text string) string {
	return codeSpan.ReplaceAllString(codeBlock.ReplaceAllString(text, ""), "")
}

// anchors are the names that GitHub gives to a document's headings.
func anchors(text string) map[string]bool {
	names := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		title := linkedText.ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			default:
				return -1
			}
		}, title)
		unique := name
		for i := 1; names[unique]; i++ {
			unique = fmt.Sprintf("%s-%d", name, i)
		}
		names[unique] = true
	}
	return names
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	names := anchors("# Two copies of one .proto\n## A `code`, and [a link](x.md)\n## Same\n## Same\n```sh\n# not this\n```\n")
	for _, want := range []string{"two-copies-of-one-proto", "a-code-and-a-link", "same", "same-1"} {
		if !names[want] {
			t.Errorf("got %v, want %q among them", names, want)
		}
	}
	if len(names) != 4 {
		t.Errorf("got %d anchors, want 4: %v", len(names), names)
	}
}
