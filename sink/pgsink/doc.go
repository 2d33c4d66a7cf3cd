// Package pgsink stores commands and their answers in PostgreSQL:
//
//	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
//	...
//	store := pgsink.New(pool)
//	defer store.Close(context.Background())
//	client, err := vehicle.New(target, vehicle.WithSink(store))
//
// It writes the tables commands, responses and audit_logs that the web application has, or that
// [Migrate] creates. A command's row goes from pending to in_progress, and to completed or failed with a row
// in the audit trail; each chunk is a row of responses. Ids are derived from the command's, so every write can
// be repeated: a transaction whose COMMIT was not answered is done again, and nothing is lost or stored
// twice. A command that is run again replaces its rows, and a run that was thought dead cannot mix its own in ([ErrReplaced]).
//
// Commands share transactions: while one is under way the calls that come in gather, and go into the next
// one together, in a handful of statements however many they are. Nobody waits for a timer. What cannot be written fails
// its own command, and its neighbours commit. A batch of 1,024 chunks or more, or of 512 KiB, is stored in two transactions at once
// where a writer is idle and [WithRetryFor] leaves 15 seconds or more. The second is committed after the first: a reader sees
// the beginning of an answer, or all of it.
//
// The end of a command that is run with Client.Execute is stored with its final chunk, and put right if a sink after this
// one then fails: for that the role needs the right to delete from audit_logs.
//
// A payload that is valid JSON and that jsonb cannot hold is stored as {"$json": "its text"}, and [Sink.History] gives
// back the text: \u0000, lone surrogates, numbers beyond numeric or with exponents that jsonb would write out
// as thousands of zeros, nesting of more than 512 levels, and what looks wrapped already. So are parameters.
//
// # Servers
//
// Tested: PostgreSQL 15, with the five modes of pgx (pgx.QueryExecMode), and PgBouncer 1.18 in
// transaction mode. The SQL is the same for PostgreSQL 13 to 17. Behind PgBouncer before 1.21, or with
// max_prepared_statements = 0, set default_query_exec_mode to cache_describe, exec or simple_protocol: pgx's
// default keeps prepared statements in a session, which there is another one each time. Of these, exec is the
// fastest that needs no second round trip.
//
// The connections' client_encoding must be UTF8: where the database has another encoding, add client_encoding=UTF8 to the connection
// string. responses.received_at keeps what it is given, to the microsecond, for runs are told apart by it: no trigger may set it.
//
// Only read about: CockroachDB (23.1 or newer), YugabyteDB and Citus. Every statement of a transaction is in what they
// document: unnest of several arrays WITH ORDINALITY, ON CONFLICT DO NOTHING, FOR NO KEY UPDATE NOWAIT, INSERT and
// UPDATE in WITH. On Citus keep the three tables in one shard (schema-based sharding) or local: it cannot lock rows in
// several shards with one statement. [Migrate] takes an advisory lock, which CockroachDB ignores.
package pgsink
