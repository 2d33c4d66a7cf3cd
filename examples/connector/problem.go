package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sovd-go/vehicle"
)

// problem is an error as clients see it:
//
//	{"error":{"code":"invalid_request","message":"vehicle_id: want a UUID"}}
//
// It says what was wanted and never what was sent, since parameters may be personal.
type problem struct {
	status     int
	code       string
	message    string
	retryAfter int // seconds
}

var (
	notFound     = &problem{status: http.StatusNotFound, code: "not_found", message: "there is no such thing here"}
	noCommand    = &problem{status: http.StatusNotFound, code: "not_found", message: "there is no such command"}
	noTrace      = &problem{status: http.StatusNotFound, code: "not_found", message: "the attempts are known to the process that runs the command, and not for long"}
	crossOrigin  = &problem{status: http.StatusForbidden, code: "cross_origin", message: "another site's page may not do this"}
	noStorage    = &problem{status: http.StatusServiceUnavailable, code: "storage_unavailable", message: "the database cannot be used now", retryAfter: 5}
	busy         = &problem{status: http.StatusServiceUnavailable, code: "busy", message: "as much runs here as may: come back later", retryAfter: 1}
	shuttingDown = &problem{status: http.StatusServiceUnavailable, code: "shutting_down", message: "the connector is shutting down", retryAfter: 5}
	unknownID    = &problem{status: http.StatusUnprocessableEntity, code: "unknown_vehicle", message: "the database does not know the vehicle or the user, or wants a user_id"}
)

func invalid(message string) *problem {
	return &problem{status: http.StatusBadRequest, code: "invalid_request", message: message}
}

// refusal is what became of a command that did not start.
func refusal(err error) *problem {
	const foreignKey, notNull = "23503", "23502" // of the web application's tables
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, errBusy):
		return busy
	case errors.Is(err, errEnding), errors.Is(err, vehicle.ErrClosed), errors.Is(err, context.Canceled):
		return shuttingDown
	case errors.Is(err, vehicle.ErrInvalidCommand):
		return invalid("the command cannot be sent to a vehicle")
	case errors.As(err, &pg) && (pg.Code == foreignKey || pg.Code == notNull):
		return unknownID
	default:
		return noStorage
	}
}

func (p *problem) write(w http.ResponseWriter) {
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	type body struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	writeJSON(w, p.status, map[string]body{"error": {p.code, p.message}})
}

// notAllowed answers a method that a resource does not have.
func notAllowed(method string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", method)
		(&problem{status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: "want " + method}).write(w)
	}
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"the answer cannot be written"}}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a client that has gone needs no answer
}
