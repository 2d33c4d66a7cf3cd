package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

// The limits of a command.
const (
	maxBody      = 64 << 10 // bytes
	maxName      = 100      // characters, as commands.command_name holds
	maxParams    = 64
	maxParamName = 100     // characters
	maxParam     = 4 << 10 // bytes of JSON
)

// commandRequest is the body of POST /commands.
type commandRequest struct {
	VehicleID string                     `json:"vehicle_id"`
	Name      string                     `json:"command_name"`
	Params    map[string]json.RawMessage `json:"command_params"`
	UserID    *string                    `json:"user_id"`
}

// readCommand reads and checks what a client wants, and gives the command an id.
func readCommand(w http.ResponseWriter, r *http.Request) (vehicle.Command, *problem) {
	var req commandRequest
	if p := readJSON(w, r, &req); p != nil {
		return vehicle.Command{}, p
	}
	return req.command()
}

func readJSON(w http.ResponseWriter, r *http.Request, into *commandRequest) *problem {
	// Browsers do not send this type across origins without asking first.
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return &problem{status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", message: "want Content-Type: application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", message: fmt.Sprintf("want a body of at most %d bytes", maxBody)}
	case err != nil:
		return invalid("the body could not be read")
	case !utf8.Valid(body): // encoding/json would replace what is not
		return invalid("want a body in UTF-8")
	case loneSurrogate(body): // and that
		return invalid("want no escape of half a surrogate pair")
	}
	return decode(body, into)
}

// loneSurrogate looks for an escape of half a surrogate pair. Only strings have backslashes in JSON.
func loneSurrogate(body []byte) bool {
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		switch unit := escaped(body[i:]); {
		case !utf16.IsSurrogate(unit):
			i++ // what is escaped may be a backslash
		case utf16.DecodeRune(unit, escaped(body[i+6:])) == unicode.ReplacementChar:
			return true
		default:
			i += 11
		}
	}
	return false
}

// escaped gives the UTF-16 unit of the escape that text begins with; -1: there is none.
func escaped(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(unit)
}

// decode does not repeat the texts of encoding/json's errors, which may quote the body.
func decode(body []byte, into *commandRequest) *problem {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return invalid("want one JSON object and nothing after it")
		}
		return nil
	}
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &mismatch) && mismatch.Field != "":
		return invalid(fmt.Sprintf("%.100s: wrong type of JSON value", mismatch.Field))
	case errors.As(err, &mismatch):
		return invalid("want a JSON object")
	case errors.As(err, &syntax):
		return invalid(fmt.Sprintf("the body is not JSON, at byte %d", syntax.Offset))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the body is not JSON: it ends too early")
	default:
		return invalid("want no other fields than vehicle_id, command_name, command_params and user_id")
	}
}

func (req commandRequest) command() (vehicle.Command, *problem) {
	cmd := vehicle.Command{ID: uuid.New(), Name: req.Name}
	var ok bool
	if cmd.VehicleID, ok = parseID(req.VehicleID); !ok {
		return cmd, invalid("vehicle_id: want a UUID")
	}
	if req.UserID != nil {
		if cmd.UserID, ok = parseID(*req.UserID); !ok {
			return cmd, invalid("user_id: want a UUID, or leave it out")
		}
	}
	if !isText(req.Name, maxName) || strings.TrimSpace(req.Name) == "" {
		return cmd, invalid(fmt.Sprintf("command_name: want 1 to %d characters, none of them a control character", maxName))
	}
	if len(req.Params) > maxParams {
		return cmd, invalid(fmt.Sprintf("command_params: want at most %d", maxParams))
	}
	var p *problem
	cmd.Params, p = params(req.Params)
	return cmd, p
}

// params keeps numbers as they were written: a JSON number is not always a float64.
func params(raw map[string]json.RawMessage) (map[string]any, *problem) {
	values := make(map[string]any, len(raw))
	for name, text := range raw {
		if !isText(name, maxParamName) || name == "" {
			return nil, invalid(fmt.Sprintf("command_params: want names of 1 to %d characters, none of them a control character", maxParamName))
		}
		if len(text) > maxParam {
			return nil, invalid(fmt.Sprintf("command_params: want values of at most %d bytes", maxParam))
		}
		var value any
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			return nil, invalid("command_params: a value cannot be read")
		}
		values[name] = value
	}
	return values, nil
}

// parseID takes the one form that is stored and answered, of those that uuid.Parse takes.
func parseID(text string) (uuid.UUID, bool) {
	id, err := uuid.Parse(text)
	return id, err == nil && len(text) == len(uuid.UUID{}.String()) && id != uuid.Nil
}

func isText(s string, most int) bool {
	return utf8.RuneCountInString(s) <= most && !strings.ContainsFunc(s, unicode.IsControl)
}
