package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// connector is what a backend has after an afternoon: around the stub, an Exec for the command's row, for each chunk, for
// the status and for the audit trail, and a Publish for each chunk and the end. It waits for each of them.
type connector struct {
	*stub

	pool *pgxpool.Pool
	rdb  *redis.Client
}

func newConnector(ctx context.Context, j *job) (*connector, error) {
	s, err := newStub(j.Target)
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, j.Postgres)
	if err != nil {
		return nil, err
	}
	rdb, err := openRedis(j.Redis)
	if err != nil {
		return nil, err
	}
	return &connector{stub: s, pool: pool, rdb: rdb}, nil
}

func (c *connector) run(ctx context.Context, cmd order, _ func(int, []byte, string, bool)) error {
	_, err := c.pool.Exec(ctx, insertCommand, cmd.id, cmd.vehicle, cmd.name, cmd.params)
	if err != nil {
		return err
	}
	channel := "response:" + cmd.id.String()
	chunks := 0
	err = c.each(ctx, cmd, func(resp *vehiclepb.CommandResponse) error {
		id, payload := uuid.New(), resp.GetResponsePayload()
		_, err := c.pool.Exec(ctx, insertResponse, id, cmd.id, payload, resp.GetSequenceNumber(), resp.GetIsFinal(), time.Now())
		if err != nil {
			return err
		}
		chunks++
		return c.publish(ctx, channel, responseEvent{
			"response", cmd.id, id, json.RawMessage(payload), resp.GetSequenceNumber(), resp.GetIsFinal(),
		})
	})
	if err != nil {
		return err
	}
	now := time.Now()
	if _, err := c.pool.Exec(ctx, completeCommand, cmd.id, now); err != nil {
		return err
	}
	if _, err := c.pool.Exec(ctx, insertAudit, uuid.New(), cmd.vehicle, cmd.id, auditDetails{cmd.name, chunks}, now); err != nil {
		return err
	}
	return c.publish(ctx, channel, statusEvent{"status", cmd.id, "completed", now})
}

func (c *connector) publish(ctx context.Context, channel string, event any) error {
	text, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return c.rdb.Publish(ctx, channel, text).Err()
}

func (c *connector) close() error {
	c.pool.Close()
	_ = c.rdb.Close()
	return c.stub.close()
}

// fair is the best that a command can do for itself: its status is in_progress before the vehicle is asked, and the
// answer, the new status and the audit row are one transaction, sent in one go when the answer is complete.
type fair struct {
	*stub

	pool *pgxpool.Pool
}

func newFair(ctx context.Context, j *job) (*fair, error) {
	s, err := newStub(j.Target)
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, j.Postgres)
	if err != nil {
		return nil, err
	}
	return &fair{stub: s, pool: pool}, nil
}

func (f *fair) run(ctx context.Context, cmd order, _ func(int, []byte, string, bool)) error {
	_, err := f.pool.Exec(ctx, insertCommand, cmd.id, cmd.vehicle, cmd.name, cmd.params)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{} // without a BEGIN, all of it is one transaction
	err = f.each(ctx, cmd, func(resp *vehiclepb.CommandResponse) error {
		batch.Queue(insertResponse, uuid.New(), cmd.id, resp.GetResponsePayload(), resp.GetSequenceNumber(), resp.GetIsFinal(), time.Now())
		return nil
	})
	if err != nil {
		return err
	}
	chunks, now := batch.Len(), time.Now()
	batch.Queue(completeCommand, cmd.id, now)
	batch.Queue(insertAudit, uuid.New(), cmd.vehicle, cmd.id, auditDetails{cmd.name, chunks}, now)
	return f.pool.SendBatch(ctx, batch).Close()
}

func (f *fair) close() error {
	f.pool.Close()
	return f.stub.close()
}

const (
	insertCommand = `INSERT INTO commands (command_id, vehicle_id, command_name, command_params, status)
		VALUES ($1, $2, $3, $4, 'in_progress')`
	insertResponse = `INSERT INTO responses (response_id, command_id, response_payload, sequence_number, is_final, received_at)
		VALUES ($1, $2, $3, $4, $5, $6)`
	completeCommand = `UPDATE commands SET status = 'completed', completed_at = $2 WHERE command_id = $1`
	insertAudit     = `INSERT INTO audit_logs (log_id, vehicle_id, command_id, action, entity_type, entity_id, details, "timestamp")
		VALUES ($1, $2, $3, 'command_completed', 'command', $3, $4, $5)`
)

type auditDetails struct {
	Name   string `json:"command_name"`
	Chunks int    `json:"chunk_count"`
}

type responseEvent struct {
	Event      string          `json:"event"`
	CommandID  uuid.UUID       `json:"command_id"`
	ResponseID uuid.UUID       `json:"response_id"`
	Payload    json.RawMessage `json:"response_payload"`
	Seq        int32           `json:"sequence_number"`
	Final      bool            `json:"is_final"`
}

type statusEvent struct {
	Event       string    `json:"event"`
	CommandID   uuid.UUID `json:"command_id"`
	Status      string    `json:"status"`
	CompletedAt time.Time `json:"completed_at"`
}
