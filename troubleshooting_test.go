package vehicle_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sovd-go/vehicle"
	vt "github.com/sovd-go/vehicle/vehicletest"
)

// Each text that docs/troubleshooting.md quotes is one that the code produced, here or in the tests that have a golden
// file. "…" stands for what differs.
func TestTroubleshootingQuotesWhatIsSeen(t *testing.T) {
	env(t, map[string]string{"VEHICLE_MAX_RETRIES": "many"})
	var seen []string
	for _, file := range []string{"testdata/errors.golden", "sink/pgsink/testdata/errors.golden", "sink/redissink/testdata/errors.golden"} {
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(golden)) {
			if text, ok := strings.CutPrefix(line, "\t"); ok {
				seen = append(seen, strings.TrimSpace(text))
			}
		}
	}
	seen = append(seen, startTexts(t)...)
	seen = append(seen, registrationConflict(t)...)

	page, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	quotes := 0
	for _, block := range regexp.MustCompile("(?ms)^```text\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(block[1]) {
			quote := strings.TrimSpace(line)
			quotes++
			pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(quote), "…", ".+") + "$")
			if len(strings.ReplaceAll(quote, "…", "")) < 16 {
				t.Errorf("quote %q says too little", quote)
			}
			if !slices.ContainsFunc(seen, pattern.MatchString) {
				t.Errorf("quote %q: got nothing like it from the code", quote)
			}
		}
	}
	if quotes < 40 {
		t.Errorf("got %d quotes, want more: are they found at all?", quotes)
	}
}

// startTexts are the errors of clients that cannot be made.
func startTexts(t *testing.T) (texts []string) {
	t.Helper()
	ca, other := vt.NewCA(t), vt.NewCA(t)
	files, mixed, empty := ca.Files(), ca.Files(), ca.Files()
	mixed.Key = other.Files().Key
	empty.CA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty.CA, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expired := vt.NewCA(t)
	if err := expired.RenewClient(vt.CertExpired()); err != nil {
		t.Fatal(err)
	}
	_, notANumber := vehicle.NewFromEnv()
	errs := []error{notANumber}
	for _, f := range []vehicle.TLSFiles{mixed, empty, expired.Files()} {
		_, err := vehicle.New("gateway.example.com:443", vehicle.WithTLSFiles(f))
		errs = append(errs, err)
	}
	_, badTarget := vehicle.New("https://gateway.example.com", vehicle.WithTLSFiles(files))
	for _, err := range append(errs, badTarget) {
		if err == nil {
			t.Fatal("got a client, want an error")
		}
		texts = append(texts, err.Error())
	}
	return texts
}

// registrationConflict builds a program that has another copy of the contract, runs it, and gives the lines of its panic.
func registrationConflict(t *testing.T) []string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	generated, err := os.ReadFile("vehiclepb/sovd_vehicle_service.pb.go")
	if err != nil {
		t.Fatal(err)
	}
	const mainFile = `package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"` + modulePath + `/internal/conflict/stub"
	"` + modulePath + `/vehiclepb"
)

func main() {
	wire, err := proto.Marshal(&stub.CommandRequest{CommandName: "ReadDTC"})
	var request vehiclepb.CommandRequest
	fmt.Println(err, proto.Unmarshal(wire, &request), request.GetCommandName())
}
`
	dir := t.TempDir() // the files are part of the module only for this build
	overlay := map[string]map[string]string{"Replace": {}}
	for path, text := range map[string]string{
		"internal/conflict/main.go":      mainFile,
		"internal/conflict/stub/stub.go": strings.Replace(string(generated), "package vehiclepb", "package stub", 1),
	} {
		file := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay["Replace"][filepath.Join(root, path)] = file
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	overlayFile, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "conflict")
	if err := os.WriteFile(overlayFile, list, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlayFile, "-o", program, "./internal/conflict")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
	if err == nil {
		t.Errorf("two copies of the contract: got a program that runs, want it to panic: %s", out)
	}
	warned := exec.CommandContext(t.Context(), program)
	warned.Env = append(os.Environ(), "GOLANG_PROTOBUF_REGISTRATION_CONFLICT=warn")
	if out, err := warned.Output(); err != nil || string(out) != "<nil> <nil> ReadDTC\n" {
		t.Errorf("two copies with warn: got %q, error %v, want that both work", out, err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.TrimSpace(strings.ReplaceAll(line, "\u00a0", " "))) // see TestErrorTexts
	}
	return lines
}
