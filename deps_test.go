package vehicle_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const modulePath = "github.com/sovd-go/vehicle"

// What a program compiles that imports one of our packages is part of what that package promises. The
// golden files in testdata/deps name modules rather than packages, so that a minor upgrade of one changes no
// file. UPDATE_DEPS=1 go test -run TestDependencies . rewrites them.
func TestDependencies(t *testing.T) {
	t.Parallel()
	const dir = "testdata/deps"
	update := os.Getenv("UPDATE_DEPS") != ""
	var files []string
	for _, pkg := range publicPackages(t) {
		file := filepath.Join(dir, shortName(pkg)+".golden")
		files = append(files, file)
		t.Run(shortName(pkg), func(t *testing.T) {
			t.Parallel()
			got := strings.Join(requirements(t, pkg), "\n") + "\n"
			if update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%s has no list of its dependencies: %v; UPDATE_DEPS=1 writes it", pkg, err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s compiles other modules or packages of ours (-want +got):\n%s\nIf that is meant, UPDATE_DEPS=1 updates %s.", pkg, diff, file)
			}
		})
	}

	t.Run("no list is left of a package that is gone", func(t *testing.T) {
		t.Parallel()
		got, err := filepath.Glob(filepath.Join(dir, "*.golden"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range got {
			if !slices.Contains(files, file) {
				t.Errorf("got %s, want none: there is no such public package", file)
			}
		}
	})
}

// These hold whatever the golden files say.
func TestImportingTheCoreBringsNo(t *testing.T) {
	t.Parallel()
	for _, pkg := range []string{modulePath, modulePath + "/sink", modulePath + "/vehiclepb"} {
		deps := list(t, "-deps", pkg)
		for what, forbidden := range map[string]string{
			"PostgreSQL driver": "github.com/jackc/",
			"Redis client":      "github.com/redis/",
			"Prometheus client": "github.com/prometheus/",
			"OpenTelemetry":     "go.opentelemetry.io/",
			"adapter":           modulePath + "/sink/",
			"mock vehicle":      modulePath + "/vehicletest",
			"test framework":    "testing",
			"test comparisons":  "github.com/google/go-cmp/",
			"leak checks":       "go.uber.org/goleak",
			"retry interceptor": "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry",
		} {
			t.Run(what+" with "+shortName(pkg), func(t *testing.T) {
				t.Parallel()
				for _, dep := range deps {
					if dep == forbidden || strings.HasPrefix(dep, strings.TrimSuffix(forbidden, "/")+"/") {
						t.Errorf("got %s among the packages that %s compiles, want nothing of %s", dep, pkg, forbidden)
					}
				}
			})
		}
	}
}

// publicPackages returns the import paths that others may use as a library.
func publicPackages(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(list(t, "./..."), func(pkg string) bool {
		elements := strings.Split(pkg, "/")
		return slices.Contains(elements, "internal") || slices.Contains(elements, "examples") || pkg == modulePath+"/bench"
	})
}

// requirements returns what pkg compiles beside itself and the standard library: other modules, and
// this module's packages.
func requirements(t *testing.T, pkg string) []string {
	t.Helper()
	deps := list(t, "-deps", "-f", `{{with .Module}}{{if .Main}}{{$.ImportPath}}{{else}}{{.Path}}{{end}}{{end}}`, pkg)
	deps = slices.DeleteFunc(deps, func(dep string) bool { return dep == pkg })
	slices.Sort(deps)
	return slices.Compact(deps)
}

// shortName is an import path without the module's, as a file name.
func shortName(pkg string) string {
	if pkg == modulePath {
		return "vehicle"
	}
	return strings.ReplaceAll(strings.TrimPrefix(pkg, modulePath+"/"), "/", "-")
}

// list runs go list and returns its lines. The platform is always the same one, since dependencies differ
// between them.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.Fields(string(out))
}
