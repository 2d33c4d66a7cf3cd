package pgsink

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Migrate creates the tables commands, responses and audit_logs where they are missing, and the schema
// of [WithSchema]; of the other options it uses none. It changes no table that exists. It may be called at each start, by several processes
// at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool, opts ...Option) error {
	schema := newConfig(opts).schema
	// Each statement has to see what another process did before it gave the lock away.
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		// IF NOT EXISTS alone does not keep two processes from creating a table at once.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1::bigint)`, migrateLock); err != nil {
			return err
		}
		if err := createSchema(ctx, tx, schema); err != nil {
			return err
		}
		names := tableNames(schema)
		for _, t := range tables {
			if err := createTable(ctx, tx, names.Replace("{"+t.name+"}"), names.Replace(t.ddl)); err != nil {
				return fmt.Errorf("creating the table %s: %w", t.name, err)
			}
		}
		return nil
	})
	return newDBError(err)
}

const migrateLock int64 = 0x736f76642d676f // "sovd-go"

func createSchema(ctx context.Context, tx pgx.Tx, schema string) error {
	if schema == "" {
		return nil
	}
	var exists bool // IF NOT EXISTS asks for the privilege to create even where there is nothing to do. The server cuts long names
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1::text::name)`, schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize())
	return err
}

func createTable(ctx context.Context, tx pgx.Tx, name, ddl string) error {
	var exists bool
	err := tx.QueryRow(ctx, `SELECT to_regclass($1::text) IS NOT NULL`, name).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = tx.Exec(ctx, ddl, pgx.QueryExecModeSimpleProtocol) // several statements
	return err
}

// tables are those of the web application, without the foreign keys to its users and vehicles. They have
// no index on status: finding the few commands in progress is not worth a second index entry for each change of status.
var tables = []struct{ name, ddl string }{
	{"commands", `
CREATE TABLE {commands} (
  command_id     uuid PRIMARY KEY,
  user_id        uuid,
  vehicle_id     uuid NOT NULL,
  command_name   varchar(100) NOT NULL,
  command_params jsonb NOT NULL DEFAULT '{}',
  status         varchar(20) NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'in_progress', 'completed', 'failed')),
  error_message  text,
  submitted_at   timestamptz NOT NULL DEFAULT now(),
  completed_at   timestamptz
);`},
	{"responses", `
CREATE TABLE {responses} (
  response_id      uuid PRIMARY KEY,
  command_id       uuid NOT NULL REFERENCES {commands} ON DELETE CASCADE,
  response_payload jsonb NOT NULL,
  sequence_number  integer NOT NULL,
  is_final         boolean NOT NULL DEFAULT false,
  received_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON {responses} (command_id, sequence_number);`},
	{"audit_logs", `
CREATE TABLE {audit_logs} (
  log_id      uuid PRIMARY KEY,
  user_id     uuid,
  vehicle_id  uuid,
  command_id  uuid REFERENCES {commands} ON DELETE SET NULL,
  action      varchar(100) NOT NULL,
  entity_type varchar(50) NOT NULL,
  entity_id   uuid,
  details     jsonb DEFAULT '{}',
  ip_address  varchar(45),
  user_agent  text,
  "timestamp" timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON {audit_logs} (command_id);`},
}
