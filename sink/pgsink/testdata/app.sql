-- The web application's schema, as far as commands touch it: with everything that makes writing to it
-- harder than to the tables that Migrate creates. {schema} is replaced by the test.
CREATE TABLE {schema}.users (
  user_id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  username      varchar(50) NOT NULL UNIQUE,
  email         varchar(255) NOT NULL UNIQUE,
  password_hash varchar(255) NOT NULL,
  role          varchar(20) NOT NULL CHECK (role IN ('engineer', 'admin'))
);

CREATE TABLE {schema}.vehicles (
  vehicle_id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  vin               varchar(17) NOT NULL UNIQUE,
  make              varchar(100) NOT NULL,
  model             varchar(100) NOT NULL,
  year              integer NOT NULL,
  connection_status varchar(20) NOT NULL CHECK (connection_status IN ('connected', 'disconnected', 'error')),
  last_seen_at      timestamptz,
  metadata          jsonb DEFAULT '{}'
);

CREATE TABLE {schema}.commands (
  command_id     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id        uuid NOT NULL REFERENCES {schema}.users ON DELETE CASCADE,
  vehicle_id     uuid NOT NULL REFERENCES {schema}.vehicles ON DELETE CASCADE,
  command_name   varchar(100) NOT NULL,
  command_params jsonb NOT NULL DEFAULT '{}',
  status         varchar(20) NOT NULL DEFAULT 'pending'
    CONSTRAINT commands_status_check CHECK (status IN ('pending', 'in_progress', 'completed', 'failed')),
  error_message  text,
  submitted_at   timestamptz DEFAULT now(),
  completed_at   timestamptz
);
CREATE INDEX ON {schema}.commands (user_id);
CREATE INDEX ON {schema}.commands (vehicle_id);
CREATE INDEX ON {schema}.commands (status);
CREATE INDEX ON {schema}.commands (submitted_at);
CREATE INDEX ON {schema}.commands (vehicle_id, status);

CREATE TABLE {schema}.responses (
  response_id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  command_id       uuid NOT NULL REFERENCES {schema}.commands ON DELETE CASCADE,
  response_payload jsonb NOT NULL,
  sequence_number  integer NOT NULL,
  is_final         boolean NOT NULL DEFAULT false,
  received_at      timestamptz DEFAULT now()
);
CREATE INDEX ON {schema}.responses (command_id);
CREATE INDEX ON {schema}.responses (command_id, sequence_number); -- not unique

CREATE TABLE {schema}.audit_logs (
  log_id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id     uuid REFERENCES {schema}.users ON DELETE SET NULL,
  vehicle_id  uuid REFERENCES {schema}.vehicles ON DELETE SET NULL,
  command_id  uuid REFERENCES {schema}.commands ON DELETE SET NULL,
  action      varchar(100) NOT NULL,
  entity_type varchar(50) NOT NULL,
  entity_id   uuid,
  details     jsonb DEFAULT '{}',
  ip_address  varchar(45),
  user_agent  text,
  "timestamp" timestamptz DEFAULT now()
);
CREATE INDEX ON {schema}.audit_logs (user_id);
CREATE INDEX ON {schema}.audit_logs (vehicle_id);
CREATE INDEX ON {schema}.audit_logs (command_id);
CREATE INDEX ON {schema}.audit_logs (action);
CREATE INDEX ON {schema}.audit_logs ("timestamp");
