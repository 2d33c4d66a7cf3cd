// Package prose reads documents and comments, and holds them to the code, for tests.
package prose

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Read returns what is in a file. It fails the test where there is none.
func Read(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(path) //nolint:gosec // G304: the tests' own
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

var lineBreak = regexp.MustCompile(`\n[\t ]*(// *)?`)

// Missing says which of the texts a file does not have, in whatever lines: a default or a limit, as the code has it. A file that
// cannot be read has none.
func Missing(texts map[string][]string) (faults []string) {
	for path, wanted := range texts {
		file, err := os.ReadFile(path) //nolint:gosec // G304: the tests' own
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		text := lineBreak.ReplaceAllString(string(file), " ")
		for _, want := range wanted {
			if !strings.Contains(text, want) {
				faults = append(faults, fmt.Sprintf("%s: want it to say %q, as the code has it", path, want))
			}
		}
	}
	return faults
}
