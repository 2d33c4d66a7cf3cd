package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vehicleID = "123e4567-e89b-42d3-a456-426614174000"

func TestTheMockShowsACutLinkAndAnAnswerWithoutRepetition(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out.jsonl")
	var out bytes.Buffer
	started := time.Now()
	if err := run(t.Context(), []string{"-out", path}, &out); err != nil {
		t.Fatalf("got error %v, want none\n%s", err, &out)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %v; who tries it should not have to wait", took)
	}

	want := map[string][]string{
		"ReadDataByID":     {"0", "1 final"},
		"ReadDTC":          {"0", "1", "2 final"},
		"ReadDTCSnapshots": {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11 final"},
		"ClearDTC":         {"0 final"},
	}
	if diff := cmp.Diff(want, rows(out.String())); diff != "" {
		t.Errorf("rows on the screen (-want +got):\n%s", diff)
	}
	inOrder(t, out.String(),
		"the link is cut", "attempt=1 code=Unavailable", "attempt 2 asks for chunk 5 and those after it",
		"the link is cut", "attempt=2 code=Unavailable", "attempt 3 asks for chunk 9 and those after it",
		"12 chunks, each once and in order; 9 came a second time and were dropped",
		"command", "ReadDTCSnapshots  completed      12        9         3",
		path)
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 && !strings.Contains(line, path) {
			t.Errorf("a line has %d columns, want at most 100: %s", n, line)
		}
	}
	if strings.Contains(out.String(), "ZZZTEST0") {
		t.Errorf("the screen shows a VIN:\n%s", &out)
	}

	wantEvents := map[string]int{"begin": 4, "response": 2 + 3 + 12 + 1, "status": 4}
	if diff := cmp.Diff(wantEvents, events(t, path)); diff != "" {
		t.Errorf("JSON lines (-want +got):\n%s", diff)
	}
}

func TestAnInterruptEndsTheCommandRecordedAndBeginsNoOther(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out.jsonl")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out bytes.Buffer
	err := run(ctx, []string{"-out", path}, writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("attempt 2")) {
			interrupt()
		}
		return out.Write(p)
	}))
	if !errors.Is(err, vehicle.ErrCanceled) {
		t.Errorf("got error %v, want ErrCanceled", err)
	}
	inOrder(t, out.String(), "was canceled: by the caller", "command", "ReadDTCSnapshots     failed       5")
	if strings.Contains(out.String(), "ClearDTC") {
		t.Errorf("a command began after the interrupt:\n%s", &out)
	}
	wantEvents := map[string]int{"begin": 3, "response": 2 + 3 + 5, "status": 2, "error": 1}
	if diff := cmp.Diff(wantEvents, events(t, path)); diff != "" {
		t.Errorf("JSON lines (-want +got):\n%s", diff)
	}
}

func TestATargetIsReadAndClearedOnlyWhenAsked(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string
	}{
		"without -clear": {nil, []string{"ReadDataByID", "ReadDTC"}},
		"with -clear":    {[]string{"-clear"}, []string{"ReadDataByID", "ReadDTC", "ClearDTC"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("VEHICLE_ENDPOINT_URL", "") // restores what the program sets
			server := vehicletest.NewServer(t, vehicletest.WithTCP())
			args := append([]string{"-target", server.Target(), "-vehicle", vehicleID, "-out", filepath.Join(t.TempDir(), "out.jsonl")}, test.args...)
			var out bytes.Buffer
			if err := run(t.Context(), args, &out); err != nil {
				t.Fatalf("got error %v, want none\n%s", err, &out)
			}
			var got []string
			for _, request := range server.Requests() {
				got = append(got, request.Command.GetCommandName())
				if id := request.Command.GetVehicleId(); id != vehicleID {
					t.Errorf("got vehicle %s, want %s", id, vehicleID)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("commands that arrived (-want +got):\n%s", diff)
			}
		})
	}
}

func TestArgumentsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		want string
	}{
		"a target without a vehicle": {[]string{"-target", "localhost:50051"}, "-vehicle"},
		"a vehicle that is no UUID":  {[]string{"-vehicle", "mine"}, flag.ErrHelp.Error()},
		"a word too many":            {[]string{"ReadDTC"}, `"ReadDTC"`},
		"a file in no folder":        {[]string{"-out", filepath.Join(t.TempDir(), "none", "out.jsonl")}, "no such file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := run(t.Context(), test.args, &out); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %s in it", err, test.want)
			}
		})
	}
}

func TestPayloadsAreSummarisedWithoutWhatIdentifiesAVehicle(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ payload, want string }{
		"a VIN":              {`{"data":{"dataId":"0xF190","description":"Vehicle Identification Number","value":"ZZZTEST0XT0000001"}}`, "0xF190 Vehicle Identification Number: ***"},
		"a number":           {`{"data":{"dataId":"0xF442","description":"Control Module Voltage","value":13.8,"unit":"V"}}`, "0xF442 Control Module Voltage: 13.8 V"},
		"digits in a string": {`{"data":{"dataId":"0xF18C","description":"ECU Serial Number","value":"123456"}}`, "0xF18C ECU Serial Number: ***"},
		"no value":           {`{"data":{"dataId":"0xF18C","description":"ECU Serial Number"}}`, "0xF18C ECU Serial Number: ***"},
		"both spellings":     {`{"status":"reading","faults":[{"display_code":"P0420"},{"dtcCode":"U0121-87"}]}`, "2 faults: P0420, U0121-87"},
		"no faults":          {`{"status":"reading","faults":[]}`, "reading"},
		"something unknown":  {`{"owner":"Jane Doe"}`, ""},
		"no object":          {`["ZZZTEST0XT0000001"]`, "(not an object)"},
		"no data":            {`null`, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := summarise(json.RawMessage(test.payload)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAVehicleDoesNotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	for name, control := range map[string]string{
		"the escape of a sequence":        `\u001b[2J`,
		"a sequence in one character":     `\u009b2J`,
		"the bell":                        `\u0007`,
		"a new line":                      `\n`,
		"a carriage return":               `\r`,
		"the character that takes back":   `\b`,
		"the character that deletes":      `\u007f`,
		"one that is not an escape there": "\u009b",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			newScreen(&out).row(vehicle.Chunk{Payload: json.RawMessage(`{"status":"be` + control + `hind"}`)})
			line, ended := strings.CutSuffix(out.String(), "\n")
			if !ended || strings.ContainsFunc(line, unicode.IsControl) || !strings.Contains(line, "be\ufffd") {
				t.Errorf("got %q, want a line with a replacement character", &out)
			}
		})
	}
}

var rowPattern = regexp.MustCompile(`^  \d\d:\d\d:\d\d\.\d{3}  +(\d+)( +final)? +\d+  `)

// rows gives the numbers of the chunks in each command's table.
func rows(screen string) map[string][]string {
	found := make(map[string][]string)
	command, before := "", ""
	for line := range strings.Lines(screen) {
		if strings.HasPrefix(line, "  received ") {
			command = strings.TrimSpace(before)
		}
		if m := rowPattern.FindStringSubmatch(line); m != nil {
			found[command] = append(found[command], strings.Join(strings.Fields(m[1]+m[2]), " "))
		}
		before = line
	}
	return found
}

// events counts the lines of the file by kind.
func events(t *testing.T, path string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for line := range bytes.Lines(text) {
		var event struct{ Event string }
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		count[event.Event]++
	}
	return count
}

// inOrder checks that the texts come one after the other.
func inOrder(t *testing.T, screen string, texts ...string) {
	t.Helper()
	rest := screen
	for _, text := range texts {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Fatalf("the screen has no %q in its place:\n%s", text, screen)
		}
		rest = after
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
