package main

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
)

// postCommand takes a command. 202 means that it is recorded, runs, and will be recorded as completed or failed.
func (s *service) postCommand(w http.ResponseWriter, r *http.Request) {
	cmd, p := readCommand(w, r)
	if p != nil {
		p.write(w)
		return
	}
	if err := s.commands.start(r.Context(), cmd); err != nil {
		refusal(err).write(w)
		return
	}
	w.Header().Set("Location", "/commands/"+cmd.ID.String())
	writeJSON(w, http.StatusAccepted, map[string]string{"command_id": cmd.ID.String()})
}

// getCommand gives what is stored of a command. A long answer comes in pages: next_from is the ?from= of the next.
func (s *service) getCommand(w http.ResponseWriter, r *http.Request) {
	id, ok := parseID(r.PathValue("id"))
	if !ok {
		noCommand.write(w)
		return
	}
	from, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 32)
	if r.URL.Query().Has("from") && (err != nil || from < 0) {
		invalid("from: want a sequence number").write(w)
		return
	}
	rec, err := s.store.command(r.Context(), id)
	if err != nil {
		s.unreadable(w, err)
		return
	}
	chunks, more, err := s.store.chunks(r.Context(), id, from)
	if err != nil {
		s.unreadable(w, err)
		return
	}
	answer := struct {
		*record
		Chunks   []storedChunk `json:"chunks"`
		NextFrom *int32        `json:"next_from,omitempty"`
	}{record: rec, Chunks: chunks}
	if more {
		next := chunks[len(chunks)-1].Seq + 1
		answer.NextFrom = &next
	}
	writeJSON(w, http.StatusOK, answer)
}

// unreadable answers where a command could not be read.
func (s *service) unreadable(w http.ResponseWriter, err error) {
	if errors.Is(err, errNoCommand) {
		noCommand.write(w)
		return
	}
	s.log.Warn("reading a command", slog.String("error", err.Error()))
	noStorage.write(w)
}
