package redissink_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestSinkConforms(t *testing.T) {
	t.Parallel()
	rdb := connect(t, sharedURL)
	t.Run("with streams", func(t *testing.T) {
		t.Parallel()
		vehicletest.TestSink(t, func(t *testing.T) vehicletest.Harness {
			return vehicletest.Harness{Sink: newSink(t, rdb, streams()), Read: reader{rdb}.read}
		})
	})
	t.Run("without streams", func(t *testing.T) {
		t.Parallel()
		vehicletest.TestSink(t, func(t *testing.T) vehicletest.Harness {
			return vehicletest.Harness{Sink: newSink(t, rdb)}
		})
	})
}

// reader reads what a command's stream has at the moment.
type reader struct{ rdb redis.UniversalClient }

func (r reader) read(ctx context.Context, id uuid.UUID) ([]vehicle.Chunk, vehicle.Status, error) {
	entries, err := r.rdb.XRange(ctx, redissink.StreamOf(id), "-", "+").Result()
	if err != nil || len(entries) == 0 {
		return nil, "", err
	}
	var chunks []vehicle.Chunk
	status := vehicle.StatusInProgress
	for _, entry := range entries {
		text, _ := entry.Values["e"].(string)
		if text == "" { // the mark of the beginning
			continue
		}
		var e redissink.Event
		if err := e.UnmarshalJSON([]byte(text)); err != nil {
			return nil, "", err
		}
		if e.Event != "response" {
			status = e.Status
			continue
		}
		chunks = append(chunks, vehicle.Chunk{CommandID: e.CommandID, Seq: e.Seq, Payload: e.Payload, Final: e.Final})
	}
	return chunks, status, nil
}
