// Package servers runs private instances of real servers, for tests, benchmarks and the examples'
// embedded mode: on loopback, on free ports, with their data in temporary folders that go when they
// are closed. The servers' programs must be installed.
//
// A server ends with the program that started it, even if that program is killed.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// process is a program that runs as a child of this one.
type process struct {
	name string
	cmd  *exec.Cmd
	out  tail
	done chan struct{} // closed when the program has ended
}

// startProcess starts the program at path in dir. As root it runs as account instead, if that is not
// empty; dir should belong to that account (see tempDir).
func startProcess(path, dir, account string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(path), cmd: exec.Command(path, args...), done: make(chan struct{})} //nolint:gosec,noctx // G204: our own programs; they outlive any call
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = 5 * time.Second // for children of its own that keep the output open
	if err := detach(p.cmd, account); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.name, err)
	}
	guard, err := startGuard(p.cmd.Process.Pid, dir)
	if err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		return nil, fmt.Errorf("guarding %s: %w", p.name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in its output
		guard.release()
	}()
	return p, nil
}

// waitReady asks probe until it succeeds, the program ends, or ctx does.
func (p *process) waitReady(ctx context.Context, probe func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.name, p.out.String())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w): %s", p.name, ctx.Err(), err, p.out.String())
		}
	}
}

// stop sends sig and waits until the program has ended; when ctx ends first, it kills the program and
// returns ctx's error.
func (p *process) stop(ctx context.Context, sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop and was killed: %w", p.name, ctx.Err())
	}
}

// guard is a shell that reads a pipe whose other end only this process holds.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// startGuard starts what kills pid and removes dir if this process dies without releasing the guard.
func startGuard(pid int, dir string) (*guard, error) {
	const script = `read -r word; [ "$word" = released ] || { kill -9 "$1"; sleep 1; rm -rf "$2"; }`
	g := &guard{cmd: exec.Command("/bin/sh", "-c", script, "sh", strconv.Itoa(pid), dir)} //nolint:gosec,noctx // G204: our own script; it outlives any call
	err := detach(g.cmd, "")
	if err != nil {
		return nil, err
	}
	if g.pipe, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return g, g.cmd.Start()
}

// release lets the guard go without harm.
func (g *guard) release() {
	_, _ = io.WriteString(g.pipe, "released\n")
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}

// findProgram looks for a program on the PATH and then where the patterns (see filepath.Glob) say;
// of several matches it takes the last in the order of version numbers.
func findProgram(name string, patterns ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.EvalSymlinks(path) // its siblings are beside the program, not beside the link
	}
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(pattern, name))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return slices.MaxFunc(found, compareVersions), nil
		}
	}
	return "", fmt.Errorf("%s is not installed: it is neither on the PATH nor in any of %q", name, patterns)
}

// compareVersions sorts paths that differ in a number by that number: longer is newer.
func compareVersions(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return bytes.Compare([]byte(a), []byte(b))
}

// freePort finds a TCP port on loopback that nobody listens on. Another process may take it before
// the caller does: who starts a server should be ready to try another.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil //nolint:errcheck // a TCP listener has a TCP address
}

// tempDir makes a folder for a server's data. As root it belongs to account, if that is not empty.
func tempDir(name, account string) (string, error) {
	dir, err := os.MkdirTemp("", "vehicle-"+name+"-")
	if err != nil {
		return "", err
	}
	if err := giveTo(dir, account); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// tail keeps the last of what a program prints, for error messages.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if extra := len(t.text) - tailSize; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
