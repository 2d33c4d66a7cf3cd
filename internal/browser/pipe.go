package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// pipe is the DevTools protocol as --remote-debugging-pipe has it: JSON messages, each with a NUL after it.
type pipe struct {
	in   io.WriteCloser
	out  io.ReadCloser
	done chan struct{} // closed when the browser says no more

	mu      sync.Mutex
	last    int
	waiting map[int]chan message
	events  map[string]func(method string, params json.RawMessage) // by session
}

// message is what the browser sends: an answer, which has an ID, or an event.
type message struct {
	ID      int             `json:"id"`
	Session string          `json:"sessionId"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   *struct {
		Message string `json:"message"`
		Data    string `json:"data"`
	} `json:"error"`
}

func newPipe(in io.WriteCloser, out io.ReadCloser) *pipe {
	p := &pipe{
		in: in, out: out, done: make(chan struct{}),
		waiting: make(map[int]chan message), events: make(map[string]func(string, json.RawMessage)),
	}
	go p.read()
	return p
}

// read hands out what comes, until nothing does.
func (p *pipe) read() {
	defer close(p.done)
	in := bufio.NewReader(p.out)
	for {
		text, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m) != nil {
			continue
		}
		p.mu.Lock()
		answer, event := p.waiting[m.ID], p.events[m.Session]
		delete(p.waiting, m.ID)
		p.mu.Unlock()
		switch {
		case answer != nil:
			answer <- m
		case m.Method != "" && event != nil:
			event(m.Method, m.Params)
		}
	}
}

var errGone = errors.New("the browser has ended")

// call asks for something, in a session or of the browser itself, and reads the answer into result, if that is not nil.
func (p *pipe) call(ctx context.Context, session, method string, params, result any) error {
	answer := make(chan message, 1)
	if err := p.send(session, method, params, answer); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %s %s", method, m.Error.Message, m.Error.Data)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-p.done:
		return fmt.Errorf("%s: %w", method, errGone)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

func (p *pipe) send(session, method string, params any, answer chan message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	text, err := json.Marshal(struct {
		ID      int    `json:"id"`
		Session string `json:"sessionId,omitempty"`
		Method  string `json:"method"`
		Params  any    `json:"params,omitempty"`
	}{p.last, session, method, params})
	if err != nil {
		return err
	}
	p.waiting[p.last] = answer
	_, err = p.in.Write(append(text, 0))
	return err
}

// listen has a session's events called; event must not wait for the browser.
func (p *pipe) listen(session string, event func(method string, params json.RawMessage)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events[session] = event
}

// close ends the pipe; the browser ends with it.
func (p *pipe) close() error {
	err := errors.Join(p.in.Close(), p.out.Close())
	<-p.done
	return err
}
