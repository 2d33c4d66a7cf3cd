package pgsink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// modelServer speaks PostgreSQL's protocol and knows the statements of queries. It has no locks: a command that two
// transactions have at once is a fault of the Sink's.
type modelServer struct {
	queries queries
	mishap  func() mishap                 // of the next round trip
	refuse  func(command string) *pgError // what it says of a transaction with this command
	delay   func() time.Duration          // of a round trip
	down    func() bool                   // it takes no connections

	mu        sync.Mutex
	types     *pgtype.Map
	commands  map[string]*modelCommand
	responses map[string]*modelResponse
	audit     map[string]string            // the times of its rows
	open      map[string]*pgproto3.Backend // who has a command, from the arrival of its transaction on
	hopeless  bool
	faults    []string
}

type modelCommand struct{ status, message, at string }

type modelResponse struct {
	command, payload, at string
	seq                  int
	of                   *modelTransaction // that wrote it and is not committed
}

type modelTransaction struct {
	ahead   bool // its commands are another one's still
	failed  bool
	twice   int // operations of a command that is another's in it too
	settles int // claims: they are in nobody's way
	wrote   []*modelResponse
	undo    []func()
}

type mishap int

const (
	allWell      mishap = iota
	lostBefore          // the connection, and the server has done nothing
	lostAfter           // the connection, and the server has done it
	silentBefore        // the network vanishes
	silentAfter
	serialization
	shutdown
	noTable
)

type pgError struct{ code, message string }

// modelStatement is one of a round trip, its arguments arrays of text.
type modelStatement struct {
	sql  string
	args [][]string
}

type modelResult struct {
	tag    string
	column uint32 // the type of the only one; 0: none
	rows   []string
}

// newModelServer makes a server to which nothing happens.
func newModelServer() *modelServer {
	return &modelServer{
		queries: newQueries(""),
		mishap:  func() mishap { return allWell },
		refuse:  func(string) *pgError { return nil },
		delay:   func() time.Duration { return time.Millisecond },
		down:    func() bool { return false },
		types:   pgtype.NewMap(),

		commands:  make(map[string]*modelCommand),
		responses: make(map[string]*modelResponse),
		audit:     make(map[string]string),
		open:      make(map[string]*pgproto3.Backend),
	}
}

// newSink makes a Sink in a synctest bubble.
func (s *modelServer) newSink(t *testing.T, tracer pgx.QueryTracer, opts ...Option) *Sink {
	t.Helper()
	config, err := pgxpool.ParseConfig("postgres://user@server/db?sslmode=disable&default_query_exec_mode=exec")
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"server"}, nil }
	config.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { return s.dial() }
	config.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return New(pool, opts...)
}

func (s *modelServer) dial() (net.Conn, error) {
	if s.down() {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	go s.serve(server)
	return client, nil
}

func (s *modelServer) serve(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if msg, err := b.ReceiveStartupMessage(); err != nil {
		return
	} else if _, ok := msg.(*pgproto3.StartupMessage); !ok {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.Send(&pgproto3.BackendKeyData{SecretKey: []byte{0, 0, 0, 0}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() != nil {
		return
	}
	var tx *modelTransaction
	defer s.letGo(b, &tx)
	for {
		statements, simple, err := s.receive(b)
		if err != nil {
			return
		}
		mishap := allWell
		if len(statements) > 0 && !strings.HasPrefix(statements[0].sql, "--") && statements[0].sql != "rollback" { // not the pool's ping
			s.mu.Lock()
			s.hold(b, statements)
			mishap = s.mishap()
			s.mu.Unlock()
			time.Sleep(s.delay())
		}
		if mishap == lostBefore {
			return
		}
		if mishap != silentBefore {
			s.do(b, &tx, statements, simple, mishap)
		}
		switch mishap {
		case lostAfter:
			return
		case silentBefore, silentAfter:
			s.letGo(b, &tx)
			_, _ = b.Receive() // until the client closes the connection
			return
		}
		if b.Flush() != nil {
			return
		}
	}
}

// receive reads a round trip's messages.
func (s *modelServer) receive(b *pgproto3.Backend) (statements []modelStatement, simple bool, err error) {
	for {
		msg, err := b.Receive()
		if err != nil {
			return nil, false, err
		}
		switch msg := msg.(type) {
		case *pgproto3.Query:
			return []modelStatement{{sql: msg.String}}, true, nil
		case *pgproto3.Parse:
			statements = append(statements, modelStatement{sql: msg.Query})
		case *pgproto3.Bind:
			last := &statements[len(statements)-1]
			for _, p := range msg.Parameters {
				var texts []*string
				if err := s.types.Scan(pgtype.TextArrayOID, pgtype.TextFormatCode, p, &texts); err != nil {
					return nil, false, err
				}
				column := make([]string, len(texts))
				for i, text := range texts {
					if text != nil {
						column[i] = *text
					}
				}
				last.args = append(last.args, column)
			}
		case *pgproto3.Sync:
			return statements, false, nil
		case *pgproto3.Terminate:
			return nil, false, net.ErrClosed
		}
	}
}

func (s *modelServer) do(b *pgproto3.Backend, tx **modelTransaction, statements []modelStatement, simple bool, mishap mishap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, st := range statements {
		var result modelResult
		var failed *pgError
		switch last := i == len(statements)-1; {
		case last && mishap == serialization:
			failed = &pgError{codeSerialization, "try again"}
		case last && mishap == shutdown:
			failed = &pgError{"57P01", "terminating connection due to administrator command"}
		case last && mishap == noTable:
			failed, s.hopeless = &pgError{codeUndefinedTable, "no such table"}, true
		default:
			result, failed = s.execute(tx, st)
		}
		if failed != nil {
			if *tx != nil {
				(*tx).failed = true
			}
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: failed.code, Message: failed.message})
			break
		}
		if !simple {
			b.Send(&pgproto3.ParseComplete{})
			b.Send(&pgproto3.BindComplete{})
		}
		if result.column == 0 && !simple {
			b.Send(&pgproto3.NoData{})
		} else if result.column != 0 {
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("x"), DataTypeOID: result.column}}})
		}
		for _, r := range result.rows {
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(r)}})
		}
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte(result.tag)})
	}
	status := byte('I')
	if *tx == nil {
		maps.DeleteFunc(s.open, func(_ string, has *pgproto3.Backend) bool { return has == b })
	} else {
		if status = 'T'; (*tx).failed {
			status = 'E'
		}
	}
	b.Send(&pgproto3.ReadyForQuery{TxStatus: status})
}

// hold notes whose commands a transaction has. The first part of one that is ahead has another one's.
func (s *modelServer) hold(b *pgproto3.Backend, statements []modelStatement) {
	q := &s.queries
	for _, st := range statements {
		var ids []string
		switch st.sql {
		case q.patienceAhead:
			return
		case q.lock, q.insert, q.insertClaimed:
			ids = st.args[0]
		case q.writeAndEnd:
			ids = st.args[6]
		}
		for _, id := range ids {
			if other := s.open[id]; other != nil && other != b {
				s.fault("two transactions have command " + id)
			}
			s.open[id] = b
		}
	}
}

// letGo is for a connection that is lost.
func (s *modelServer) letGo(b *pgproto3.Backend, tx **modelTransaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(tx, false)
	maps.DeleteFunc(s.open, func(_ string, has *pgproto3.Backend) bool { return has == b })
}

// end ends the transaction, if there is one.
func (s *modelServer) end(tx **modelTransaction, commit bool) {
	t := *tx
	if t == nil {
		return
	}
	if commit && !t.failed {
		s.look(t)
	} else {
		for _, undo := range slices.Backward(t.undo) {
			undo()
		}
	}
	*tx = nil
}

// look is a reader's, who sees the beginning of an answer and no gaps.
func (s *modelServer) look(t *modelTransaction) {
	if t.twice > t.settles {
		s.fault("a command is in a transaction twice")
	}
	for _, r := range t.wrote {
		r.of = nil
	}
	next := make(map[string]int)
	for _, r := range t.wrote {
		next[r.command] = 0
	}
	for command := range next {
		n, last := 0, -1
		for _, r := range s.responses {
			if r.command == command && r.of == nil {
				n, last = n+1, max(last, r.seq)
			}
		}
		if n != last+1 {
			s.fault(fmt.Sprintf("a reader of command %s sees %d chunks up to %d", command, n, last))
		}
	}
}

func (s *modelServer) execute(tx **modelTransaction, st modelStatement) (modelResult, *pgError) {
	q, args, t := &s.queries, st.args, *tx
	switch st.sql {
	case q.begin:
		*tx = &modelTransaction{}
	case q.commit:
		s.end(tx, true)
	case "rollback":
		s.end(tx, false)
	case q.patience:
	case q.patienceAhead:
		t.ahead = true
	case q.lock:
		t.ahead = false
		if !slices.IsSorted(args[0]) {
			s.fault("locks in no order")
		}
		t.twice += len(args[0]) - len(slices.Compact(slices.Clone(args[0])))
		return modelResult{tag: "SELECT 0"}, s.meet(t, args[0])
	case q.insert, q.insertClaimed:
		return s.insert(t, args)
	case q.start:
		return s.start(t, args[0])
	case q.claim:
		return s.claim(t, args[0], args[1])
	case q.claimed:
		return s.claimed(args[0], args[1]), nil
	case q.dropClaimed:
		for i, id := range args[0] {
			if s.hasToken(id, args[1][i]) {
				s.drop(t, id)
			}
		}
	case q.settle:
		t.settles = len(args[0])
		for i, id := range args[0] {
			if s.hasToken(id, args[1][i]) {
				s.change(t, id, modelCommand{status: "in_progress"})
			}
		}
	case q.writeFirst, q.write, q.rewrite:
		return s.write(t, st)
	case q.writeAndEnd:
		return s.writeAndEnd(t, st)
	case q.mine:
		n := 0
		for i := range args[0] {
			if s.mine(args[0][i], args[1][i], args[2][i]) {
				n++
			}
		}
		return modelResult{tag: "SELECT 1", column: pgtype.Int4OID, rows: []string{strconv.Itoa(n)}}, nil
	case q.revoke:
		for i, id := range args[0] {
			if s.audit[id] == args[1][i] {
				s.setAudit(t, id, "")
			}
		}
	case q.end:
		return s.endCommands(t, args), nil
	case q.unmarkedWrites, q.unmarkedEnds:
		var ids []string
		for i, id := range args[0] {
			c := s.commands[id]
			if st.sql == q.unmarkedWrites && (s.responses[args[1][i]] == nil || s.responses[args[1][i]].at != args[2][i]) ||
				st.sql == q.unmarkedEnds && (c == nil || c.status != args[1][i] || c.at != args[2][i]) {
				ids = append(ids, id)
			}
		}
		return modelResult{tag: "SELECT", column: pgtype.TextOID, rows: ids}, nil
	default:
		if !strings.HasPrefix(st.sql, "--") {
			s.fault("an unknown statement: " + st.sql)
		}
	}
	return modelResult{tag: "OK"}, nil
}

func (s *modelServer) fault(text string) { s.faults = append(s.faults, text) }

// meet says what is in the way of a transaction with these commands.
func (s *modelServer) meet(t *modelTransaction, ids []string) *pgError {
	for _, id := range ids {
		if t.ahead {
			continue
		}
		if failed := s.refuse(id); failed != nil {
			return failed
		}
	}
	return nil
}

// change sets a command's row.
func (s *modelServer) change(t *modelTransaction, id string, to modelCommand) {
	before := s.commands[id]
	t.undo = append(t.undo, func() {
		if s.commands[id] = before; before == nil {
			delete(s.commands, id)
		}
	})
	s.commands[id] = &to
}

func (s *modelServer) setAudit(t *modelTransaction, id, at string) {
	before := s.audit[id]
	t.undo = append(t.undo, func() { s.audit[id] = before })
	s.audit[id] = at
}

// drop deletes a command's responses.
func (s *modelServer) drop(t *modelTransaction, command string) {
	for id, r := range s.responses {
		if r.command == command {
			delete(s.responses, id)
			t.undo = append(t.undo, func() { s.responses[id] = r })
		}
	}
}

func (s *modelServer) insert(t *modelTransaction, args [][]string) (modelResult, *pgError) {
	if failed := s.meet(t, args[0]); failed != nil {
		return modelResult{}, failed
	}
	n := 0
	for i, id := range args[0] {
		if s.commands[id] != nil {
			continue
		}
		token := ""
		if len(args) > 5 {
			token = args[5][i]
		}
		s.change(t, id, modelCommand{status: "in_progress", message: token})
		n++
	}
	return modelResult{tag: fmt.Sprintf("INSERT 0 %d", n)}, nil
}

func (s *modelServer) start(t *modelTransaction, ids []string) (modelResult, *pgError) {
	n := 0
	for _, id := range ids {
		s.drop(t, id)
		if s.commands[id] != nil {
			s.change(t, id, modelCommand{status: "in_progress"})
			n++
		}
	}
	return modelResult{tag: fmt.Sprintf("UPDATE %d", n)}, nil
}

func (s *modelServer) hasToken(id, token string) bool {
	c := s.commands[id]
	return c != nil && c.status == "in_progress" && c.message == token
}

func (s *modelServer) claim(t *modelTransaction, ids, tokens []string) (modelResult, *pgError) {
	for i, id := range ids {
		if c := s.commands[id]; c != nil && c.status == "pending" {
			s.change(t, id, modelCommand{status: "in_progress", message: tokens[i]})
		}
	}
	return modelResult{tag: "UPDATE 0"}, nil
}

func (s *modelServer) claimed(ids, tokens []string) modelResult {
	r := modelResult{tag: "SELECT 0", column: pgtype.TextOID}
	for i, id := range ids {
		if s.hasToken(id, tokens[i]) {
			r.rows = append(r.rows, id)
		}
	}
	return r
}

func (s *modelServer) mine(id, at, stored string) bool {
	if r, ok := s.responses[id]; ok {
		return at == r.at
	}
	return stored[0] != 't'
}

func (s *modelServer) write(t *modelTransaction, st modelStatement) (modelResult, *pgError) {
	ids, args, n := st.args[0], st.args, 0
	if failed := s.meet(t, args[6]); failed != nil {
		return modelResult{}, failed
	}
	mine := make([]bool, len(args[6]))
	for i := range mine {
		mine[i] = len(args) < 10 || s.mine(args[7][i], args[8][i], args[9][i]) // as it is before the statement
	}
	for i, id := range ids {
		run, _ := strconv.Atoi(args[5][i])
		seq, _ := strconv.Atoi(args[2][i])
		r := &modelResponse{command: args[6][run-1], payload: args[1][i], at: args[4][i], seq: seq, of: t}
		_, there := s.responses[id]
		switch {
		case strings.HasPrefix(r.payload, notJSON):
			return modelResult{}, &pgError{"22P05", "unsupported Unicode escape sequence"}
		case s.commands[r.command] == nil:
			return modelResult{}, &pgError{codeForeignKey, "no such command"}
		case !mine[run-1], there && st.sql == s.queries.rewrite:
			continue
		case there:
			return modelResult{}, &pgError{codeUnique, "a response is there"}
		}
		s.responses[id] = r
		t.wrote = append(t.wrote, r)
		t.undo = append(t.undo, func() { delete(s.responses, id) })
		n++
	}
	return modelResult{tag: fmt.Sprintf("INSERT 0 %d", n)}, nil
}

// notJSON begins a payload that the server takes only when it is wrapped.
const notJSON = `"odd`

func (s *modelServer) writeAndEnd(t *modelTransaction, st modelStatement) (modelResult, *pgError) {
	args := st.args
	if _, failed := s.write(t, modelStatement{sql: st.sql, args: args[:7]}); failed != nil {
		return modelResult{}, failed
	}
	for i, id := range args[6] {
		if s.audit[args[8][i]] != "" {
			return modelResult{}, &pgError{codeUnique, "an audit row is there"}
		}
		s.setAudit(t, args[8][i], args[7][i])
		s.change(t, id, modelCommand{status: "completed", at: args[7][i]})
	}
	return modelResult{tag: fmt.Sprintf("INSERT 0 %d", len(args[6]))}, nil
}

func (s *modelServer) endCommands(t *modelTransaction, args [][]string) modelResult {
	n := 0
	for i, id := range args[0] {
		if s.commands[id] == nil || !s.mine(args[4][i], args[5][i], args[6][i]) {
			continue
		}
		s.change(t, id, modelCommand{status: args[1][i], message: args[2][i], at: args[3][i]})
		if s.audit[args[7][i]] == "" {
			s.setAudit(t, args[7][i], args[3][i])
		}
		n++
	}
	return modelResult{tag: "SELECT 1", column: pgtype.Int4OID, rows: []string{strconv.Itoa(n)}}
}

// stored are the payloads of a command's chunks, in order.
func (s *modelServer) stored(command string) (payloads []string) {
	var rows []*modelResponse
	for _, r := range s.responses {
		if r.command == command {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *modelResponse) int { return a.seq - b.seq })
	for _, r := range rows {
		payloads = append(payloads, r.payload)
	}
	return payloads
}
