package sink

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// Memory keeps commands in memory, for tests and demonstrations: it never forgets one. A command that
// is run again under the same id replaces what was kept of it. The zero value is ready; a Memory may
// be used by several goroutines and must not be copied.
//
// Write and End fail only for a command that has not begun, or has ended.
type Memory struct {
	mu       sync.RWMutex
	commands map[uuid.UUID]*memorized
}

// memorized is one run of a command.
type memorized struct {
	chunks []vehicle.Chunk
	result *vehicle.Result // nil until End
}

var _ vehicle.Sink = (*Memory)(nil)

// Chunks returns what was kept of the command, in order. The chunks and their payloads are the
// caller's. It is nil for a command that is not known.
func (m *Memory) Chunks(commandID uuid.UUID) []vehicle.Chunk {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.commands[commandID]
	if c == nil {
		return nil
	}
	chunks := make([]vehicle.Chunk, len(c.chunks))
	for i, chunk := range c.chunks {
		chunk.Payload = bytes.Clone(chunk.Payload)
		chunks[i] = chunk
	}
	return chunks
}

// Status returns where the command stands: "" if it is not known, in progress after Begin, and after
// End completed or failed.
func (m *Memory) Status(commandID uuid.UUID) vehicle.Status {
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch c := m.commands[commandID]; {
	case c == nil:
		return ""
	case c.result == nil:
		return vehicle.StatusInProgress
	default:
		return c.result.Status
	}
}

// Result returns how the command ended, and false if it has not.
func (m *Memory) Result(commandID uuid.UUID) (vehicle.Result, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.commands[commandID]
	if c == nil || c.result == nil {
		return vehicle.Result{}, false
	}
	res := *c.result
	res.Command.Params = maps.Clone(res.Command.Params)
	return res, true
}

// Begin drops what was kept of an earlier run.
func (m *Memory) Begin(_ context.Context, cmd vehicle.Command) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.commands == nil {
		m.commands = make(map[uuid.UUID]*memorized)
	}
	m.commands[cmd.ID] = &memorized{}
	return nil
}

// Write keeps the chunks.
func (m *Memory) Write(_ context.Context, chunks []vehicle.Chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := m.running(chunks[0].CommandID)
	if err != nil {
		return err
	}
	c.chunks = append(c.chunks, chunks...)
	return nil
}

// End keeps the result.
func (m *Memory) End(_ context.Context, res vehicle.Result) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := m.running(res.Command.ID)
	if err != nil {
		return err
	}
	res.Command.Params = maps.Clone(res.Command.Params)
	c.result = &res
	return nil
}

func (m *Memory) running(commandID uuid.UUID) (*memorized, error) {
	switch c := m.commands[commandID]; {
	case c == nil:
		return nil, fmt.Errorf("sink: command %s has not begun", commandID)
	case c.result != nil:
		return nil, fmt.Errorf("sink: command %s has ended", commandID)
	default:
		return c, nil
	}
}
