package sink

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// Slog logs a command's life in two lines at Info, "command begun" and "command ended", and never
// fails. Both have the attributes command_id, vehicle_id, command (its name) and, where it is known,
// user_id; the second also status, chunks, replayed, attempts, duration and, for a failed command,
// error. Payloads and parameters are never logged. A nil logger logs nothing.
//
// What "command ended" says is what the sinks before this one made of the command: put Slog last in a
// [Chain] to have their failures in the log.
func Slog(logger *slog.Logger) vehicle.Sink {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return slogSink{logger}
}

type slogSink struct{ logger *slog.Logger }

func (s slogSink) Begin(ctx context.Context, cmd vehicle.Command) error {
	s.logger.LogAttrs(ctx, slog.LevelInfo, "command begun", identity(cmd)...)
	return nil
}

func (s slogSink) Write(context.Context, []vehicle.Chunk) error { return nil }

func (s slogSink) End(ctx context.Context, res vehicle.Result) error {
	attrs := append(identity(res.Command),
		slog.String("status", string(res.Status)),
		slog.Int("chunks", res.Chunks),
		slog.Int("replayed", res.Replayed),
		slog.Int("attempts", res.Attempts),
		slog.Duration("duration", res.FinishedAt.Sub(res.StartedAt).Round(time.Microsecond)),
	)
	if res.Err != nil {
		attrs = append(attrs, slog.String("error", res.Err.Error()))
	}
	s.logger.LogAttrs(ctx, slog.LevelInfo, "command ended", attrs...)
	return nil
}

func identity(cmd vehicle.Command) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("command_id", cmd.ID.String()),
		slog.String("vehicle_id", cmd.VehicleID.String()),
		slog.String("command", cmd.Name),
	}
	if cmd.UserID != uuid.Nil {
		attrs = append(attrs, slog.String("user_id", cmd.UserID.String()))
	}
	return attrs
}
