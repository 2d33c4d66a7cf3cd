package pgsink

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// queries are the statements of a transaction, in the order in which they run. Each takes all operations of
// its kind at once, as arrays, so there are as many statements for a thousand chunks as for one. They keep to
// what the distributed databases that speak PostgreSQL's protocol have too: no advisory locks, no temporary
// tables, no LISTEN, no sequences. JSON travels as text: in some of pgx's modes, []byte would be sent as bytea.
//
// Arrays and one INSERT are the fastest way that can be repeated. Against COPY, which cannot (it knows no ON CONFLICT), docs/performance.md
// has the figures. The other ways, by BenchmarkRows in batches of 1,000 rows, two cores that others used too, fsync on, of what COPY
// stores: COPY to a staging table 0.7 to 0.9, an INSERT for each row in one batch 0.35 to 0.45, an Exec for each row 0.03.
type queries struct {
	begin, patience, patienceAhead, lock, start, insert, claim, insertClaimed, claimed, dropClaimed, settle,
	writeFirst, write, rewrite, writeAndEnd, mine, revoke, end, commit,
	unmarkedWrites, unmarkedEnds,
	history,
	stale, failStale, auditStale string
}

func newQueries(schema string) queries {
	r := tableNames(schema)
	return queries{
		begin:  `begin isolation level read committed`,
		commit: `commit`,

		// Where commands are inserted, the application may be inserting the same, and not commit for a while.
		patience: patience,

		// Nothing else waits within a transaction. If the network vanishes meanwhile, the server must not keep the locks for hours.
		patienceAhead: patience + `, set_config('idle_in_transaction_session_timeout', '5s', true)`,

		// The rows of all commands in the transaction are locked first and in order. So transactions do not
		// deadlock, and each statement after this one sees all that earlier transactions did to these commands.
		// NOWAIT: a row that somebody else has locked must delay its own command alone. So must a vehicle's or a user's, which
		// the foreign keys of what follows may wait for.
		lock: r.Replace(`
SELECT 1 FROM unnest($1::uuid[]) {as} (command_id, n) JOIN {commands} c ON c.command_id = g.command_id
WHERE {few} AND {patient} ORDER BY c.command_id FOR NO KEY UPDATE OF c NOWAIT`),

		start: r.Replace(`
WITH dropped AS (
  DELETE FROM {responses} r USING unnest($1::uuid[]) {as} (command_id, n)
  WHERE {few} AND r.command_id = g.command_id)
UPDATE {commands} c SET status = 'in_progress', error_message = NULL, completed_at = NULL
FROM unnest($1::uuid[]) {as} (command_id, n)
WHERE {few} AND c.command_id = g.command_id`),

		// The row is usually there, and then cannot be inserted even to find the conflict: its NOT NULL columns
		// may be unknown to us.
		insert: r.Replace(`
INSERT INTO {commands} (command_id, user_id, vehicle_id, command_name, command_params, status, submitted_at)
SELECT g.command_id, g.user_id, g.vehicle_id, g.name, g.params::jsonb, 'in_progress', now()
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[]) {as} (command_id, user_id, vehicle_id, name, params, n)
WHERE {few} AND NOT EXISTS (SELECT 1 FROM {commands} c WHERE c.command_id = g.command_id)
ON CONFLICT DO NOTHING`),

		// A claim leaves a token in the row, so that when the answer to COMMIT is lost the claim can be
		// repeated and recognized. The next transaction removes it.
		claim: r.Replace(`
UPDATE {commands} c SET status = 'in_progress', error_message = g.token, completed_at = NULL
FROM unnest($1::uuid[], $2::text[]) {as} (command_id, token, n)
WHERE {few} AND c.command_id = g.command_id AND c.status = 'pending'`),

		insertClaimed: r.Replace(`
INSERT INTO {commands} (command_id, user_id, vehicle_id, command_name, command_params, status, submitted_at, error_message)
SELECT g.command_id, g.user_id, g.vehicle_id, g.name, g.params::jsonb, 'in_progress', now(), g.token
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[]) {as} (command_id, user_id, vehicle_id, name, params, token, n)
WHERE {few} AND NOT EXISTS (SELECT 1 FROM {commands} c WHERE c.command_id = g.command_id)
ON CONFLICT DO NOTHING`),

		claimed: r.Replace(`
SELECT c.command_id::text
FROM unnest($1::uuid[], $2::text[]) {as} (command_id, token, n) JOIN {commands} c ON c.command_id = g.command_id
WHERE {few} AND c.status = 'in_progress' AND c.error_message = g.token`),

		dropClaimed: r.Replace(`
DELETE FROM {responses} r USING unnest($1::uuid[], $2::text[]) {as} (command_id, token, n), {commands} c
WHERE {few} AND c.command_id = g.command_id AND c.status = 'in_progress' AND c.error_message = g.token
  AND r.command_id = c.command_id`),

		settle: r.Replace(`
UPDATE {commands} c SET error_message = NULL
FROM unnest($1::uuid[], $2::text[]) {as} (command_id, token, n)
WHERE {few} AND c.command_id = g.command_id AND c.error_message = g.token`),

		// Nothing can be in the way of rows that are written for the first time. ON CONFLICT, which costs a
		// fifth of the statement, is for what may have been committed before. It names no key, so any key over
		// command_id and sequence_number will do.
		writeFirst: r.Replace(write),
		write:      r.Replace(write + writeMine),
		rewrite:    r.Replace(write + writeMine + " ON CONFLICT DO NOTHING"),

		// A whole answer to a command that is new: nothing can be in its way, and it has completed. There is nothing that a later
		// statement would see better, and so this one locks the rows itself.
		writeAndEnd: r.Replace(`
WITH locked AS (
  SELECT g.* FROM unnest($7::uuid[], $8::timestamptz[], $9::uuid[], $10::text[]) {as} (command_id, completed_at, log_id, details, n)
  JOIN {commands} c ON c.command_id = g.command_id
  WHERE {few} AND {patient} ORDER BY c.command_id FOR NO KEY UPDATE OF c NOWAIT),
written AS (` + write + `),
ended AS (
  UPDATE {commands} c SET status = 'completed', error_message = NULL, completed_at = g.completed_at
  FROM locked g WHERE c.command_id = g.command_id
  RETURNING c.command_id, c.user_id, c.vehicle_id, c.completed_at, g.log_id, g.details)
INSERT INTO {audit_logs} (log_id, user_id, vehicle_id, command_id, action, entity_type, entity_id, details, "timestamp")
SELECT log_id, user_id, vehicle_id, command_id, 'command_completed', 'command', command_id, details::jsonb, completed_at FROM ended`),

		mine: r.Replace(`
SELECT count(*)::int4 FROM unnest($1::uuid[], $2::timestamptz[], $3::bool[]) {as} (id, at, stored, n)
WHERE {few} AND {mine}`),

		// An audit row of an earlier run has another time, and stays.
		revoke: r.Replace(`
DELETE FROM {audit_logs} a USING unnest($1::uuid[], $2::timestamptz[]) {as} (log_id, at, n)
WHERE {few} AND a.log_id = g.log_id AND a."timestamp" = g.at`),

		end: r.Replace(`
WITH ended AS (
  UPDATE {commands} c SET status = g.status, error_message = nullif(g.message, ''), completed_at = g.completed_at
  FROM (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[], $6::timestamptz[], $7::bool[], $8::uuid[], $9::text[], $10::text[])
      {as} (command_id, status, message, completed_at, id, at, stored, log_id, action, details, n)
    WHERE {few} OFFSET 0) g
  WHERE c.command_id = g.command_id AND {mine}
  RETURNING c.command_id, c.user_id, c.vehicle_id, c.completed_at, g.log_id, g.action, g.details),
audited AS (
  INSERT INTO {audit_logs} (log_id, user_id, vehicle_id, command_id, action, entity_type, entity_id, details, "timestamp")
  SELECT log_id, user_id, vehicle_id, command_id, action, 'command', command_id, details::jsonb, completed_at FROM ended
  ON CONFLICT DO NOTHING)
SELECT count(*)::int4 FROM ended`),

		// These two find out what happened to rows that were not written.
		unmarkedWrites: r.Replace(`
SELECT g.command_id::text
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) {as} (command_id, id, at, n)
WHERE {few} AND NOT EXISTS (SELECT 1 FROM {responses} r WHERE r.response_id = g.id AND r.received_at = g.at)`),

		unmarkedEnds: r.Replace(`
SELECT g.command_id::text
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) {as} (command_id, status, at, n)
WHERE {few} AND NOT EXISTS (SELECT 1 FROM {commands} c WHERE c.command_id = g.command_id AND c.status = g.status AND c.completed_at = g.at)`),

		// The time comes as a number: in some of pgx's modes it would come as text, in the session's DateStyle. One that is no such
		// number, as that of others' rows may be (infinity, a year after 287000), is none.
		history: r.Replace(`
SELECT c.vehicle_id::text, r.response_payload::text, r.sequence_number, r.is_final,
  CASE WHEN abs(extract(epoch FROM r.received_at)) < 9e12 THEN (extract(epoch FROM r.received_at) * 1000000)::bigint END
FROM {responses} r JOIN {commands} c ON c.command_id = r.command_id
WHERE r.command_id = $1::uuid
ORDER BY r.sequence_number, r.received_at`),

		stale: r.Replace(`
SELECT c.command_id::text FROM {commands} c
WHERE ` + stale + ` AND c.command_id > $2::uuid
ORDER BY c.command_id LIMIT $3::int4 FOR NO KEY UPDATE SKIP LOCKED`),

		failStale: r.Replace(`
UPDATE {commands} c SET status = 'failed', error_message = $2::text, completed_at = $3::timestamptz
WHERE c.command_id = ANY($1::uuid[]) AND ` + strings.ReplaceAll(stale, "$1", "$4")),

		auditStale: r.Replace(`
INSERT INTO {audit_logs} (log_id, user_id, vehicle_id, command_id, action, entity_type, entity_id, details, "timestamp")
SELECT a.log_id, c.user_id, c.vehicle_id, c.command_id, 'command_failed', 'command', c.command_id,
  jsonb_build_object('command_name', c.command_name, 'error', $3::jsonb), c.completed_at
FROM unnest($1::uuid[], $2::uuid[]) AS a (log_id, command_id)
JOIN {commands} c ON c.command_id = a.command_id AND c.status = 'failed' AND c.completed_at = $4::timestamptz
ON CONFLICT DO NOTHING`),
	}
}

// stale is true for the commands c in progress that have shown no sign of life for $1 microseconds.
const stale = `c.status = 'in_progress' AND (c.submitted_at IS NULL OR c.submitted_at < now() - $1::bigint * interval '1 microsecond')
  AND NOT EXISTS (SELECT 1 FROM {responses} r WHERE r.command_id = c.command_id
    AND r.received_at >= now() - $1::bigint * interval '1 microsecond')`

// write stores rows. Where they are a run's first ones, there is no mark yet, and the key of what another run has stored is in
// their way.
const write = `
INSERT INTO {responses} (response_id, command_id, response_payload, sequence_number, is_final, received_at)
SELECT w.response_id, ($7::uuid[])[w.run], w.payload::jsonb, w.seq, w.final, w.at
FROM (SELECT unnest($1::uuid[]), unnest($2::text[]), unnest($3::int4[]), unnest($4::bool[]), unnest($5::timestamptz[]), unnest($6::int4[]))
  AS w (response_id, payload, seq, final, at, run)`

// writeMine is for rows that are to be stored only where the run's mark is still there, or, for a run's first rows, where no
// other run's is.
const writeMine = `
WHERE (
  SELECT array_agg({mine} ORDER BY g.n)
  FROM unnest($8::uuid[], $9::timestamptz[], $10::bool[]) {as} (id, at, stored, n)
  WHERE {few}
)[w.run]`

// mine is true where the rows that are stored of a command are those of the run whose mark is in g.
const mine = `coalesce(
    (SELECT g.at IS NOT NULL AND r.received_at = g.at FROM {responses} r WHERE r.response_id = g.id), NOT g.stored)`

// few is always true, and makes PostgreSQL expect one operation in g. So it looks rows up by their keys,
// one after the other, even if it makes the plan that it will keep while the tables are still
// empty, when reading them whole looks cheaper; and it keeps that plan, which looks no dearer than one made
// for the arguments at hand. (Where the rows of g are tested one by one, OFFSET 0 has it count them first.)
const few = `g.n BETWEEN 1 AND 1000000`

// patience bounds each wait for a lock of the transaction: all of the writer's commands wait with it.
const patience = `SELECT set_config('lock_timeout', '50ms', true)`

// patient is always true, and is patience within a statement. PostgreSQL evaluates it once, before the first row.
const patient = `(` + patience + `) IS NOT NULL`

// tableNames replaces {table} by the table's quoted name.
func tableNames(schema string) *strings.Replacer {
	name := func(table string) string {
		if schema == "" {
			return pgx.Identifier{table}.Sanitize()
		}
		return pgx.Identifier{schema, table}.Sanitize()
	}
	commands, responses, audit := name("commands"), name("responses"), name("audit_logs")
	return strings.NewReplacer(
		"{as}", "WITH ORDINALITY AS g", "{few}", few, "{patient}", patient,
		"{mine}", strings.ReplaceAll(mine, "{responses}", responses),
		"{commands}", commands, "{responses}", responses, "{audit_logs}", audit,
	)
}
