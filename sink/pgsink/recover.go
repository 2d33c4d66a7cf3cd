package pgsink

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Recover ends the commands that a crashed process left in progress: it moves those to failed that were submitted, and
// last answered, longer than olderThan ago and are not running in this Sink, adds their rows to the audit
// trail, and returns how many they were; beside an error, how many so far. One that the database refuses to change, because of a constraint
// or a trigger, say, is passed over, and is the error after the others; so is one that it kept waiting until a timeout of the session's,
// but after two such in a row Recover gives up. Call it at start, and from time to time where there are several processes.
//
// The commands of other processes are known by their rows alone: choose olderThan longer than a command
// may wait before it begins and may take to answer. One whose submitted_at is NULL counts as submitted long ago. A living
// command that is caught has its status put right when it ends.
func (s *Sink) Recover(ctx context.Context, olderThan time.Duration) (int64, error) {
	var total int64
	var last uuid.UUID // the batches go through the commands in the order of their ids
	var refused error  // of the first that was passed over
	inVain := false    // the last one was, after a wait
	for limit := recoverBatch; ; {
		next := last
		found, n, err := s.recoverBatch(ctx, olderThan, &next, limit)
		total += n
		switch {
		case err != nil && !oneAtFault(err), found == 0, found == 1 && inVain && waited(err):
			return total, cmp.Or(newDBError(err), refused)
		case err != nil && found > 1: // which, is found by dividing them
			limit = found / 2
			continue
		case err != nil:
			refused = cmp.Or(refused, error(&dbError{text: fmt.Sprintf("command %s cannot be recovered: %s", next, describe(err)), cause: err}))
		case found < limit:
			return total, refused
		}
		last, limit, inVain = next, min(2*limit, recoverBatch), waited(err)
	}
}

// waited says whether the database gave up a statement after a while. Each command may then be in for the same.
func waited(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == codeLockNotAvailable || pg.Code == codeCanceled)
}

// oneAtFault says whether a batch failed because of one of its commands, as far as one can know.
func oneAtFault(err error) bool {
	v := judge(err, true)
	return errors.As(err, new(*pgconn.PgError)) && (v == blame || v == stuck)
}

const (
	recoverBatch   = 500
	recoverMessage = "interrupted: the process that ran the command ended before the command did"
)

// recoverBatch looks at the next commands after last.
func (s *Sink) recoverBatch(ctx context.Context, olderThan time.Duration, last *uuid.UUID, limit int) (found int, n int64, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.queries.stale, olderThan.Microseconds(), last.String(), limit)
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
