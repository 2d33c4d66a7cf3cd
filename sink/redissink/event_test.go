package redissink_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/redissink"
)

var (
	goldenCommand  = uuid.MustParse("123e4567-e89b-42d3-a456-426614174000")
	goldenResponse = uuid.MustParse("0b4e87ae-33d4-5e0a-8cf1-6b1e0e4f1a55")
	goldenTime     = time.Date(2026, 3, 1, 12, 30, 0, 123456000, time.UTC)
)

func goldenEvents() map[string]redissink.Event {
	return map[string]redissink.Event{
		`{"event":"response","command_id":"123e4567-e89b-42d3-a456-426614174000","response_id":"0b4e87ae-33d4-5e0a-8cf1-6b1e0e4f1a55","response_payload":{"ecu":"ABS","dtcs":["C0035-13"]},"sequence_number":7,"is_final":true}`: {
			Event: "response", CommandID: goldenCommand, ResponseID: goldenResponse,
			Payload: json.RawMessage(`{"ecu":"ABS","dtcs":["C0035-13"]}`), Seq: 7, Final: true,
		},
		`{"event":"status","command_id":"123e4567-e89b-42d3-a456-426614174000","status":"completed","completed_at":"2026-03-01T12:30:00.123456Z"}`: {
			Event: "status", CommandID: goldenCommand, Status: vehicle.StatusCompleted, CompletedAt: goldenTime,
		},
		`{"event":"error","command_id":"123e4567-e89b-42d3-a456-426614174000","status":"failed","completed_at":"2026-03-01T12:30:00.123456Z","error_message":"vehicle: \"timed out\""}`: {
			Event: "error", CommandID: goldenCommand, Status: vehicle.StatusFailed, CompletedAt: goldenTime, ErrorMessage: `vehicle: "timed out"`,
		},
	}
}

func TestEventJSON(t *testing.T) {
	t.Parallel()
	for text, event := range goldenEvents() {
		t.Run(event.Event, func(t *testing.T) {
			t.Parallel()
			elsewhere := event
			elsewhere.CompletedAt = event.CompletedAt.In(time.FixedZone("CET", 60*60))
			got, err := json.Marshal(elsewhere)
			if err != nil || string(got) != text {
				t.Errorf("marshal: got %s, %v, want %s", got, err, text)
			}
			var back redissink.Event
			if err := json.Unmarshal([]byte(text), &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(event, back); diff != "" {
				t.Errorf("unmarshal (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEventKeepsThePayloadAsItIs(t *testing.T) {
	t.Parallel()
	payload := "{ \"text\" : \"<b>&amp;\\u2028\u2028\",\n \"n\": 1.50e+07 }"
	got, err := redissink.Event{Event: "response", Payload: json.RawMessage(payload)}.MarshalJSON()
	if err != nil || !strings.Contains(string(got), payload) {
		t.Errorf("got %s, %v, want it to hold %s", got, err, payload)
	}
	got, err = redissink.Event{Event: "error", ErrorMessage: "<ECU> & \"gateway\"\n"}.MarshalJSON()
	if want := `"error_message":"<ECU> & \"gateway\"\n"}`; err != nil || !strings.HasSuffix(string(got), want) {
		t.Errorf("got %s, %v, want it to end with %s", got, err, want)
	}
	got, err = redissink.Event{Event: "response"}.MarshalJSON()
	if want := `"response_payload":null,`; err != nil || !strings.Contains(string(got), want) {
		t.Errorf("got %s, %v, want it to hold %s", got, err, want)
	}
}

func TestEventsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for name, event := range map[string]redissink.Event{
		"a zero event":                     {},
		"an unknown kind":                  {Event: "progress"},
		"a payload that is not JSON":       {Event: "response", Payload: json.RawMessage(`{`)},
		"a payload that closes the object": {Event: "response", Payload: json.RawMessage(`1},{`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := event.MarshalJSON(); err == nil {
				t.Errorf("got %s, want an error", got)
			}
		})
	}
}

func TestEventReadsWhatTheWebApplicationWrites(t *testing.T) {
	t.Parallel()
	const prefix = `{"event":"status","command_id":"123e4567-e89b-42d3-a456-426614174000","status":"completed","completed_at":`
	for at, want := range map[string]time.Time{
		`"2026-03-01T12:30:00.123456+00:00"`: goldenTime,
		`"2026-03-01T13:30:00.123456+01:00"`: goldenTime,
		`"2026-03-01T12:30:00.123456"`:       goldenTime,
		`"2026-03-01T12:30:00"`:              goldenTime.Truncate(time.Second),
		`null`:                               {},
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			var got redissink.Event
			if err := json.Unmarshal([]byte(prefix+at+`,"extra":[1],"error_message":"of another kind","sequence_number":7}`), &got); err != nil {
				t.Fatal(err)
			}
			want := redissink.Event{Event: "status", CommandID: goldenCommand, Status: vehicle.StatusCompleted, CompletedAt: want}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEventsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	const id = `"123e4567-e89b-42d3-a456-426614174000"`
	for name, text := range map[string]string{
		"an array":                      `[]`,
		"no command":                    `{"event":"status","status":"completed"}`,
		"a command that is null":        `{"event":"status","command_id":null}`,
		"a command that is no id":       `{"event":"status","command_id":"secret"}`,
		"an unknown kind":               `{"event":"progress","command_id":` + id + `}`,
		"a response without a payload":  `{"event":"response","command_id":` + id + `,"response_id":` + id + `,"sequence_number":1}`,
		"a response without a number":   `{"event":"response","command_id":` + id + `,"response_id":` + id + `,"response_payload":1}`,
		"a response without an id":      `{"event":"response","command_id":` + id + `,"sequence_number":1,"response_payload":1}`,
		"a number that is out of range": `{"event":"response","command_id":` + id + `,"response_id":` + id + `,"sequence_number":2147483648,"response_payload":"secret"}`,
		"a time that is none":           `{"event":"status","command_id":` + id + `,"completed_at":"secret"}`,
		"a time after the year 9999":    `{"event":"status","command_id":` + id + `,"completed_at":"9999-12-31T23:30:00-01:00"}`,
		"a time before the year 0":      `{"event":"status","command_id":` + id + `,"completed_at":"0000-01-01T00:30:00+01:00"}`,
		"a command in a foreign form":   `{"event":"status","command_id":"secret   123e4567-e89b-42d3-a456-426614174000"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := redissink.Event{Event: "untouched"}
			got := before
			err := got.UnmarshalJSON([]byte(text))
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("got the error %v, want one without the data", err)
			}
			if diff := cmp.Diff(before, got); diff != "" {
				t.Errorf("the event was changed:\n%s", diff)
			}
			if unknown := errors.Is(err, redissink.ErrUnknown); unknown != (name == "an unknown kind") {
				t.Errorf("unknown kind: got %t", unknown)
			}
		})
	}
}

// An event that can be read is written and read again as the same.
func FuzzEvent(f *testing.F) {
	for text := range goldenEvents() {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"event":"error","command_id":"urn:uuid:123e4567-e89b-42d3-a456-426614174000","completed_at":"0000-01-01T00:00:00+23:59"}`))
	f.Add([]byte(`{"EVENT":"response","command_id":"{123e4567-e89b-42d3-a456-426614174000}","response_id":"123e4567e89b42d3a456426614174000","response_payload": null ,"sequence_number":-0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second redissink.Event
		if first.UnmarshalJSON(data) != nil {
			return
		}
		text, err := first.MarshalJSON()
		if err != nil {
			t.Fatalf("marshal: %v", err)
		}
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		if err := second.UnmarshalJSON(text); err != nil {
			t.Fatalf("unmarshal %s: %v", text, err)
		}
		first.CompletedAt = first.CompletedAt.Truncate(time.Microsecond) // as it is written
		if first.CompletedAt.IsZero() && second.CompletedAt.IsZero() {
			first.CompletedAt = second.CompletedAt
		}
		if diff := cmp.Diff(fmt.Sprintf("%#v", first), fmt.Sprintf("%#v", second)); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}
