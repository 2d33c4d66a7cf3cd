package pgsink

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Recover ends the commands that a crashed process left in progress: it moves those to failed that were submitted, and
// last answered, longer than olderThan ago and are not running in this Sink, adds their rows to the audit
// trail, and returns how many they were; beside an error, how many so far. Call it at start, and from time to time where there are several
// processes.
//
// The commands of other processes are known by their rows alone: choose olderThan longer than a command
// may wait before it begins and may take to answer. One whose submitted_at is NULL counts as submitted long ago. A living
// command that is caught has its status put right when it ends.
func (s *Sink) Recover(ctx context.Context, olderThan time.Duration) (int64, error) {
	var total int64
	var last uuid.UUID // the batches go through the commands in the order of their ids
	for {
		found, n, err := s.recoverBatch(ctx, olderThan, &last)
		total += n
		if err != nil {
			return total, newDBError(err)
		}
		if found < recoverBatch {
			return total, nil
		}
	}
}

const (
	recoverBatch   = 500
	recoverMessage = "interrupted: the process that ran the command ended before the command did"
)

// recoverBatch looks at the next commands after last.
func (s *Sink) recoverBatch(ctx context.Context, olderThan time.Duration, last *uuid.UUID) (found int, n int64, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.queries.stale, olderThan.Microseconds(), last.String(), recoverBatch)
		if err != nil {
			return err
		}
		ids, err := collectIDs(rows)
		if err != nil {
			return err
		}
		found = len(ids)
		stale := s.notRunning(ids, last)
		n, err = s.failStale(ctx, tx, stale, olderThan)
		return err
	})
	if err != nil {
		n = 0
	}
	return found, n, err
}

// notRunning leaves out the commands of this process. Their rows are locked by now: a command that is not
// running yet will not begin before we are done.
func (s *Sink) notRunning(ids map[uuid.UUID]bool, last *uuid.UUID) []uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stale []uuid.UUID
	for id := range ids {
		if s.runs[id] == nil {
			stale = append(stale, id)
		}
		if id.String() > last.String() {
			*last = id
		}
	}
	return stale
}

func (s *Sink) failStale(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, olderThan time.Duration) (int64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	commands := make([]pgtype.UUID, len(ids))
	logs := make([]pgtype.UUID, len(ids))
	for i, id := range ids {
		commands[i] = toUUID(id)
		logs[i] = toUUID(auditID(id, "command_failed"))
	}
	message, err := json.Marshal(recoverMessage)
	if err != nil {
		return 0, err
	}
	now := toTime(time.Now())
	tag, err := tx.Exec(ctx, s.queries.failStale, commands, recoverMessage, now, olderThan.Microseconds())
	if err != nil {
		return 0, fmt.Errorf("recovering commands: %w", err)
	}
	_, err = tx.Exec(ctx, s.queries.auditStale, logs, commands, string(message), now)
	return tag.RowsAffected(), err
}
