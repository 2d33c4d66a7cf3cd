package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/vehicletest"
)

// rig is the connector as a process, with a vehicle service that it reaches by mutual TLS, PostgreSQL, Redis, and a
// Prometheus that scrapes it every second.
type rig struct {
	vehicles   *vehicletest.Server
	redis      *servers.Redis
	connector  string // its URL
	prometheus api

	away    atomic.Bool // the vehicle service refuses everybody
	closers []func() error
}

//go:embed alerts.yaml
var alerts []byte

func startRig(ctx context.Context) (_ *rig, err error) {
	r := new(rig)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	dir, err := os.MkdirTemp("", "vehicle-observability-")
	if err != nil {
		return nil, err
	}
	r.closeLater(func() error { return os.RemoveAll(dir) })
	ca, err := vehicletest.MakeCA(filepath.Join(dir, "certs"))
	if err != nil {
		return nil, err
	}
	if r.vehicles, err = vehicletest.Start(vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca), vehicletest.WithHistory(1000),
		vehicletest.WithResponder(r.respond())); err != nil {
		return nil, err
	}
	r.closeLater(r.vehicles.Close)
	pg, err := servers.StartPostgres(ctx)
	if err != nil {
		return nil, err
	}
	r.closeLater(pg.Close)
	if r.redis, err = servers.StartRedis(ctx); err != nil {
		return nil, err
	}
	r.closeLater(r.redis.Close)
	if err := r.startConnector(ctx, dir,
		"DATABASE_URL="+pg.URL(), "REDIS_URL="+r.redis.URL(), "LISTEN_ADDR=127.0.0.1:0", "VEHICLE_ENDPOINT_URL="+r.vehicles.Target(),
		"VEHICLE_USE_TLS=true", "VEHICLE_TLS_CERT_DIR="+ca.Dir(), "VEHICLE_RETRY_BASE_DELAY=0.4"); err != nil {
		return nil, err
	}
	return r, r.startPrometheus(ctx, dir)
}

// startConnector builds the connector, runs it and waits until it listens.
func (r *rig) startConnector(ctx context.Context, dir string, env ...string) error {
	program := filepath.Join(dir, "connector")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/sovd-go/vehicle/examples/connector").CombinedOutput(); err != nil {
		return fmt.Errorf("building the connector: %w\n%s", err, out)
	}
	cmd := exec.Command(program, "-migrate", "-grace", "1s") //nolint:noctx // it runs until close
	cmd.Env = append(os.Environ(), env...)
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	urls := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() { readURL(log, urls) })
	r.closeLater(func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		reading.Wait()
		return errors.Join(err, cmd.Wait())
	})
	select {
	case url, ok := <-urls:
		if !ok {
			return errors.New("the connector has ended")
		}
		r.connector = url
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readURL reads the connector's log to its end, and hands out the address that it says.
func readURL(log io.Reader, urls chan<- string) {
	defer close(urls)
	address := regexp.MustCompile(`msg=listening url=(\S+)`)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			urls <- m[1]
		}
	}
}

func (r *rig) startPrometheus(ctx context.Context, dir string) error {
	rules := filepath.Join(dir, "alerts.yaml")
	if err := os.WriteFile(rules, alerts, 0o600); err != nil {
		return err
	}
	p, err := servers.StartPrometheus(ctx, fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: connector
    static_configs: [{targets: [%q]}]
`, rules, strings.TrimPrefix(r.connector, "http://")))
	if err != nil {
		return fmt.Errorf("starting Prometheus (Debian, Ubuntu: apt-get install prometheus; macOS: brew install prometheus): %w", err)
	}
	r.closeLater(p.Close)
	r.prometheus = api(p.URL())
	return nil
}

func (r *rig) closeLater(c func() error) { r.closers = append(r.closers, c) }

// close ends everything, the latest first.
func (r *rig) close() error {
	http.DefaultClient.CloseIdleConnections()
	var errs []error
	for _, c := range slices.Backward(r.closers) {
		errs = append(errs, c())
	}
	r.closers = nil
	return errors.Join(errs...)
}

func (r *rig) cutLink() { r.vehicles.CutConnections() }

// longCommand answers in many chunks, so that there is something to cut.
const longCommand = "ReadDTCSnapshots"

// respond is the built-in vehicles, and longCommand, at the pace of a slow bus.
func (r *rig) respond() vehicletest.Responder {
	fleet := vehicletest.NewFleet(0)
	var long vehicletest.Script
	for i := range 20 {
		long = append(long, vehicletest.Send(fmt.Sprintf(`{"status":"reading","snapshotRecord":"0x%02X","values":{"engineSpeed":%d}}`, i, 850+10*i)))
	}
	long = append(long, vehicletest.Answer(`{"status":"complete"}`))
	return func(request *vehicletest.Request) vehicletest.Script {
		if r.away.Load() {
			return vehicletest.Script{vehicletest.Fail(codes.Unavailable, "no vehicle can be reached")}
		}
		steps := long
		if request.Command.GetCommandName() != longCommand {
			steps = fleet.Respond(request)
		}
		var script vehicletest.Script
		if request.Try%2 == 0 { // the others send everything again
			script = append(script, vehicletest.Resume())
		}
		for i, step := range steps {
			if i >= int(request.ResumeFrom) {
				script = append(script, vehicletest.Delay(50*time.Millisecond))
			}
			script = append(script, step)
		}
		return script
	}
}

// load posts a command at every interval, until the function that it returns is called.
func (r *rig) load(ctx context.Context, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var loading sync.WaitGroup
	loading.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
				loading.Go(func() { _ = r.post(ctx, n) }) // the metrics show what came of it
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		loading.Wait()
	}
}

func (r *rig) post(ctx context.Context, n int) error {
	name, params := "ReadDTC", "{}"
	switch n % 4 {
	case 1:
		name, params = "ReadDataByID", `{"dataId":"0xF405"}`
	case 2, 3:
		name = longCommand
	}
	body := fmt.Sprintf(`{"vehicle_id":"123e4567-e89b-42d3-a456-%012d","command_name":%q,"command_params":%s}`, n%100+1, name, params)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.connector+"/commands", bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}
