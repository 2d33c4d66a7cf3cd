package redissink_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/internal/lastly"
	"github.com/sovd-go/vehicle/sink/redissink"
)

// What is certain is published with the final chunk, and nothing comes with the End.
func TestTheEndIsPublishedWithTheFinalChunkWhereItIsCertain(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	for _, test := range []struct {
		name string
		opts []redissink.Option
		last bool
	}{
		{"the last sink", nil, true},
		{"the last sink, with streams", []redissink.Option{streams()}, true},
		{"one before another", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, cmd := newSink(t, rdb, test.opts...), newCommand()
			sub := rdb.Subscribe(t.Context(), "response:"+cmd.ID.String())
			defer sub.Close()
			_, err := sub.Receive(t.Context())
			must(t, err)
			next := func() string {
				t.Helper()
				msg, err := sub.ReceiveMessage(t.Context())
				must(t, err)
				kind, _, _ := strings.Cut(msg.Payload, `","command_id"`)
				return strings.TrimPrefix(kind, `{"event":"`)
			}
			chunks, res := answer(cmd, 2), completed(cmd)
			must(t, s.Begin(t.Context(), cmd))
			teller := lastly.NewTeller(&res)
			ctx := teller.Next(t.Context(), s, test.last)
			must(t, s.Write(ctx, chunks))
			if done := lastly.From(ctx).Done; done != test.last {
				t.Errorf("got done %t, want %t", done, test.last)
			}
			got := []string{next(), next()}
			if test.last {
				got = append(got, next())
			}
			must(t, s.End(t.Context(), res))
			if !test.last {
				got = append(got, next())
			}
			must(t, rdb.Publish(t.Context(), "response:"+cmd.ID.String(), "over").Err())
			if diff := cmp.Diff([]string{"response", "response", "status", "over"}, append(got, next())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A sink between has failed with its End: this one was not certain.
func TestAnEndThatWasToldAndDoesNotComeTrueIsAnError(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	for name, certain := range map[string]bool{"and was not certain": false, "and was certain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cmd := newSink(t, rdb, streams()), newCommand()
			must(t, s.Begin(t.Context(), cmd))
			res := completed(cmd)
			other := struct{ name string }{"a sink that has not done its End"}
			teller := lastly.NewTeller(&res)
			if !certain {
				_ = teller.Next(t.Context(), &other, false)
			}
			must(t, s.Write(teller.Next(t.Context(), s, true), answer(cmd, 1)))
			failed := res // sink.Chain leaves the time as it was
			failed.Status, failed.Err = vehicle.StatusFailed, errors.New("disk full")
			must(t, s.End(context.WithoutCancel(t.Context()), failed))
			got, err := collect(redissink.Follow(t.Context(), rdb, cmd.ID))
			must(t, err)
			if len(got) != 2 || got[1].Event != "error" {
				t.Errorf("got %+v, want a response and an error", got)
			}
		})
	}
}

// The Write with which the end was published may fail without anybody knowing that it was: followers that come later are told
// what came of the command, and not what was to be expected.
func TestAnEndThatWasPublishedByAWriteThatFailedIsWithdrawn(t *testing.T) {
	t.Parallel()
	direct, cmd := connect(t, sharedURL), newCommand()
	p, url := newProxy(t, sharedURL, "evalsha")
	s := newSink(t, connect(t, url, func(o *redis.Options) { o.MaxRetries = -1 }), streams(), redissink.WithRetryFor(-1))
	must(t, s.Begin(t.Context(), cmd))
	chunks, res := answer(cmd, 2), completed(cmd)
	must(t, s.Write(t.Context(), chunks[:1]))
	teller := lastly.NewTeller(&res)
	p.losing.Store(1)
	if err := s.Write(teller.Next(t.Context(), s, true), chunks[1:]); err == nil {
		t.Fatal("got no error from the Write whose answer is lost")
	}
	published, err := collect(redissink.Follow(t.Context(), direct, cmd.ID))
	must(t, err)
	if len(published) != 3 || published[2].Event != "status" {
		t.Fatalf("got %+v before the End, want two responses and a status", published)
	}
	must(t, s.End(t.Context(), vehicle.Result{Command: cmd, Status: vehicle.StatusFailed, Err: errors.New("no answer")}))
	got, err := collect(redissink.Follow(t.Context(), direct, cmd.ID))
	must(t, err)
	if len(got) != 3 || got[2].Event != "error" {
		t.Errorf("got %+v, want two responses and an error", got)
	}
}
