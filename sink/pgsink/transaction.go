package pgsink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// transact does the operations, each of another command, in one transaction and one round trip. When it is committed,
// outcomes has the errors of operations that changed nothing. Otherwise alive says whether the connection survived.
func (s *Sink) transact(ops []*op) (outcomes map[*op]error, alive bool, err error) {
	conn, err := s.acquire()
	if err != nil {
		return nil, false, err
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeoutCause(s.ctx, attemptTime, errAttemptTime)
	defer cancel()

	s.divide(ops)
	t := newTransaction(&s.queries, ops)
	if err := t.run(ctx, conn); err != nil {
		if alive = s.rollback(ctx, conn); !alive {
			t.doubt()
		}
		return nil, alive, s.orClosed(ctx, err)
	}
	outcomes, err = t.outcomes(ctx, conn)
	if len(t.begins) > 0 {
		s.there.Store(t.there)
	}
	if err != nil {
		t.doubt()
		return nil, !conn.Conn().IsClosed(), s.orClosed(ctx, err)
	}
	return outcomes, true, nil
}

// doubt notes that its commands may have begun: that has to be found out even where their callers are gone.
func (t *transaction) doubt() {
	for _, o := range t.begins {
		o.begin.again = true
	}
}

func (s *Sink) acquire() (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, acquireTime, errNoConnection)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, s.orClosed(ctx, err)
	}
	if err := checkEncoding(conn.Conn()); err != nil {
		conn.Release()
		return nil, err
	}
	return conn, nil
}

// orClosed puts the reason why ctx ended in the place of an error that only says that it did.
func (s *Sink) orClosed(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() == nil:
		return err
	case s.ctx.Err() != nil:
		return ErrClosed
	default:
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
}

// rollback makes the connection fit for others after a failure, and says whether it is.
func (s *Sink) rollback(ctx context.Context, conn *pgxpool.Conn) bool {
	if conn.Conn().IsClosed() {
		return false
	}
	if conn.Conn().PgConn().TxStatus() != 'I' {
		_, err := conn.Exec(ctx, "rollback")
		return err == nil
	}
	return true
}

// transaction is a group of operations, sorted by kind and by command.
type transaction struct {
	queries *queries
	batch   pgx.Batch

	begins, writes, ends, settles, revokes []*op
	there                                  bool // rows of commands that begin are there, or are looked for

	inserted, started, written int64              // rows
	ended                      int                // commands
	winners                    map[uuid.UUID]bool // of the claims
}

func newTransaction(q *queries, ops []*op) *transaction {
	t := &transaction{queries: q}
	ops = slices.SortedFunc(slices.Values(ops), func(a, b *op) int { return bytes.Compare(a.command[:], b.command[:]) })
	for _, o := range ops {
		switch {
		case o.begin != nil:
			t.begins = append(t.begins, o)
		case o.settle != "":
			t.settles = append(t.settles, o)
		}
		if o.rows != nil {
			t.writes = append(t.writes, o)
		}
		if o.end != nil {
			t.ends = append(t.ends, o)
			if o.end.revoked != nil {
				t.revokes = append(t.revokes, o)
			}
		}
	}
	t.there = slices.ContainsFunc(t.begins, func(o *op) bool { return o.begin.there })
	t.batch.Queue(q.begin)
	if !t.there && len(t.begins) > 0 {
		t.batch.Queue(q.patience)
		t.queueInserts()
	}
	if locked := t.toLock(ops); len(locked) > 0 {
		t.batch.Queue(q.lock, column(locked, command))
	}
	if t.there {
		t.queueBegins()
	}
	t.queueSettles()
	if t.fresh() {
		t.queueFresh()
	} else {
		t.queueWrites()
		t.queueRevokes()
		t.queueEnds()
	}
	t.batch.Queue(q.commit)
	return t
}

// toLock are the operations whose rows a statement of its own has to lock.
func (t *transaction) toLock(ops []*op) []*op {
	switch {
	case t.there:
		return ops
	case t.fresh() && len(t.settles) == 0:
		return nil // writeAndEnd locks them
	default:
		return slices.DeleteFunc(ops, func(o *op) bool { return o.begin != nil })
	}
}

// array is a parameter whose elements pgx takes as they are. Of other slices it takes each by reflection, or puts it on the heap.
type array[T any] = pgtype.FlatArray[*T]

// column makes an array of what f gives for each operation.
func column[T any](ops []*op, f func(*op) T) array[T] {
	values, elements := make([]T, len(ops)), make(array[T], len(ops))
	for i, o := range ops {
		values[i] = f(o)
		elements[i] = &values[i]
	}
	return elements
}

func command(o *op) pgtype.UUID { return toUUID(o.command) }

// texts and times are columns of what f gives.
func texts(ops []*op, f func(*op) string) array[pgtype.Text] {
	return column(ops, func(o *op) pgtype.Text { return pgtype.Text{String: f(o), Valid: true} })
}

func times(ops []*op, f func(*op) time.Time) array[pgtype.Timestamptz] {
	return column(ops, func(o *op) pgtype.Timestamptz { return pgtype.Timestamptz{Time: f(o), Valid: !f(o).IsZero()} })
}

// queueInserts begins commands whose rows are not there, and so are in nobody's way: what another run has stored of one
// hangs on its row.
func (t *transaction) queueInserts() {
	if ops := t.begins; len(ops) > 0 {
		t.batch.Queue(t.queries.insert,
			column(ops, command),
			column(ops, func(o *op) pgtype.UUID { return toNullUUID(o.begin.cmd.UserID) }),
			column(ops, func(o *op) pgtype.UUID { return toUUID(o.begin.cmd.VehicleID) }),
			texts(ops, func(o *op) string { return o.begin.cmd.Name }),
			texts(ops, func(o *op) string { return o.begin.params }),
		).Exec(func(tag pgconn.CommandTag) error { t.inserted += tag.RowsAffected(); return nil })
	}
}

func (t *transaction) queueBegins() {
	ops, q := t.begins, t.queries
	if len(ops) == 0 {
		return
	}
	commands := column(ops, command)
	users := column(ops, func(o *op) pgtype.UUID { return toNullUUID(o.begin.cmd.UserID) })
	vehicles := column(ops, func(o *op) pgtype.UUID { return toUUID(o.begin.cmd.VehicleID) })
	names := texts(ops, func(o *op) string { return o.begin.cmd.Name })
	params := texts(ops, func(o *op) string { return o.begin.params })
	if ops[0].begin.token == "" {
		t.batch.Queue(q.start, commands).Exec(func(tag pgconn.CommandTag) error { t.started = tag.RowsAffected(); return nil })
		t.queueInserts()
		return
	}
	tokens := texts(ops, func(o *op) string { return o.begin.token })
	t.batch.Queue(q.claim, commands, tokens)
	t.batch.Queue(q.insertClaimed, commands, users, vehicles, names, params, tokens)
	t.batch.Queue(q.claimed, commands, tokens).Query(func(rows pgx.Rows) (err error) {
		t.winners, err = collectIDs(rows)
		return err
	})
	t.batch.Queue(q.dropClaimed, commands, tokens)
}

func (t *transaction) queueSettles() {
	if len(t.settles) > 0 {
		t.batch.Queue(t.queries.settle, column(t.settles, command), texts(t.settles, func(o *op) string { return o.settle }))
	}
}

// fresh says whether all that is written are whole answers, for the first time, to commands that are new.
func (t *transaction) fresh() bool {
	return len(t.writes) > 0 && len(t.writes) == len(t.ends) &&
		!slices.ContainsFunc(t.writes, func(o *op) bool { return o.end == nil || !o.end.fresh || o.rows.repeated })
}

func (t *transaction) queueFresh() {
	args, _ := t.rowColumns()
	t.batch.Queue(t.queries.writeAndEnd, append(args,
		times(t.ends, func(o *op) time.Time { return o.end.at }),
		column(t.ends, func(o *op) pgtype.UUID { return o.end.auditID }),
		texts(t.ends, func(o *op) string { return o.end.details }))...,
	).Exec(func(tag pgconn.CommandTag) error { t.ended = int(tag.RowsAffected()); return nil })
}

// rowColumns are what is to be written, and how many rows that are.
func (t *transaction) rowColumns() (columns []any, n int) {
	for _, o := range t.writes {
		n += len(o.rows.all)
	}
	var (
		ids      = make(array[pgtype.UUID], 0, n)
		payloads = make(array[pgtype.Text], 0, n)
		seqs     = make([]int32, 0, n)
		finals   = make([]bool, 0, n)
		times    = make(array[pgtype.Timestamptz], 0, n)
		runs     = make([]int32, 0, n) // which of the commands each row belongs to, from 1
	)
	run := int32(0)
	for _, o := range t.writes {
		run++
		for i := range o.rows.all {
			r := &o.rows.all[i]
			ids = append(ids, &r.id)
			payloads = append(payloads, &r.payload)
			seqs = append(seqs, r.seq)
			finals = append(finals, r.final)
			times = append(times, &r.at)
			runs = append(runs, run)
		}
	}
	return []any{ids, payloads, seqs, finals, times, runs, column(t.writes, command)}, n
}

func (t *transaction) queueWrites() {
	if len(t.writes) == 0 {
		return
	}
	args, n := t.rowColumns()
	first, repeated := true, false
	for _, o := range t.writes {
		first = first && !o.rows.mark.stored
		repeated = repeated || o.rows.repeated
	}
	query := t.queries.writeFirst
	if !first || repeated {
		query = t.queries.write
		if repeated {
			query = t.queries.rewrite
		}
		markIDs, markTimes, stored := marks(t.writes, func(o *op) mark { return o.rows.mark })
		args = append(args, markIDs, markTimes, stored)
	}
	t.batch.Queue(query, args...).Exec(func(tag pgconn.CommandTag) error { t.written = tag.RowsAffected() - int64(n); return nil })
}

// queueMine sets n to 1 where the operation's run has not been replaced.
func (t *transaction) queueMine(o *op, n *int) {
	ids, times, stored := marks([]*op{o}, func(o *op) mark { return o.rows.mark })
	t.batch.Queue(t.queries.mine, ids, times, stored).QueryRow(func(row pgx.Row) error { return row.Scan(n) })
}

func (t *transaction) queueEnds() {
	if len(t.ends) == 0 {
		return
	}
	commands, statuses, times := endColumns(t.ends)
	markIDs, markTimes, stored := marks(t.ends, func(o *op) mark { return o.end.mark })
	t.batch.Queue(t.queries.end, commands, statuses, texts(t.ends, func(o *op) string { return o.end.message }), times,
		markIDs, markTimes, stored,
		column(t.ends, func(o *op) pgtype.UUID { return o.end.auditID }),
		texts(t.ends, func(o *op) string { return o.end.action }),
		texts(t.ends, func(o *op) string { return o.end.details }),
	).QueryRow(func(row pgx.Row) error { return row.Scan(&t.ended) })
}

func (t *transaction) queueRevokes() {
	if len(t.revokes) > 0 {
		t.batch.Queue(t.queries.revoke,
			column(t.revokes, func(o *op) pgtype.UUID { return o.end.revoked.auditID }),
			times(t.revokes, func(o *op) time.Time { return o.end.revoked.at }))
	}
}

func endColumns(ops []*op) (commands array[pgtype.UUID], statuses array[pgtype.Text], at array[pgtype.Timestamptz]) {
	return column(ops, command),
		texts(ops, func(o *op) string { return string(o.end.status) }),
		times(ops, func(o *op) time.Time { return o.end.at })
}

func marks(ops []*op, f func(*op) mark) (ids array[pgtype.UUID], at array[pgtype.Timestamptz], stored []bool) {
	stored = make([]bool, len(ops))
	for i, o := range ops {
		stored[i] = f(o).stored
	}
	return column(ops, func(o *op) pgtype.UUID { return toUUID(f(o).id) }),
		times(ops, func(o *op) time.Time { return f(o).at }),
		stored
}

// errRaced is a row of commands that could be neither inserted nor updated. If it appeared while the transaction ran, what comes next
// will see it. A trigger or another key of the table's may be in its way for longer.
var errRaced = &pgconn.PgError{Code: codeSerialization, Message: "the command's row could be neither inserted nor updated"}

// errThere is for a command that may have been there when it was to be inserted. It has to begin the long way.
var errThere = errors.New("pgsink: the command's row is there")

// run sends the statements and reads their results.
func (t *transaction) run(ctx context.Context, conn *pgxpool.Conn) error {
	lendBuffers(conn.Conn(), &t.batch)
	return conn.SendBatch(ctx, &t.batch).Close()
}

// outcomes looks into a committed transaction for operations that changed nothing.
func (t *transaction) outcomes(ctx context.Context, conn *pgxpool.Conn) (map[*op]error, error) {
	outcomes := make(map[*op]error)
	if len(t.begins) > 0 {
		claims := t.begins[0].begin.token != ""
		switch {
		case !claims && t.inserted+t.started != int64(len(t.begins)):
			if t.there {
				return nil, errRaced
			}
			t.there = true
			for _, o := range t.begins {
				outcomes[o] = errThere
			}
		case !claims:
			t.there = t.started > 0
		case claims:
			for _, o := range t.begins {
				if !t.winners[o.command] {
					outcomes[o] = ErrClaimed
				}
			}
		}
	}
	if t.written != 0 { // repeated, or replaced
		ids, times, _ := marks(t.writes, func(o *op) mark { return o.rows.mark })
		if err := t.find(ctx, conn, outcomes, t.writes, t.queries.unmarkedWrites, column(t.writes, command), ids, times); err != nil {
			return nil, err
		}
	}
	if t.ended != len(t.ends) {
		commands, statuses, times := endColumns(t.ends)
		if err := t.find(ctx, conn, outcomes, t.ends, t.queries.unmarkedEnds, commands, statuses, times); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// find asks which of the operations changed nothing.
func (t *transaction) find(ctx context.Context, conn *pgxpool.Conn, outcomes map[*op]error, ops []*op, query string, args ...any) error {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	replaced, err := collectIDs(rows)
	if err != nil {
		return err
	}
	for _, o := range ops {
		if replaced[o.command] {
			outcomes[o] = ErrReplaced
		}
	}
	return nil
}

// collectIDs reads rows of one UUID each, as text: so they come in the same way in every mode of pgx.
func collectIDs(rows pgx.Rows) (map[uuid.UUID]bool, error) {
	ids := make(map[uuid.UUID]bool)
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, text := range texts {
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, errors.New("pgsink: the database returned a broken UUID")
		}
		ids[id] = true
	}
	return ids, err
}
