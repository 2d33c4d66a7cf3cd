// Package browser drives a headless Chromium, for tests of pages. It speaks the DevTools protocol
// (https://chromedevtools.github.io/devtools-protocol/) over two pipes, which needs no port and no
// library. The program must be installed; it keeps nothing, and ends with the program that started it.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Browser is a Chromium. It may be used by several goroutines at once.
type Browser struct {
	cmd  *exec.Cmd
	pipe *pipe
	dir  string // its profile, and its home
}

// ErrNotInstalled is Start's where there is no Chromium.
var ErrNotInstalled = errors.New("there is neither a chromium nor a google-chrome on the PATH (Debian: apt-get install chromium)")

// Start starts a browser and waits until it answers. ctx bounds the start alone: the browser runs until Close.
func Start(ctx context.Context) (_ *Browser, err error) {
	program, err := find()
	if err != nil {
		return nil, err
	}
	b := new(Browser)
	if b.dir, err = os.MkdirTemp("", "vehicle-browser-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.start(program); err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	return b, b.pipe.call(ctx, "", "Browser.getVersion", nil, nil)
}

func find() (string, error) {
	for _, name := range []string{
		"chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
		"/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNotInstalled
}

func (b *Browser) start(program string) error {
	b.cmd = exec.Command(program, //nolint:gosec,noctx // G204: the program that find knows; it outlives the call
		"--headless", "--remote-debugging-pipe", "--user-data-dir="+filepath.Join(b.dir, "profile"),
		"--no-sandbox", // which root cannot have, nor can most containers; it is for pages that are our own
		"--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
		// A tab behind another is to run like the one in front.
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
		"about:blank")
	b.cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir, "XDG_CACHE_HOME="+b.dir)
	b.cmd.WaitDelay = 5 * time.Second
	commands, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	answers, theirs, err := os.Pipe()
	if err != nil {
		return errors.Join(err, commands.Close(), ours.Close())
	}
	b.cmd.ExtraFiles = []*os.File{commands, theirs} // its file descriptors 3 and 4
	err = b.cmd.Start()
	err = errors.Join(err, commands.Close(), theirs.Close())
	b.pipe = newPipe(ours, answers)
	if err != nil {
		return errors.Join(err, b.pipe.close())
	}
	return nil
}

// Close ends the browser and removes what it has kept.
func (b *Browser) Close() error {
	var err error
	if b.cmd != nil && b.cmd.Process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if b.pipe.call(ctx, "", "Browser.close", nil, nil) != nil {
			_ = b.cmd.Process.Kill()
		}
		defer time.AfterFunc(5*time.Second, func() { _ = b.cmd.Process.Kill() }).Stop()
		_ = b.cmd.Wait() // how it ends does not matter
		err = b.pipe.close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}
