package vehicle

import (
	"slices"

	"google.golang.org/grpc/connectivity"
)

// renew replaces the connections, for the sake of their handshakes: one that was verified years ago stays as open as
// on the first day. Streams that are open on the old ones go on there, however long they take; new ones go to the new
// ones. What was connected connects again at once, so that a handshake that fails is not discovered by a command.
func (p *pool) renew() {
	for _, c := range p.replace() {
		c.Connect()
	}
}

// replace returns the new connections in the place of those that were in use.
func (p *pool) replace() (used []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if p.retired == nil {
		p.retired = make(map[*conn]struct{})
	}
	for i, old := range p.conns {
		c, err := p.connection(old.limit)
		if err != nil {
			return used // impossible: the same options made the old one
		}
		p.conns[i] = c
		if old.GetState() != connectivity.Idle {
			used = append(used, p.conns[i])
		}
		old.retired = true
		p.moveFrom(old)
		p.retired[old] = struct{}{}
		p.dismiss(old)
	}
	return used
}

// dismiss closes a retired connection whose last stream has ended. The pool's mutex is held.
func (p *pool) dismiss(c *conn) {
	if !c.retired || c.streams > 0 || c.ending > 0 || p.closed {
		return
	}
	delete(p.retired, c)
	p.closing.Go(func() { _ = c.Close() }) // it fails only where it is closed already
}

// moveFrom moves the streams that wait at a connection. The pool's mutex is held.
func (p *pool) moveFrom(c *conn) {
	p.waiters = slices.DeleteFunc(p.waiters, func(at *place) bool {
		if at.conn == c {
			at.move()
		}
		return at.conn == c
	})
}
