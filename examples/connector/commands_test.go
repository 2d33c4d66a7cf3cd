package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

func TestACommandRunsAndIsStored(t *testing.T) {
	t.Parallel()
	c := start(t, nil, vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Answer(`{"dtc": "P0420"}`, `{"dtc": "P0442"}`)}))
	car, user := uuid.New(), uuid.New()
	id := c.accepted(c.post(fmt.Sprintf(`{"vehicle_id":%q,"user_id":%q,"command_name":"ReadDTC",
		"command_params":{"ecu":"0x10","n":12345678901234567890,"x":1.50,"list":[1,true,null],"<":"<&>"}}`, car, user)))
	got := c.ended(id)

	if got.Status != vehicle.StatusCompleted || got.Name != "ReadDTC" || got.VehicleID != car || *got.UserID != user ||
		got.CompletedAt == nil || got.SubmittedAt == nil || got.ErrorMessage != nil {
		t.Errorf("got %+v", got.record)
	}
	var texts []string
	for _, chunk := range got.Chunks {
		texts = append(texts, fmt.Sprintf("%d %s %t", chunk.Seq, chunk.Payload, chunk.Final))
	}
	if diff := cmp.Diff([]string{`0 {"dtc":"P0420"} false`, `1 {"dtc":"P0442"} true`}, texts); diff != "" {
		t.Errorf("the chunks (-want +got):\n%s", diff)
	}
	want := map[string]string{"ecu": "0x10", "n": "12345678901234567890", "x": "1.50", "list": "[1,true,null]", "<": "<&>"}
	if diff := cmp.Diff(want, c.vehicles.Requests()[0].Command.GetCommandParams()); diff != "" {
		t.Errorf("the parameters at the vehicle (-want +got):\n%s", diff)
	}
	var audit string
	if err := c.db.QueryRow(t.Context(), `SELECT string_agg(action || ' ' || user_id, ',') FROM audit_logs WHERE command_id = $1::uuid`, id.String()).Scan(&audit); err != nil {
		t.Fatal(err)
	}
	if want := "command_completed " + user.String(); audit != want {
		t.Errorf("the audit trail: got %q, want %q", audit, want)
	}
}

func TestACommandThatTheVehicleRefusesIsStoredAsFailed(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	id := c.submit("FlyAway")
	if got := c.follow(id).rest(); len(got) != 1 || !strings.HasPrefix(got[0], "end error failed ") {
		t.Errorf("events: got %q, want an error and nothing else", got)
	}
	got := c.show("/commands/" + id.String())
	if got.Status != vehicle.StatusFailed || got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, "not supported") || len(got.Chunks) != 0 {
		t.Errorf("got %+v", got)
	}
	eventually(t, "it is counted as failed", func() bool { return c.stat("commands_failed") == 1 && c.stat("commands_completed") == 0 })
}

// The SDK's records and the connector's are in one log: what one calls command_id, the other does too.
func TestTheLogFindsACommandByItsID(t *testing.T) {
	t.Parallel()
	c := start(t, func(s *settings) {
		s.redis, s.heartbeat, s.poll = "redis://127.0.0.1:1/0", 20*time.Millisecond, 20*time.Millisecond
	}, vehicletest.On("ReadDTC",
		vehicletest.Script{vehicletest.Fail(codes.Unavailable, "tunnel")}, vehicletest.Script{vehicletest.Answer(`1`)}))
	id := c.submit("ReadDTC")
	c.ended(id)
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	for _, message := range []string{`"vehicle: retrying"`, `"events are not published"`, `"command ended"`} {
		record := regexp.MustCompile("(?m)^.* msg=" + message + ".*$").FindString(c.log.String())
		if !strings.Contains(record, " command_id="+id.String()) {
			t.Errorf("the log: got %q, want a record %s with command_id=%s", record, message, id)
		}
	}
}

// Whatever is refused says so in JSON, does not repeat what was sent, and does not reach a vehicle.
func TestPostRefuses(t *testing.T) {
	t.Parallel()
	const secret = "WVWZZZ1JZXW000001"
	valid := func(more string) string {
		return `{"vehicle_id":"123e4567-e89b-42d3-a456-426614174000","command_name":"ReadDTC"` + more + `}`
	}
	named := func(name string) string {
		return `{"vehicle_id":"123e4567-e89b-42d3-a456-426614174000","command_name":"` + name + `"}`
	}
	params := func(text string) string { return valid(`,"command_params":` + text) }
	many := make([]string, maxParams+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":1`, i)
	}
	tests := map[string]struct {
		body    string
		status  int
		message string
	}{
		"nothing":                         {"", 400, "too early"},
		"half an object":                  {`{"vehicle_id":"` + secret, 400, "too early"},
		"no JSON":                         {secret, 400, "not JSON, at byte 1"},
		"two objects":                     {valid("") + valid(""), 400, "nothing after it"},
		"an array":                        {`["` + secret + `"]`, 400, "want a JSON object"},
		"a text":                          {`"` + secret + `"`, 400, "want a JSON object"},
		"a field that nobody knows":       {valid(`,"` + secret + `":1`), 400, "no other fields"},
		"text that is not UTF-8":          {named("\xff" + secret), 400, "UTF-8"},
		"half a surrogate pair":           {params(`{"x":"` + secret + `\ud800"}`), 400, "half a surrogate pair"},
		"a number for a name":             {`{"command_name":77}`, 400, "command_name: wrong type"},
		"no vehicle":                      {`{"command_name":"ReadDTC"}`, 400, "vehicle_id"},
		"a vehicle that is no UUID":       {`{"command_name":"ReadDTC","vehicle_id":"` + secret + `"}`, 400, "vehicle_id"},
		"a vehicle with a digit too far":  {`{"command_name":"ReadDTC","vehicle_id":"123e4567-e89b-42d3-a456-42661417400g"}`, 400, "vehicle_id"},
		"a vehicle of zeros":              {`{"command_name":"ReadDTC","vehicle_id":"` + uuid.Nil.String() + `"}`, 400, "vehicle_id"},
		"a UUID in another form":          {`{"command_name":"ReadDTC","vehicle_id":"urn:uuid:123e4567-e89b-42d3-a456-426614174000"}`, 400, "vehicle_id"},
		"a user that is no UUID":          {valid(`,"user_id":"` + secret + `"`), 400, "user_id"},
		"no name":                         {`{"vehicle_id":"123e4567-e89b-42d3-a456-426614174000"}`, 400, "command_name"},
		"a name of blanks":                {named("  "), 400, "command_name"},
		"a name of 101 characters":        {named(strings.Repeat("é", 101)), 400, "command_name"},
		"a name with a NUL":               {named(secret + `\u0000`), 400, "command_name"},
		"parameters that are no object":   {params(`"` + secret + `"`), 400, "command_params: wrong type"},
		"too many parameters":             {params("{" + strings.Join(many, ",") + "}"), 400, "at most 64"},
		"a parameter without a name":      {params(`{"":"` + secret + `"}`), 400, "command_params: want names"},
		"a parameter with a long name":    {params(`{"` + strings.Repeat("x", 101) + `":1}`), 400, "command_params: want names"},
		"a parameter that is large":       {params(`{"x":"` + secret + strings.Repeat("x", maxParam) + `"}`), 400, "at most 4096 bytes"},
		"a body that is large":            {params(`{"x":"` + strings.Repeat(secret, 5000) + `"}`), 413, "at most 65536 bytes"},
		"a body that is large at its end": {valid("") + strings.Repeat(" ", maxBody), 413, "at most 65536 bytes"},
	}
	c := start(t, nil)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := c.post(test.body)
			if got.status != test.status || !strings.Contains(got.body, test.message) || !strings.HasPrefix(got.body, `{"error":{"code":`) {
				t.Errorf("got %d %s, want %d and %q", got.status, got.body, test.status, test.message)
			}
			if after := got.header.Get("Retry-After"); after != "" {
				t.Errorf("got Retry-After %q, where another time would not help", after)
			}
			if strings.Contains(got.body, secret[:8]) || strings.Contains(c.log.String(), secret[:8]) {
				t.Error("the answer or the log repeats what was sent")
			}
		})
	}
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", ";"} {
		t.Run("Content-Type "+media, func(t *testing.T) {
			t.Parallel()
			if got := c.do(http.MethodPost, "/commands", media, valid("")); got.status != http.StatusUnsupportedMediaType {
				t.Errorf("got %d %s, want 415", got.status, got.body)
			}
		})
	}
	t.Cleanup(func() { // after the subtests
		if got := len(c.vehicles.Requests()); got > 0 {
			t.Errorf("got %d requests at the vehicle, want none", got)
		}
	})
}

func TestPostTakesWhatIsWithinTheLimits(t *testing.T) {
	t.Parallel()
	c := start(t, nil, vehicletest.WithResponder(func(*vehicletest.Request) vehicletest.Script {
		return vehicletest.Script{vehicletest.Answer("1")}
	}))
	params := make(map[string]string)
	for i := range maxParams - 1 {
		params[fmt.Sprintf("%0*d", maxParamName, i)] = "1"
	}
	params["x"] = strings.Repeat("x", maxParam-len(`""`))
	body, err := json.Marshal(map[string]any{"vehicle_id": uuid.New(), "command_name": strings.Repeat("é", maxName), "command_params": params})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ended(c.accepted(c.post(string(body) + strings.Repeat(" ", maxBody-len(body))))); got.Status != vehicle.StatusCompleted {
		t.Errorf("got %+v", got.record)
	}
	if diff := cmp.Diff(params, c.vehicles.Requests()[0].Command.GetCommandParams()); diff != "" {
		t.Errorf("the parameters at the vehicle (-want +got):\n%s", diff)
	}
}

func TestHalfASurrogatePairIsFound(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		body string
		want bool
	}{
		"no escape":                           {`{"x":"ud800"}`, false},
		"other escapes":                       {`"\n\"\u00e9\ufffd\ue000"`, false},
		"another escape before d800":          {`"\nd800"`, false},
		"a first half before ude97":           {`"\ud83dxude97"`, true},
		"a pair":                              {`"\ud83d\ude97"`, false},
		"a pair in capitals":                  {`"\uD83D\uDE97"`, false},
		"two pairs":                           {`"\ud83d\ude97\ud83d\ude97"`, false},
		"an escaped backslash before ud800":   {`"\\ud800"`, false},
		"an escaped backslash before a half ": {`"\\\ud800"`, true},
		"a first half":                        {`"\ud800"`, true},
		"a second half":                       {`"\udc00"`, true},
		"two first halves":                    {`"\ud800\ud800"`, true},
		"a pair the wrong way round":          {`"\ude97\ud83d"`, true},
		"a half before a character":           {`"\ud83d\u0041"`, true},
		"a half after a pair":                 {`"\ud83d\ude97\ude97"`, true},
		"a half in a name":                    {`{"\udfff":1}`, true},
		"a half at the end":                   {`\udbff`, true},
		"a pair that is cut off":              {`\ud83d\ude9`, true},
		"an escape that is cut off":           {`"\ud83`, false}, // not JSON
		"a backslash at the end":              {`"\`, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := loneSurrogate([]byte(test.body)); got != test.want {
				t.Errorf("%s: got %t, want %t", test.body, got, test.want)
			}
		})
	}
}

func TestResourcesThatAreNotThere(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/nothing", 404},
		{http.MethodGet, "/commands/x", 404},
		{http.MethodGet, "/commands/x/events", 404},
		{http.MethodGet, "/commands/" + uuid.NewString(), 404},
		{http.MethodGet, "/commands/" + uuid.NewString() + "/events", 404},
		{http.MethodGet, "/commands/" + uuid.NewString() + "?from=x", 400},
		{http.MethodGet, "/commands/" + uuid.NewString() + "?from=-1", 400},
		{http.MethodGet, "/commands", 405},
		{http.MethodDelete, "/commands/" + uuid.NewString(), 405},
		{http.MethodPost, "/commands/" + uuid.NewString() + "/events", 405},
		{http.MethodPost, "/commands/" + uuid.NewString() + "/attempts", 405},
	} {
		got := c.do(test.method, test.path, "", "")
		if got.status != test.want || !strings.HasPrefix(got.body, `{"error":{"code":`) || got.status == 405 && got.header.Get("Allow") == "" {
			t.Errorf("%s %s: got %d %s, want %d in JSON", test.method, test.path, got.status, got.body, test.want)
		}
	}
}

func TestMoreCommandsThanMayRunAreRefused(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := start(t, func(s *settings) { s.maxRunning = 2 },
		vehicletest.On("Wait", vehicletest.Script{vehicletest.Until(release), vehicletest.Answer("1")}))
	first, second := c.submit("Wait"), c.submit("Wait")
	got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"Wait"}`, uuid.NewString()))
	if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") != "1" || !strings.Contains(got.body, `"busy"`) {
		t.Errorf("got %d %v %s, want 503 with Retry-After", got.status, got.header, got.body)
	}
	if got := c.stat("commands_running"); got != 2 {
		t.Errorf("got %d running commands, want 2", got)
	}
	close(release)
	c.ended(first)
	c.ended(second)
	eventually(t, "there is a place", func() bool { return c.stat("commands_running") == 0 })
	c.ended(c.submit("Wait"))
	// The row has completed a moment before the command has been announced and counted.
	eventually(t, "three commands are counted", func() bool { return c.stat("commands_completed") == 3 })
	if got := c.stat("commands_accepted"); got != 3 {
		t.Errorf("got %d accepted commands, want 3", got)
	}
}

// On the web application's tables the database knows which vehicles there are.
func TestAVehicleThatTheDatabaseDoesNotKnow(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	c.exec(`CREATE TABLE vehicles (vehicle_id uuid PRIMARY KEY)`)
	c.exec(`ALTER TABLE commands ADD FOREIGN KEY (vehicle_id) REFERENCES vehicles`)
	got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"ReadDTC"}`, uuid.NewString()))
	if got.status != http.StatusUnprocessableEntity || !strings.Contains(got.body, `"unknown_vehicle"`) {
		t.Errorf("got %d %s, want 422", got.status, got.body)
	}
	c.exec(`ALTER TABLE commands ADD CHECK (command_name <> 'Forbidden')`)
	if got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"Forbidden"}`, uuid.NewString())); got.status != http.StatusServiceUnavailable {
		t.Errorf("what the database has another reason to refuse: got %d %s, want 503", got.status, got.body)
	}
	c.exec(`ALTER TABLE commands ALTER user_id SET NOT NULL`)
	if got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"ReadDTC"}`, uuid.NewString())); got.status != http.StatusUnprocessableEntity {
		t.Errorf("without a user: got %d %s, want 422", got.status, got.body)
	}
	if got := len(c.vehicles.Requests()); got > 0 {
		t.Errorf("got %d requests at the vehicle, want none", got)
	}
}

func TestALongAnswerComesInPages(t *testing.T) {
	t.Parallel()
	part := `"` + strings.Repeat("x", 400) + `"`
	c := start(t, func(s *settings) { s.page = 1000 }, vehicletest.On("ReadLog", vehicletest.Script{vehicletest.NumberFrom(1), vehicletest.Answer(part, part, part, part, part)}))
	id := c.submit("ReadLog")
	if got := len(c.follow(id).rest()); got != 6 {
		t.Errorf("got %d events, want 6", got)
	}
	var seqs []int32
	pages := 1
	for path := "/commands/" + id.String() + "?from=0"; ; pages++ {
		page := c.show(path)
		for _, chunk := range page.Chunks {
			seqs = append(seqs, chunk.Seq)
		}
		if page.NextFrom == nil {
			break
		}
		path = fmt.Sprintf("/commands/%s?from=%d", id, *page.NextFrom)
	}
	if diff := cmp.Diff([]int32{1, 2, 3, 4, 5}, seqs); diff != "" || pages != 3 {
		t.Errorf("got %d pages, want 3; the chunks (-want +got):\n%s", pages, diff)
	}
}

func TestWithoutADatabaseNoCommandIsTaken(t *testing.T) {
	t.Parallel()
	c := start(t, func(s *settings) {
		s.database, s.migrate = "postgres://connector:secret@127.0.0.1:1/none", false
		s.recordTimeout = 300 * time.Millisecond
	})
	got := c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":"ReadDTC"}`, uuid.NewString()))
	if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "storage_unavailable") || got.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 503 with Retry-After", got.status, got.body)
	}
	eventually(t, "the command is given up", func() bool { return c.stat("commands_running") == 0 })
	for _, path := range []string{"", "/events"} {
		if got := c.get("/commands/" + uuid.NewString() + path); got.status != http.StatusServiceUnavailable {
			t.Errorf("GET %s: got %d %s, want 503", path, got.status, got.body)
		}
	}
	if got := c.get("/readyz"); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, `"postgres":"unreachable"`) {
		t.Errorf("/readyz: got %d %s, want 503", got.status, got.body)
	}
	if got := c.get("/healthz"); got.status != http.StatusOK {
		t.Errorf("/healthz: got %d %s, want 200", got.status, got.body)
	}
	if got := len(c.vehicles.Requests()); got > 0 {
		t.Errorf("got %d requests at the vehicle, want none", got)
	}
	if strings.Contains(c.log.String(), "secret") {
		t.Error("the log has the password")
	}
}
