package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sovd-go/vehicle/vehicletest"
)

// browser_test.go has what the page does in a browser.

func TestThePageAndItsFiles(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	for path, media := range map[string]string{
		"/": "text/html", "/?command=" + uuid.NewString(): "text/html", "/page/page.css": "text/css",
		"/page/page.js": "text/javascript", "/page/follow.js": "text/javascript", "/page/attempts.js": "text/javascript", "/page/icon.svg": "image/svg+xml",
	} {
		got := c.get(path)
		if got.status != http.StatusOK || !strings.HasPrefix(got.header.Get("Content-Type"), media) || got.body == "" {
			t.Errorf("%s: got %d %s, want %s", path, got.status, got.header.Get("Content-Type"), media)
		}
		policy := got.header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; ") || strings.Contains(policy, "unsafe") || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: got the policy %q", path, policy)
		}
		if got.header.Get("Referrer-Policy") != "no-referrer" || got.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: got %v, want that others do not learn the address, and that a newer page is noticed", path, got.header)
		}
		for _, outside := range []string{"http://", "https://", "url(", "@import"} {
			if strings.Contains(strings.ReplaceAll(got.body, `"http://www.w3.org/2000/svg"`, ""), outside) {
				t.Errorf("%s: names something outside: %s", path, outside)
			}
		}
	}
	for _, path := range []string{"/page", "/page/", "/page/index.html", "/page/../page.go", "/index.html"} {
		if got := c.get(path); got.status != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, got.status)
		}
	}
}

func TestTheLinkCanBeCutOnlyToAMock(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	script := []vehicletest.Script{
		{vehicletest.Send("1"), vehicletest.Stall()},
		{vehicletest.Resume(), vehicletest.Until(release), vehicletest.Answer("1", "2")},
	}
	c := start(t, func(s *settings) { s.embedded = true }, vehicletest.On("Read", script...))
	if got := c.get("/"); !strings.Contains(got.body, "Cut the link") || !strings.Contains(got.body, longCommand) {
		t.Error("the page does not offer to cut the link to a mock")
	}
	id := c.submit("Read")
	f := c.follow(id)
	if got := f.event(); got != "0 1" {
		t.Fatalf("got event %q, want the first chunk", got)
	}
	if got := c.get("/link/cut"); got.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: got %d, want 405", got.status)
	}
	if got := c.do(http.MethodPost, "/link/cut", "", ""); got.status != http.StatusNoContent {
		t.Errorf("got %d %s, want 204", got.status, got.body)
	}
	close(release)
	if diff := cmp.Diff([]string{"1 2", "end status completed"}, f.rest()); diff != "" {
		t.Errorf("the events after the cut (-want +got):\n%s", diff)
	}

	c = start(t, nil)
	if got := c.get("/"); strings.Contains(got.body, "Cut the link") || strings.Contains(got.body, longCommand) {
		t.Error("the page offers to cut the link to real vehicles")
	}
	if got := c.do(http.MethodPost, "/link/cut", "", ""); got.status != http.StatusNotFound {
		t.Errorf("without a mock: got %d, want 404", got.status)
	}
}

// A page of another site that a user of the connector visits can make the browser send requests.
func TestOtherSitesCannotPost(t *testing.T) {
	t.Parallel()
	c := start(t, func(s *settings) { s.embedded = true })
	command := fmt.Sprintf(`{"vehicle_id":%q,"command_name":"ReadDTC"}`, uuid.NewString())
	tests := map[string]struct {
		header  []string
		allowed bool
	}{
		"a page of another site":                    {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, false},
		"a page of another port of this machine":    {[]string{"Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"}, false},
		"a sandboxed page":                          {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "null"}, false},
		"an old browser, on a page of another site": {[]string{"Origin", "https://evil.example"}, false},
		"our page":                                   {[]string{"Sec-Fetch-Site", "same-origin", "Origin", c.url}, true},
		"our page in an old browser":                 {[]string{"Origin", c.url}, true},
		"a program, which is nobody's page":          {nil, true},
		"an address that the user has typed himself": {[]string{"Sec-Fetch-Site", "none"}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for path, want := range map[string]int{"/commands": http.StatusAccepted, "/link/cut": http.StatusNoContent} {
				got := c.do(http.MethodPost, path, "application/json", command, test.header...)
				if !test.allowed {
					want = http.StatusForbidden
				}
				if got.status != want || !test.allowed && !strings.Contains(got.body, `"cross_origin"`) {
					t.Errorf("POST %s: got %d %s, want %d", path, got.status, got.body, want)
				}
			}
		})
	}
	t.Run("a form, which knows no JSON", func(t *testing.T) {
		t.Parallel()
		for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
			if got := c.do(http.MethodPost, "/commands", media, command); got.status != http.StatusUnsupportedMediaType {
				t.Errorf("%s: got %d, want 415", media, got.status)
			}
		}
	})
}

func TestTheAttemptsAreKnown(t *testing.T) {
	t.Parallel()
	cut := make(chan struct{})
	c := start(t, nil, vehicletest.On("Read",
		vehicletest.Script{vehicletest.Send("1", "2"), vehicletest.Until(cut), vehicletest.Cut()},
		vehicletest.Script{vehicletest.Resume(), vehicletest.Send("1", "2", "3"), vehicletest.Cut()},
		vehicletest.Script{vehicletest.Answer("1", "2", "3", "4")}))
	id := c.submit("Read")
	f := c.follow(id)
	f.event()
	if got, want := c.attempts(id), `1 0..1 ""`; got != want {
		eventually(t, "the first attempt is known", func() bool { return c.attempts(id) == want })
	}
	close(cut)
	f.rest()
	want := strings.Join([]string{`1 0..1 "Unavailable"`, `2 from 2 2..2 "Unavailable"`, `3 from 3 0..3 "OK"`, `completed 3 4 3`}, "\n")
	eventually(t, "the attempts are\n"+want, func() bool { return c.attempts(id) == want })

	waiting := uuid.New()
	c.service.traces.begin(t.Context(), waiting)
	if got := c.get("/commands/" + waiting.String() + "/attempts").body; !strings.Contains(got, `"attempts":[]`) {
		t.Errorf("before the first: got %s, want an empty list", got)
	}
	if got := c.get("/commands/" + uuid.NewString() + "/attempts"); got.status != http.StatusNotFound {
		t.Errorf("of an unknown command: got %d, want 404", got.status)
	}
	if got := c.get("/commands/x/attempts"); got.status != http.StatusNotFound {
		t.Errorf("of what is no id: got %d, want 404", got.status)
	}
}

// attempts gives what GET /commands/{id}/attempts says, in short.
func (c *connector) attempts(id uuid.UUID) string {
	c.tb.Helper()
	var answer struct {
		Attempts []attempt `json:"attempts"`
		Outcome  *outcome  `json:"outcome"`
	}
	if got := c.get("/commands/" + id.String() + "/attempts"); got.status != http.StatusOK || json.Unmarshal([]byte(got.body), &answer) != nil {
		c.tb.Fatalf("got %d %s", got.status, got.body)
	}
	var lines []string
	for _, a := range answer.Attempts {
		line := fmt.Sprint(a.Number)
		if a.ResumeFrom != nil {
			line += fmt.Sprintf(" from %d", *a.ResumeFrom)
		}
		if a.First != nil && a.Last != nil {
			line += fmt.Sprintf(" %d..%d", *a.First, *a.Last)
		}
		lines = append(lines, fmt.Sprintf("%s %q", line, a.Code))
	}
	if o := answer.Outcome; o != nil {
		lines = append(lines, fmt.Sprint(o.Status, " ", o.Attempts, " ", o.Chunks, " ", o.Replayed))
	}
	return strings.Join(lines, "\n")
}

// An attempt that cannot be made is one all the same.
func TestTheAttemptsAtAVehicleServiceThatIsAway(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	if err := c.vehicles.Close(); err != nil {
		t.Fatal(err)
	}
	id := c.submit("ReadDTC")
	c.ended(id)
	want := strings.Join([]string{`1 "Unavailable"`, `2 "Unavailable"`, `3 "Unavailable"`, `4 "Unavailable"`, `failed 4 0 0`}, "\n")
	eventually(t, "the attempts are\n"+want, func() bool { return c.attempts(id) == want })
}

func TestTracesAreForgotten(t *testing.T) {
	t.Parallel()
	var kept traces
	first := uuid.New()
	_, tr := kept.begin(t.Context(), first)
	if kept.find(first) != tr {
		t.Error("the first command is not known")
	}
	for range tracesKept {
		kept.begin(t.Context(), uuid.New())
	}
	if kept.find(first) != nil || len(kept.of) != tracesKept || len(kept.order) != tracesKept {
		t.Errorf("got %d commands in %d places, want the latest %d", len(kept.of), len(kept.order), tracesKept)
	}
}

func TestAnAttemptThatMovesToAnotherConnectionIsOne(t *testing.T) {
	t.Parallel()
	var tr trace
	one, two, three := int32(1), int32(2), int32(3)
	tr.start(&one, nil)
	tr.start(&one, nil)
	n := tr.start(&two, &three)
	if got := tr.start(&two, &three); got != n {
		t.Errorf("got place %d, want %d again", got, n)
	}
	for _, seq := range []int32{5, 3, 7, 4} {
		tr.receive(n, seq)
	}
	tr.end(n, status.Error(codes.Unavailable, ""))
	tr.start(nil, nil) // a number of its own
	var got []string
	for _, a := range tr.attempts {
		text, err := json.Marshal(struct {
			attempt
			StartedAt *int `json:"started_at,omitempty"`
		}{attempt: a})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(text))
	}
	want := []string{
		`{"attempt":1,"chunks":0}`,
		`{"attempt":2,"resume_from":3,"chunks":4,"first_chunk":3,"last_chunk":7,"code":"Unavailable"}`,
		`{"attempt":3,"chunks":0}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
