package pgsink

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// History iterates what is stored of a command's answer, in order: the chunks of one run, as they were
// when the loop began. It yields nothing for a command that is not known. An error is yielded once and last. Timestamp is
// zero: the tables have no column for it. So is ReceivedAt where others wrote NULL or infinity. A payload is the same JSON value that
// was written; its text differs as jsonb's does, in white space, in the order of keys and in the spelling of numbers.
//
// Chunks are read while the loop runs, which holds a connection of the pool until then.
func (s *Sink) History(ctx context.Context, commandID uuid.UUID) iter.Seq2[vehicle.Chunk, error] {
	return func(yield func(vehicle.Chunk, error) bool) {
		rows, err := s.pool.Query(ctx, s.queries.history, commandID.String())
		if err != nil {
			yield(vehicle.Chunk{}, newDBError(err))
			return
		}
		defer rows.Close()
		if err := checkEncoding(rows.Conn()); err != nil {
			yield(vehicle.Chunk{}, err)
			return
		}
		for rows.Next() {
			var vehicleID string
			var payload []byte
			var at *int64 // in microseconds
			c := vehicle.Chunk{CommandID: commandID}
			err := rows.Scan(&vehicleID, &payload, &c.Seq, &c.Final, &at)
			if err == nil {
				c.VehicleID, err = uuid.Parse(vehicleID)
			}
			if err != nil {
				yield(vehicle.Chunk{}, fmt.Errorf("pgsink: a stored chunk could not be read: %T", err)) // its text may quote the row
				return
			}
			if at != nil {
				c.ReceivedAt = time.UnixMicro(*at).UTC()
			}
			c.Payload = json.RawMessage(unwrap(payload))
			if !yield(c, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(vehicle.Chunk{}, newDBError(err))
		}
	}
}
