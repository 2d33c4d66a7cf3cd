package vehicle

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// NewFromEnv makes a client as the VEHICLE_* variables say; explicit options win over them. A variable that
// is unset or empty has its default. A value that cannot be read is an error that names variable and value.
//
//   - VEHICLE_ENDPOINT_URL: any gRPC target (localhost:50051)
//   - VEHICLE_USE_TLS: true or false (false: plaintext)
//   - VEHICLE_TLS_CERT_DIR: folder with ca.pem and, for mutual TLS, client-cert.pem and client-key.pem (certs)
//   - VEHICLE_TLS_CA_FILE, VEHICLE_TLS_CERT_FILE, VEHICLE_TLS_KEY_FILE: each instead of the folder's
//   - VEHICLE_TLS_SERVER_NAME: the name in the server's certificate (the target's host)
//   - VEHICLE_GRPC_TIMEOUT: seconds for an attempt (30)
//   - VEHICLE_MAX_RETRIES: retries after UNAVAILABLE; 0 means none (3)
//   - VEHICLE_RETRY_BASE_DELAY: seconds before the first retry (1.0)
//   - VEHICLE_POOL_SIZE: connections at most (as [WithPoolSize])
//
// With TLS, ca.pem must be there; without client-cert.pem and client-key.pem there is no client certificate.
func NewFromEnv(opts ...Option) (*Client, error) {
	env := environment{lookup: os.Getenv}
	target := env.text(endpoint, "localhost:50051")
	fromEnv := env.options()
	if err := errors.Join(env.errs...); err != nil {
		return nil, err
	}
	config, err := defaultConfig().with(fromEnv)
	if err != nil {
		return nil, err
	}
	if config, err = config.with(opts); err != nil {
		return nil, err
	}
	// The files are looked for only now: options that say otherwise win.
	if files := config.security.files; files != nil && len(config.security.options) == 0 {
		if *files, err = env.tlsFiles(); err != nil {
			return nil, err
		}
	}
	c, err := newClient(target, config)
	if bad, ok := errors.AsType[*targetError](err); ok { // the default is never bad
		err = fmt.Errorf("vehicle: %s=%q: %s", endpoint, bad.target, bad.reason)
	}
	if bad, ok := errors.AsType[*filesError](err); ok {
		err = env.blame(bad)
	}
	return c, err
}

const endpoint = "VEHICLE_ENDPOINT_URL"

// environment reads variables and keeps what was wrong with them.
type environment struct {
	lookup func(string) string
	errs   []error
	named  []namedFile
}

// namedFile is a file, and the variable that says where it is.
type namedFile struct{ path, variable string }

func (e *environment) options() []Option {
	var opts []Option
	if e.boolean("VEHICLE_USE_TLS", false) {
		opts = append(opts, WithTLSFiles(TLSFiles{}))
	} else {
		opts = append(opts, WithInsecure())
	}
	if d, ok := e.seconds("VEHICLE_GRPC_TIMEOUT", "more than 0"); ok {
		if d > 0 {
			opts = append(opts, WithAttemptTimeout(d))
		} else {
			e.fail("VEHICLE_GRPC_TIMEOUT", "a number of seconds, more than 0")
		}
	}
	var policy RetryPolicy
	if n, ok := e.integer("VEHICLE_MAX_RETRIES", 0); ok {
		if policy.MaxRetries = n; n == 0 {
			policy.MaxRetries = -1 // RetryPolicy's word for none
		}
	}
	if d, ok := e.seconds("VEHICLE_RETRY_BASE_DELAY", "0 or more"); ok {
		if policy.BaseDelay = d; d == 0 {
			policy.BaseDelay = -1
		}
	}
	opts = append(opts, WithRetry(policy))
	if n, ok := e.integer("VEHICLE_POOL_SIZE", 1); ok {
		opts = append(opts, WithPoolSize(n))
	}
	return opts
}

// tlsFiles finds the folder's files, and those that replace them.
func (e *environment) tlsFiles() (TLSFiles, error) {
	const ca, cert, key = "ca.pem", "client-cert.pem", "client-key.pem"
	dir := e.text("VEHICLE_TLS_CERT_DIR", "certs")
	files := TLSFiles{
		CA:         e.file("VEHICLE_TLS_CA_FILE", dir, ca),
		ServerName: e.lookup("VEHICLE_TLS_SERVER_NAME"),
	}
	if e.lookup("VEHICLE_TLS_CERT_FILE") != "" || e.lookup("VEHICLE_TLS_KEY_FILE") != "" ||
		exists(filepath.Join(dir, cert)) || exists(filepath.Join(dir, key)) {
		files.Cert = e.file("VEHICLE_TLS_CERT_FILE", dir, cert)
		files.Key = e.file("VEHICLE_TLS_KEY_FILE", dir, key)
	}
	return files, errors.Join(e.errs...)
}

// file is the one that variable names, or the folder's of that name.
func (e *environment) file(variable, dir, name string) string {
	if path := e.lookup(variable); path != "" {
		if !exists(path) {
			e.fail(variable, "a file that exists")
		}
		e.named = append(e.named, namedFile{path, variable})
		return path
	}
	path := filepath.Join(dir, name)
	e.named = append(e.named, namedFile{path, "VEHICLE_TLS_CERT_DIR"})
	if !exists(path) {
		e.errs = append(e.errs, fmt.Errorf("vehicle: VEHICLE_TLS_CERT_DIR=%q: there is no %s in it; set %s for a file elsewhere", dir, name, variable))
	}
	return path
}

// blame adds to err the variables that name its files, but for one that has its default. In its text a path stands between a blank and a
// colon or a blank; the name of one may begin as another's does.
func (e *environment) blame(err *filesError) error {
	var variables []string
	for _, file := range e.named {
		value, told := e.lookup(file.variable), err.Error()
		named := strings.Contains(told, " "+file.path+":") || strings.Contains(told, " "+file.path+" ")
		if text := fmt.Sprintf("%s=%q", file.variable, value); value != "" && named && !slices.Contains(variables, text) {
			variables = append(variables, text)
		}
	}
	if len(variables) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(variables, ", "))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func (e *environment) text(name, byDefault string) string {
	if v := e.lookup(name); v != "" {
		return v
	}
	return byDefault
}

func (e *environment) boolean(name string, byDefault bool) bool {
	text := e.lookup(name)
	if text == "" {
		return byDefault
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		e.fail(name, "true or false")
	}
	return v
}

func (e *environment) integer(name string, least int) (int, bool) {
	text := e.lookup(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		e.fail(name, fmt.Sprintf("a whole number, %d or more", least))
		return 0, false
	}
	return n, true
}

func (e *environment) seconds(name, want string) (time.Duration, bool) {
	text := e.lookup(name)
	if text == "" {
		return 0, false
	}
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(s) || s < 0 || s >= math.MaxInt64/float64(time.Second) {
		e.fail(name, "a number of seconds, "+want)
		return 0, false
	}
	return time.Duration(s * float64(time.Second)), true
}

func (e *environment) fail(name, want string) {
	e.errs = append(e.errs, fmt.Errorf("vehicle: %s=%q: want %s", name, e.lookup(name), want))
}
