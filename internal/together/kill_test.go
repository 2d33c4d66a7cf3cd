package together_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// A process of this test binary with these variables is a worker: a backend that runs the commands of a space, and says a
// line for each that has completed.
const (
	workerDatabase = "TOGETHER_TEST_DATABASE_URL"
	workerRedis    = "TOGETHER_TEST_REDIS_URL"
	workerVehicles = "TOGETHER_TEST_VEHICLES"
	workerSpace    = "TOGETHER_TEST_SPACE"
)

const workerCommands, workerChunks = 100, 20

// work is the worker's main.
func work() int {
	if err := runCommands(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runCommands(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv(workerDatabase))
	if err != nil {
		return err
	}
	defer pool.Close()
	opt, err := redis.ParseURL(os.Getenv(workerRedis))
	if err != nil {
		return err
	}
	rdb := redis.NewClient(opt)
	defer rdb.Close()
	all, closeAll := chain(pool, rdb)
	client, err := vehicle.New(os.Getenv(workerVehicles), vehicle.WithInsecure(), patient(), vehicle.WithSink(all))
	if err != nil {
		return err
	}
	space, err := uuid.Parse(os.Getenv(workerSpace))
	if err != nil {
		return err
	}
	cmds := func(yield func(vehicle.Command) bool) {
		for _, i := range rand.Perm(workerCommands) {
			if !yield(command(space, i)) {
				return
			}
		}
	}
	for _, err := range client.ExecuteAll(ctx, cmds, vehicle.WithConcurrency(workerCommands/2)) {
		if err != nil {
			return err
		}
		fmt.Println("completed")
	}
	return errors.Join(client.Close(), closeAll())
}

// A backend is killed in mid-run, several times, and started again with the same commands. In the end each has its rows,
// once, and whoever followed one through it all has its events.
func TestABackendThatIsKilledAndStartedAgainRunsTheSameCommands(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	gateway := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
		var script vehicletest.Script
		id := r.Command.GetCommandId()
		for i := range workerChunks - 1 {
			script = append(script, vehicletest.Send(payload(id, i)), vehicletest.Delay(rand.N(10*time.Millisecond)))
		}
		return append(script, vehicletest.Answer(payload(id, workerChunks-1)))
	}))
	space := uuid.New()
	worker := func() (_ *exec.Cmd, lines *bufio.Scanner) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), workerDatabase+"="+s.postgres.URL(), workerRedis+"="+s.redis.URL(),
			workerVehicles+"="+gateway.Target(), workerSpace+"="+space.String())
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, bufio.NewScanner(out)
	}
	var followers sync.WaitGroup
	for i := range workerCommands {
		followers.Go(func() { s.followAnyRun(command(space, i).ID, workerChunks) })
	}
	for run, killAfter := range []int{1, workerCommands / 4, workerCommands / 2} {
		cmd, lines := worker()
		done := 0
		for done < killAfter && lines.Scan() {
			done++
		}
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		if done < killAfter {
			t.Fatalf("run %d ended after %d commands, before it was killed", run, done)
		}
	}
	states, _ := s.stored()
	interrupted := 0
	for _, state := range states {
		if state == "in_progress" {
			interrupted++
		}
	}
	if interrupted == 0 {
		t.Error("no command was interrupted")
	}

	cmd, lines := worker()
	done := 0
	for lines.Scan() {
		done++
	}
	if err := cmd.Wait(); err != nil || done != workerCommands {
		t.Errorf("the last run: got %d commands, %v, want %d", done, err, workerCommands)
	}
	followers.Wait()
	states, answers := s.stored()
	for i := range workerCommands {
		id := command(space, i).ID
		if got, want := states[id], "completed command_completed"; got != want {
			t.Errorf("command %d: got %q as its status and audit trail, want %q", i, got, want)
		}
		if diff := cmp.Diff(answer(id, workerChunks), answers[id]); diff != "" {
			t.Fatalf("command %d: its rows (-want +got):\n%s", i, diff)
		}
	}
}

// followAnyRun follows a command to its end, and begins again where the command does.
func (s *stage) followAnyRun(id uuid.UUID, chunks int) {
	for {
		var got []row
		var failure error
		for e, err := range redissink.Follow(s.tb.Context(), s.rdb, id) {
			if failure = err; err == nil && e.Event == "response" {
				got = append(got, row{ID: e.ResponseID, Payload: string(e.Payload), Seq: e.Seq, Final: e.Final})
			}
		}
		if errors.Is(failure, redissink.ErrRestarted) {
			continue
		}
		if diff := cmp.Diff(answer(id, chunks), got); diff != "" || failure != nil {
			s.tb.Errorf("got error %v and the events (-want +got):\n%s", failure, diff)
		}
		return
	}
}
