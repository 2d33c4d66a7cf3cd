package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// Prometheus is a private Prometheus server.
type Prometheus struct {
	dir     string
	port    int
	process *process
}

// StartPrometheus starts a server with this configuration (prometheus.yaml) and waits until it is ready. ctx bounds the
// start alone: the server runs until Close.
func StartPrometheus(ctx context.Context, config string) (*Prometheus, error) {
	path, err := findProgram("prometheus", "/opt/homebrew/bin", "/usr/local/bin")
	if err != nil {
		return nil, err
	}
	p := new(Prometheus)
	if p.dir, err = tempDir("prometheus", ""); err != nil {
		return nil, err
	}
	for range 5 { // others look for free ports too
		if err = p.start(ctx, path, config); err == nil {
			return p, nil
		}
	}
	return nil, errors.Join(err, p.Close())
}

func (p *Prometheus) start(ctx context.Context, path, config string) (err error) {
	if p.port, err = freePort(); err != nil {
		return err
	}
	file := filepath.Join(p.dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	process, err := startProcess(path, p.dir, "", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(p.dir, "data"),
		"--web.listen-address="+loopback(p.port), "--log.level=warn")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := process.waitReady(ctx, p.probe); err != nil {
		return errors.Join(err, process.stop(context.WithoutCancel(ctx), os.Kill))
	}
	p.process = process
	return nil
}

func (p *Prometheus) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+"/-/ready", nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("prometheus says %s", res.Status)
	}
	return errors.Join(err, res.Body.Close())
}

// URL is the server's.
func (p *Prometheus) URL() string { return "http://" + loopback(p.port) }

// Close stops the server and removes its data.
func (p *Prometheus) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	var err error
	if p.process != nil {
		err = p.process.stop(ctx, syscall.SIGTERM)
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
