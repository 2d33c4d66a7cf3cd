package together_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

// 500 commands run at once, while PostgreSQL crashes, its backends are killed, Redis crashes, both crash together, and
// the link to the vehicles is cut all the time. Every command completes and is stored and announced in full, once. Each
// has a follower that joins at some time and looks, for each event, whether PostgreSQL has it too.
func TestChaos(t *testing.T) {
	t.Parallel()
	const commands, chunks = 500, 12
	s := newStage(t)
	calm := make(chan struct{}) // closed when the servers stay up
	gateway := vehicletest.NewServer(t, vehicletest.WithTCP(), vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
		return unsteady(r, chunks, calm)
	}))
	client := gateway.Client(t, patient(), vehicle.WithAttemptTimeout(time.Minute), vehicle.WithSink(s.newChain()))

	var work, weather sync.WaitGroup
	var attempts, replayed atomic.Int64
	space := uuid.New()
	for i := range commands {
		cmd := command(space, i)
		work.Go(func() {
			pause(t.Context(), rand.N(2*time.Second))
			res, err := client.Execute(t.Context(), cmd)
			if err != nil || res.Chunks != chunks {
				t.Errorf("command %d: got %d chunks, %v, want %d", i, res.Chunks, err, chunks)
			}
			attempts.Add(int64(res.Attempts))
			replayed.Add(int64(res.Replayed))
		})
		work.Go(func() {
			pause(t.Context(), rand.N(5*time.Second))
			s.followStored(cmd.ID, chunks)
		})
	}
	windy, stop := context.WithCancel(t.Context())
	weather.Go(func() {
		for ; windy.Err() == nil; pause(windy, rand.N(600*time.Millisecond)) {
			gateway.CutConnections()
		}
	})
	s.storm()
	close(calm)
	work.Wait()
	stop()
	weather.Wait()

	states, answers := s.stored()
	if got := len(states); got != commands {
		t.Errorf("got %d commands in the database, want %d", got, commands)
	}
	for i := range commands {
		id := command(space, i).ID
		if got, want := states[id], "completed command_completed"; got != want {
			t.Errorf("command %d: got %q as its status and audit trail, want %q", i, got, want)
		}
		if diff := cmp.Diff(answer(id, chunks), answers[id]); diff != "" {
			t.Fatalf("command %d: its rows (-want +got):\n%s", i, diff)
		}
	}
	if got := attempts.Load(); got <= commands || replayed.Load() == 0 {
		t.Errorf("got %d attempts and %d chunks that came again: the link was not cut", got, replayed.Load())
	}
}

// unsteady answers in parts, with a cut between them at times. Every eighth answer does not end before the weather is
// calm. Some vehicles resume where they are asked to, the others send all again.
func unsteady(r *vehicletest.Request, chunks int, calm <-chan struct{}) vehicletest.Script {
	id := r.Command.GetCommandId()
	var payloads []string
	for i := range chunks {
		payloads = append(payloads, payload(id, i))
	}
	first := 1 + rand.IntN(chunks-1)
	script := vehicletest.Script{vehicletest.Send(payloads[:first]...), vehicletest.Delay(rand.N(300 * time.Millisecond))}
	if resumes := id[0]%2 == 0; resumes {
		script = append(vehicletest.Script{vehicletest.Resume()}, script...)
	}
	if r.Try < 3 && rand.IntN(4) == 0 {
		return append(script, vehicletest.Cut())
	}
	if waits := id[1]%8 == 0; waits {
		script = append(script, vehicletest.Until(calm))
	}
	return append(script, vehicletest.Answer(payloads[first:]...))
}

// storm is what happens to the servers. They are up when it returns.
func (s *stage) storm() {
	postgres := func() {
		check(s.tb, s.postgres.Crash(s.tb.Context()))
		check(s.tb, s.postgres.Start(s.tb.Context()))
	}
	redis := func() {
		check(s.tb, s.redis.Crash(s.tb.Context()))
		check(s.tb, s.redis.Start(s.tb.Context()))
	}
	s.killBackends()
	postgres()
	redis()
	s.killBackends()
	var both sync.WaitGroup
	both.Go(postgres)
	both.Go(redis)
	both.Wait()
}

// killBackends kills half of the connections to PostgreSQL, several times.
func (s *stage) killBackends() {
	for range 5 {
		pause(s.tb.Context(), rand.N(200*time.Millisecond))
		conn, err := pgx.Connect(s.tb.Context(), s.postgres.URL())
		if err != nil {
			s.tb.Error(err)
			return
		}
		_, err = conn.Exec(s.tb.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < 0.5`)
		check(s.tb, errors.Join(err, conn.Close(context.Background())))
	}
}

// followStored follows a command to its end. What Redis announces must be committed by then.
func (s *stage) followStored(id uuid.UUID, chunks int) {
	want := answer(id, chunks)
	var got []row
	ended := false
	for e, err := range redissink.Follow(s.tb.Context(), s.rdb, id) {
		if err != nil {
			s.tb.Errorf("after %d events: %v", len(got), err)
			return
		}
		if ended = e.Event == "status" && e.Status == vehicle.StatusCompleted; ended {
			s.mustBeStored("a command that has ended", `SELECT EXISTS (SELECT 1 FROM commands JOIN audit_logs USING (command_id)
				WHERE command_id = $1::uuid AND status = 'completed' AND action = 'command_completed')`, id)
			break
		}
		s.mustBeStored("a chunk", `SELECT EXISTS (SELECT 1 FROM responses WHERE response_id = $1::uuid)`, e.ResponseID)
		got = append(got, row{ID: e.ResponseID, Payload: string(e.Payload), Seq: e.Seq, Final: e.Final})
	}
	if diff := cmp.Diff(want, got); diff != "" || !ended {
		s.tb.Errorf("the events, of which the last came: %t (-want +got):\n%s", ended, diff)
	}
}

// mustBeStored asks PostgreSQL until it answers, and fails the test if it answers false.
func (s *stage) mustBeStored(what, sql string, id uuid.UUID) {
	for {
		var is bool
		err := s.db.QueryRow(s.tb.Context(), sql, id.String()).Scan(&is)
		switch {
		case err == nil && !is:
			s.tb.Errorf("%s was announced and is not in the database", what)
			return
		case err == nil, s.tb.Context().Err() != nil:
			return
		}
		pause(s.tb.Context(), 20*time.Millisecond)
	}
}
