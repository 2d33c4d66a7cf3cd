package pgsink_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/servers"
	"github.com/sovd-go/vehicle/sink/pgsink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// Many commands at once, while PostgreSQL crashes and is started again, its backends are killed, and the link to the
// vehicles is cut: every command completes, with each of its chunks once, and one audit row.
func TestChaos(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		commands int
		chunks   int // of each
		opts     []pgsink.Option
	}{
		{"by default", 500, 12, nil},
		{"with claims", 100, 12, []pgsink.Option{pgsink.WithClaim()}},
		{"with long answers", 4, 12_000, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			testChaos(t, test.commands, test.chunks, test.opts...)
		})
	}
}

func testChaos(t *testing.T, commands, chunks int, opts ...pgsink.Option) {
	t.Helper()
	pg := privateServer(t)
	db := newAppDatabase(t, pg.URL())
	payloads := func(id string) []string {
		texts := make([]string, chunks)
		for i := range texts {
			texts[i] = fmt.Sprintf(`"%s %d"`, id, i)
		}
		return texts
	}
	server := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
		var script vehicletest.Script
		texts := payloads(r.Command.GetCommandId())
		for i, text := range texts[:chunks-1] {
			script = append(script, vehicletest.Send(text))
			if i >= int(r.ResumeFrom) && i%(chunks/12) == 0 { // what is sent again comes without delay
				script = append(script, vehicletest.Delay(rand.N(200*time.Millisecond)))
			}
		}
		return append(script, vehicletest.Answer(texts[chunks-1]))
	}))
	client := server.Client(t,
		vehicle.WithSink(db.newSink(opts...)),
		vehicle.WithRetry(vehicle.RetryPolicy{MaxRetries: 50, TimeoutRetries: 5, BaseDelay: 10 * time.Millisecond, MaxDelay: 200 * time.Millisecond}),
	)

	cmds := make([]vehicle.Command, commands)
	for i := range cmds {
		cmds[i] = newCommand()
		db.submit(cmds[i])
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running, trouble sync.WaitGroup
	for _, cmd := range cmds {
		running.Go(func() {
			if _, err := client.Execute(t.Context(), cmd); err != nil {
				t.Error(err)
			}
		})
	}
	trouble.Go(func() { crash(ctx, t, pg, 3) })
	trouble.Go(func() { killBackends(ctx, pg.URL()) })
	trouble.Go(func() { cutLink(ctx, server) })
	running.Wait()
	cancel()
	trouble.Wait()
	for _, cmd := range cmds {
		want := stored{Status: "completed", Completed: true, Chunks: payloads(cmd.ID.String()), Audit: []string{"command_completed"}}
		if diff := cmp.Diff(want, db.stored(cmd.ID)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

// every calls do so many times, unless ctx ends before.
func every(ctx context.Context, d time.Duration, times int, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for range times {
		select {
		case <-tick.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

func crash(ctx context.Context, t *testing.T, pg *servers.Postgres, times int) {
	t.Helper()
	for range times {
		if err := pg.Crash(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		if err := pg.Start(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
			return
		}
	}
}

func killBackends(ctx context.Context, url string) {
	every(ctx, 50*time.Millisecond, 40, func() {
		_ = onServer(ctx, url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND random() < 0.5`) // it may be down
	})
}

func cutLink(ctx context.Context, server *vehicletest.Server) {
	every(ctx, 300*time.Millisecond, 6, server.CutConnections)
}
