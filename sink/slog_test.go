package sink_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink"
)

func TestSlogLogsALifeInTwoLines(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := sink.Slog(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	fixedLife(t, s, nil)
	fixedLife(t, s, errors.New("timed out"))
	nobody := vehicle.Command{ID: fixedCommand.ID, VehicleID: uuid.Nil, Name: "ClearDTC"}
	mustDo(t, s.Begin(t.Context(), nobody))

	const (
		ids   = `command_id=6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11 vehicle_id=123e4567-e89b-42d3-a456-426614174000 command="ReadDTC <all>" user_id=9b2f0c61-57a5-4f4e-8f0e-2f5d8f5b7a10`
		begun = `level=INFO msg="command begun" ` + ids
		ended = `level=INFO msg="command ended" ` + ids
	)
	want := []string{
		begun,
		ended + ` status=completed chunks=2 replayed=1 attempts=2 duration=1.5s`,
		begun,
		ended + ` status=failed chunks=2 replayed=1 attempts=2 duration=1.5s error="timed out"`,
		`level=INFO msg="command begun" command_id=6f1a7c58-3a58-4b0e-9d5e-0c8f2b1d4e11 vehicle_id=00000000-0000-0000-0000-000000000000 command=ClearDTC`,
		"",
	}
	if diff := cmp.Diff(want, strings.Split(log.String(), "\n")); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

// withWho adds what the context says to each record, as the handlers do that know of traces.
type withWho struct{ slog.Handler }

type whoKey struct{}

func (h withWho) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(slog.Any("who", ctx.Value(whoKey{})))
	return h.Handler.Handle(ctx, r)
}

func TestSlogHandsOnTheContext(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := sink.Slog(slog.New(withWho{slog.NewTextHandler(&log, nil)}))
	if err := live(context.WithValue(t.Context(), whoKey{}, "garage"), s); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if got := strings.Count(log.String(), " who=garage\n"); got != 2 {
		t.Errorf("got %q, want what the call's ctx has in both lines", log.String())
	}
}

func TestSlogWithoutALoggerIsSilent(t *testing.T) {
	t.Parallel()
	if err := live(t.Context(), sink.Slog(nil)); err != nil {
		t.Errorf("got error %v, want none", err)
	}
}
