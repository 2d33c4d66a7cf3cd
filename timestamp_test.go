package vehicle

import (
	"hash/maphash"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/vehiclepb"
)

func TestParseTimestamp(t *testing.T) {
	t.Parallel()
	at := func(nanoseconds int) time.Time { return time.Date(2026, 3, 1, 12, 30, 45, nanoseconds, time.UTC) }
	tests := map[string]struct {
		text string
		want time.Time
	}{
		"UTC":                                 {"2026-03-01T12:30:45Z", at(0)},
		"UTC with microseconds":               {"2026-03-01T12:30:45.123456Z", at(123456000)},
		"UTC with nanoseconds":                {"2026-03-01T12:30:45.123456789Z", at(123456789)},
		"no zone is UTC":                      {"2026-03-01T12:30:45", at(0)},
		"no zone, as Python's isoformat":      {"2026-03-01T12:30:45.123456", at(123456000)},
		"an offset becomes UTC":               {"2026-03-01T14:30:45+02:00", at(0)},
		"an offset of minutes becomes UTC":    {"2026-03-01T18:00:45.5+05:30", at(500000000)},
		"an offset west becomes UTC":          {"2026-03-01T04:30:45-08:00", at(0)},
		"an offset without a colon":           {"2026-03-01T14:30:45+0200", at(0)},
		"an offset of hours":                  {"2026-03-01T14:30:45+02", at(0)},
		"a comma before the fraction":         {"2026-03-01T12:30:45,25Z", at(250000000)},
		"a space, as RFC 3339 allows":         {"2026-03-01 12:30:45Z", at(0)},
		"a space and no zone":                 {"2026-03-01 12:30:45.5", at(500000000)},
		"the basic form":                      {"20260301T123045Z", at(0)},
		"the basic form with an offset":       {"20260301T143045.5+0200", at(500000000)},
		"the basic form without a zone":       {"20260301T123045", at(0)},
		"a leap day":                          {"2028-02-29T00:00:00Z", time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)},
		"nothing is zero":                     {"", time.Time{}},
		"a word is zero":                      {"yesterday", time.Time{}},
		"seconds since 1970 are zero":         {"1772368245", time.Time{}},
		"a day that there is not is zero":     {"2026-02-29T00:00:00Z", time.Time{}},
		"an hour that there is not is zero":   {"2026-03-01T25:00:00Z", time.Time{}},
		"a date alone is zero":                {"2026-03-01", time.Time{}},
		"text behind it is zero":              {"2026-03-01T12:30:45Z or so", time.Time{}},
		"eleven bytes with a space are zero":  {"2026-03-01 ", time.Time{}},
		"a long text is zero":                 {strings.Repeat("2026-03-01T12:30:45Z", 1000), time.Time{}},
		"no text is zero":                     {"\xff\xfe2026-03-01", time.Time{}},
		"a year over 9999 in UTC is zero":     {"9999-12-31T23:59:59-01:00", time.Time{}}, // time.Time could not be written as JSON
		"a year before 0 in UTC is zero":      {"0000-01-01T00:00:00+01:00", time.Time{}},
		"a clock that was never set is early": {"1970-01-01T00:00:12Z", time.Unix(12, 0).UTC()},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := new(clock).parse(tt.text)
			if !got.Equal(tt.want) || got.Location() != time.UTC {
				t.Errorf("parse(%q): got %v, want %v", tt.text, got, tt.want)
			}
		})
	}
}

func FuzzParseTimestamp(f *testing.F) {
	for _, text := range []string{
		"2026-03-01T12:30:45.123456", "2026-03-01T14:30:45+02:00", "2026-03-01 12:30:45,5Z", "20260301T143045.5+0200",
		"9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00", "2026-03-01 ", "2026-03-01T12:30:45.-5Z", "",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c clock
		got := c.parse(text)
		if again, other := c.parse(text), parseTimestamp(text); !again.Equal(got) || !other.Equal(got) {
			t.Errorf("parse(%q): got %v, then %v, and %v by package time alone", text, got, again, other)
		}
		if got.Location() != time.UTC {
			t.Errorf("parse(%q): got zone %v, want UTC", text, got.Location())
		}
		written, err := got.MarshalJSON() // a sink does so
		if err != nil {
			t.Fatalf("parse(%q): got %v, which is no JSON: %v", text, got, err)
		}
		var read time.Time
		if err := read.UnmarshalJSON(written); err != nil || !read.Equal(got) {
			t.Errorf("parse(%q): got %v, and %v, %v out of its JSON", text, got, read, err)
		}
		if want, err := time.Parse(time.RFC3339Nano, text); err == nil {
			if want = want.UTC(); want.Year() < 0 || want.Year() > 9999 {
				want = time.Time{}
			}
			if !got.Equal(want) {
				t.Errorf("parse(%q): got %v, want %v", text, got, want)
			}
		}
	})
}

// What a receiver makes of one message.
func TestDecode(t *testing.T) {
	t.Parallel()
	cmd, err := prepare(Command{ID: uuid.MustParse("7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5"), VehicleID: uuid.New(), Name: "ReadDTC"})
	if err != nil {
		t.Fatal(err)
	}
	const id = "7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5"
	tests := map[string]struct {
		message *vehiclepb.CommandResponse
		want    Chunk
		err     string
	}{
		"every field": {
			message: &vehiclepb.CommandResponse{CommandId: id, ResponsePayload: `{"dtc":"P0420-00"}`, SequenceNumber: 7, IsFinal: true, Timestamp: "2026-03-01T12:30:45"},
			want:    Chunk{Seq: 7, Payload: []byte(`{"dtc":"P0420-00"}`), Final: true, Timestamp: time.Date(2026, 3, 1, 12, 30, 45, 0, time.UTC)}},
		"no payload is null": {
			message: &vehiclepb.CommandResponse{CommandId: id}, want: Chunk{Payload: []byte("null")}},
		"a payload is kept as it came": {
			message: &vehiclepb.CommandResponse{CommandId: id, ResponsePayload: " {\"b\":1, \"a\":1e2}\n"}, want: Chunk{Payload: []byte(" {\"b\":1, \"a\":1e2}\n")}},
		"an unreadable timestamp is zero": {
			message: &vehiclepb.CommandResponse{CommandId: id, ResponsePayload: `1`, Timestamp: "noon"}, want: Chunk{Payload: []byte("1")}},
		"the command's id in capitals": {
			message: &vehiclepb.CommandResponse{CommandId: strings.ToUpper(id), ResponsePayload: `1`}, want: Chunk{Payload: []byte("1")}},
		"another command's id": {
			message: &vehiclepb.CommandResponse{CommandId: uuid.Nil.String(), SequenceNumber: 3, ResponsePayload: `1`},
			err:     `chunk 3 answers command "00000000-0000-0000-0000-000000000000"`},
		"no command id": {
			message: &vehiclepb.CommandResponse{ResponsePayload: `1`}, err: `chunk 0 answers command ""`},
		"a VIN where the command's id belongs": {
			message: &vehiclepb.CommandResponse{CommandId: "WVWZZZ1JZXW000001\n", ResponsePayload: `1`}, err: `chunk 0 answers command "[VIN]"`},
		"half of a JSON value": {
			message: &vehiclepb.CommandResponse{CommandId: id, SequenceNumber: 2, ResponsePayload: `{"vin":"secret"`}, err: "the payload of chunk 2 (15 bytes) is not JSON"},
		"two JSON values": {
			message: &vehiclepb.CommandResponse{CommandId: id, ResponsePayload: `1 2`}, err: "the payload of chunk 0 (3 bytes) is not JSON"},
		"a space": {
			message: &vehiclepb.CommandResponse{CommandId: id, ResponsePayload: ` `}, err: "the payload of chunk 0 (1 byte) is not JSON"},
		"NaN": {
			message: &vehiclepb.CommandResponse{CommandId: id, ResponsePayload: `NaN`}, err: "the payload of chunk 0 (3 bytes) is not JSON"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := time.Now()
			var got Chunk
			err := (&receiver{cmd: &cmd, wire: testCodec(cmd.request)}).decode(tt.message, &got)
			if err == nil {
				_, err = check(&got, maphash.MakeSeed())
			}
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatalf("got error %v, want none", err)
			}
			if got.ReceivedAt.Before(before) || got.ReceivedAt.After(time.Now()) {
				t.Errorf("ReceivedAt: got %v, want now", got.ReceivedAt)
			}
			tt.want.CommandID, tt.want.VehicleID, tt.want.ReceivedAt = cmd.ID, cmd.VehicleID, got.ReceivedAt
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("chunk (-want +got):\n%s", diff)
			}
		})
	}
}

// A chunk's ReceivedAt is what time.Now gives, whatever time has passed since the chunk before.
func TestClockKeepsUpWithTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c clock
		for _, wait := range []time.Duration{0, time.Nanosecond, 999 * time.Millisecond, time.Second, 3 * time.Hour, 0} {
			time.Sleep(wait)
			if got, want := c.now(), time.Now(); !got.Equal(want) || got.Sub(want) != 0 {
				t.Errorf("after %v: got %v, want %v", wait, got, want)
			}
		}
	})
}
