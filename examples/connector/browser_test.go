//go:build browser

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle/internal/browser"
	"github.com/sovd-go/vehicle/vehicletest"
)

// These tests need Chromium: scripts/test-browser installs it and runs them.

var picture = flag.String("picture", "", "write the picture of the page that the documents show to this file")

// mock makes the connector one with a mock vehicle service.
func mock(s *settings) { s.embedded = true }

// tunnels is the demonstration, whose long answer stands still after chunk 5, and again after 11, until the link is cut.
func tunnels() vehicletest.Option {
	return vehicletest.WithResponder(func(r *vehicletest.Request) vehicletest.Script {
		if r.Command.GetCommandName() != longCommand {
			return demonstration(10 * time.Millisecond)(r)
		}
		answer := snapshots()
		for attempt, seq := range []int{5, 11} {
			if r.Try == attempt+1 {
				answer = append(answer[:seq+1], vehicletest.Stall())
			}
		}
		return resumed(r, answer, 10*time.Millisecond)
	})
}

// tab is a page of the connector's; its methods fail the test.
type tab struct {
	tb   testing.TB
	ctx  context.Context // ends a test that waits for what does not come
	page *browser.Page
}

func openTab(tb testing.TB, b *browser.Browser, url string) tab {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 40*time.Second)
	tb.Cleanup(cancel)
	page, err := b.Open(ctx, url)
	if err != nil {
		tb.Fatal(err)
	}
	t := tab{tb, ctx, page}
	t.must(page.Show(ctx, browser.Screen{Width: 1180, Height: 1000, Scale: 1}))
	return t
}

// startBrowser starts a browser, with a tab at url.
func startBrowser(tb testing.TB, url string) (*browser.Browser, tab) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 40*time.Second)
	defer cancel()
	b, err := browser.Start(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b, openTab(tb, b, url)
}

func (t tab) must(err error) {
	t.tb.Helper()
	if err == nil {
		return
	}
	var text string
	ctx, cancel := context.WithTimeout(t.tb.Context(), 5*time.Second)
	defer cancel()
	_ = t.page.Eval(ctx, "document.body.innerText", &text)
	t.tb.Fatalf("%v\ncomplaints: %q\nthe page:\n%s", err, t.page.Complaints(), text)
}

func (t tab) click(selector string) {
	t.tb.Helper()
	t.must(t.page.Click(t.ctx, selector))
}

func (t tab) wait(expression string) {
	t.tb.Helper()
	t.must(t.page.Wait(t.ctx, expression))
}

// waitText waits until an element's text contains text.
func (t tab) waitText(selector, text string) {
	t.tb.Helper()
	t.wait(fmt.Sprintf("document.querySelector(%q).innerText.includes(%q)", selector, text))
}

func (t tab) waitChunks(n int) {
	t.tb.Helper()
	t.wait(fmt.Sprintf("document.querySelectorAll('#chunks > li').length >= %d", n))
}

func (t tab) text(selector string) (text string) {
	t.tb.Helper()
	t.must(t.page.Eval(t.ctx, fmt.Sprintf("document.querySelector(%q).textContent", selector), &text))
	return text
}

// choose chooses a command with the keyboard.
func (t tab) choose(command string) {
	t.tb.Helper()
	ctx := t.ctx
	t.must(t.page.Eval(ctx, "document.querySelector('#command').focus()", nil))
	for range 5 {
		var chosen string
		t.must(t.page.Eval(ctx, "document.querySelector('#command').value", &chosen))
		if chosen == command {
			return
		}
		t.must(t.page.Press(ctx, "ArrowDown"))
	}
	t.tb.Fatalf("there is no command %s to choose", command)
}

// chunks gives what the page shows of the answer: number and payload.
func (t tab) chunks() (chunks []string) {
	t.tb.Helper()
	t.must(t.page.Eval(t.ctx, `[...document.querySelectorAll("#chunks > li")].map((item) =>
		item.querySelector("b").textContent + " " + item.querySelector("code").textContent)`, &chunks))
	return chunks
}

// quiet fails the test if anything has gone wrong in the tab.
func (t tab) quiet() {
	t.tb.Helper()
	if got := t.page.Complaints(); len(got) > 0 {
		t.tb.Errorf("the page complains: %q", got)
	}
}

func TestInABrowserTheLinkIsCutAndBothTabsShowEachChunkOnce(t *testing.T) {
	t.Parallel()
	c := start(t, mock, tunnels())
	b, first := startBrowser(t, c.url)
	first.choose(longCommand)
	first.click("#run")
	first.waitChunks(6)
	first.click("#cut")
	first.waitChunks(7) // it goes on

	var link string
	first.must(first.page.Eval(first.ctx, "document.querySelector('#share').href", &link))
	second := openTab(t, b, link)
	second.waitChunks(12) // it has what came before it was opened, and follows
	second.click("#cut")
	for _, tab := range []tab{first, second} {
		tab.waitText("#news", "Completed")
		tab.waitText("#status", "completed")
		tab.waitText("#attempt-count", "3")
		tab.waitText("#attempts > li:nth-child(3)", "chunks 0 to 21") // the attempts are asked for from time to time
	}

	got := first.chunks()
	if diff := cmp.Diff(got, second.chunks()); diff != "" {
		t.Errorf("the tabs differ (-first +second):\n%s", diff)
	}
	want := len(snapshots())
	for seq, chunk := range got {
		if !strings.HasPrefix(chunk, fmt.Sprintf("%d {", seq)) {
			t.Errorf("at place %d: got %s", seq, chunk)
		}
	}
	for _, tab := range []tab{first, second} {
		if len(got) != want || tab.text("#chunk-count") != fmt.Sprint(want) || tab.text("#missing") != "0" || tab.text("#repeated") != "0" || tab.text("#replayed") != "12" {
			t.Errorf("got %d chunks and %s, %s missing, %s repeated, %s dropped; want %d, 0, 0, 12",
				len(got), tab.text("#chunk-count"), tab.text("#missing"), tab.text("#repeated"), tab.text("#replayed"), want)
		}
		if got, want := tab.text("#news"), fmt.Sprintf("Completed: %d chunks, each once and in order.", want); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for i, want := range []string{
			"chunks 0 to 5; broke off: Unavailable",
			"asked from 6 on; chunks 6 to 11; broke off: Unavailable",
			"asked from 12 on; chunks 0 to 21; 0 to 11 again: compared and dropped",
		} {
			if got := tab.text(fmt.Sprintf("#attempts > li:nth-child(%d) span", i+1)); got != want {
				t.Errorf("attempt %d: got %q, want %q", i+1, got, want)
			}
		}
		tab.quiet()
	}

	// The vehicle saw it so.
	var asked []string
	for _, r := range c.vehicles.Requests() {
		asked = append(asked, fmt.Sprintf("%d from %d", r.Attempt, r.ResumeFrom))
	}
	if diff := cmp.Diff([]string{"1 from -1", "2 from 6", "3 from 12"}, asked); diff != "" {
		t.Errorf("attempts, and from where they asked to resume (-want +got):\n%s", diff)
	}
	if *picture != "" {
		first.photograph(*picture)
	}
}

// An answer about the attempts that comes late, when the command has ended, does not take back what the page said.
func TestInABrowserTheEndStays(t *testing.T) {
	t.Parallel()
	c := start(t, mock, tunnels())
	_, tab := startBrowser(t, c.url)
	tab.must(tab.page.Eval(tab.ctx, `(() => {
		const real = window.fetch;
		window.late = 0;
		window.fetch = async (url, ...rest) => {
			const response = await real(url, ...rest);
			if (!String(url).includes("/attempts")) return response;
			const text = await response.text();
			if (JSON.parse(text).attempts?.length > 1 && window.late === 0) { // it is under way again
				window.late = 1;
				while (!document.querySelector("#status").textContent.includes("completed")) await new Promise((go) => setTimeout(go, 10));
				await new Promise((go) => setTimeout(go, 100));
			}
			return new Response(text, response);
		};
	})()`, nil))
	tab.choose(longCommand)
	tab.click("#run")
	tab.waitChunks(6)
	tab.click("#cut")
	tab.wait("document.querySelectorAll('#attempts > li').length >= 2") // the late answer has been shown
	if got := tab.text("#news"); !strings.HasPrefix(got, "Completed") {
		t.Errorf("got %q, want the page to go on saying that the command completed", got)
	}
	tab.quiet()
}

// photograph takes the picture that the documents show.
func (t tab) photograph(path string) {
	t.tb.Helper()
	ctx := t.ctx
	t.must(t.page.Eval(ctx, "scrollTo(0, 0)", nil))
	t.must(t.page.Show(ctx, browser.Screen{Width: 1180, Height: 860, Scale: 1.5}))
	png, err := t.page.Screenshot(ctx)
	t.must(err)
	t.must(os.WriteFile(path, png, 0o644))
}

func TestInABrowserWithTheKeyboardAlone(t *testing.T) {
	t.Parallel()
	c := start(t, mock, tunnels())
	_, tab := startBrowser(t, c.url)
	ctx := tab.ctx
	focus := func() (id string) {
		tab.must(tab.page.Eval(ctx, "document.activeElement.id", &id))
		return id
	}
	tab.must(tab.page.Press(ctx, "Tab"))
	if got := focus(); got != "command" {
		t.Fatalf("the first Tab: got %q, want the command", got)
	}
	tab.must(tab.page.Press(ctx, "ArrowDown", "ArrowDown")) // ReadDataByID
	tab.must(tab.page.Press(ctx, "Tab"))
	if got := focus(); got != "data-id" {
		t.Fatalf("the second Tab: got %q, want the data identifier", got)
	}
	tab.must(tab.page.Type(ctx, "0xF189")) // Tab has selected what was there
	tab.must(tab.page.Press(ctx, "Tab", "Tab", "Enter"))
	tab.waitText("#news", "Completed: 2 chunks, each once and in order.")
	if got := tab.chunks(); len(got) != 2 || !strings.Contains(got[1], "F189") {
		t.Errorf("got %q, want two chunks about F189", got)
	}
	if got := focus(); got != "run" {
		t.Errorf("afterwards: got the focus on %q, want it where it was", got)
	}

	tab.choose("ClearDTC")
	tab.must(tab.page.Press(ctx, "Tab", "Tab", "Tab", "Enter"))
	var valid bool
	tab.must(tab.page.Eval(ctx, "document.querySelector('#ask').checkValidity()", &valid))
	if valid {
		t.Error("ClearDTC may be sent before it is confirmed")
	}
	tab.must(tab.page.Eval(ctx, "document.querySelector('#clear').focus()", nil))
	tab.must(tab.page.Press(ctx, " ", "Tab", "Tab", "Enter"))
	tab.waitText("#news", "Completed: 1 chunk, each once and in order.")
	if got := c.vehicles.Requests(); len(got) != 2 {
		t.Errorf("got %d commands at the vehicle, want 2", len(got))
	}
	tab.quiet()
}

// What vehicles, clients and addresses say is shown as the text that it is.
func TestInABrowserHostileTextsStayTexts(t *testing.T) {
	t.Parallel()
	const image, script = `<img src="/none" onerror="window.ran = 1">`, `</pre></code><script>window.ran = 2</script>`
	payload := fmt.Sprintf(`{%q:%q,"__proto__":{"x":1},"number":12345678901234567890,"exact":1.50}`, image, script)
	c := start(t, mock,
		vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Answer(fmt.Sprintf("%q", image), payload)}),
		vehicletest.On(image, vehicletest.Script{vehicletest.Fail(3, script+image)}))
	_, tab := startBrowser(t, c.url)
	harmless := func() {
		t.Helper()
		var found []string
		tab.must(tab.page.Eval(tab.ctx, `[...document.querySelectorAll("main img, main script, main iframe, main a[onclick]")].map((e) => e.outerHTML)`, &found))
		var ran bool
		tab.must(tab.page.Eval(tab.ctx, `window.ran !== undefined || ({}).x !== undefined`, &ran))
		if len(found) > 0 || ran {
			t.Errorf("a text has become HTML: %q, and run: %t", found, ran)
		}
		tab.quiet()
	}

	tab.choose("ReadDTC")
	tab.click("#run")
	tab.waitText("#news", "Completed")
	tab.click("#chunks > li:nth-child(2) summary")
	tab.waitText("#chunks > li:nth-child(1)", "<img src=")
	got := tab.text("#chunks > li:nth-child(2) pre")
	for _, want := range []string{script, `"__proto__"`, "12345678901234567890", "1.50"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want it with %s", got, want)
		}
	}
	harmless()

	id := c.accepted(c.post(fmt.Sprintf(`{"vehicle_id":%q,"command_name":%q}`, uuid.NewString(), image)))
	tab.must(tab.page.Go(tab.ctx, c.url+"/?command="+id.String()))
	tab.waitText("#status", "failed")
	tab.waitText("#follow-title", image)
	tab.waitText("#news", script)
	harmless()

	tab.must(tab.page.Go(tab.ctx, c.url+"/?command=%3Cimg%20src%3Dx%20onerror%3D%22window.ran%3D1%22%3E"))
	tab.waitText("#problem", "404")
	tab.page.Complaints() // of the 404
	harmless()

	// The policy is a second wall.
	for _, attack := range []string{
		`document.body.innerHTML = "<b>"`, `document.querySelector("main").insertAdjacentHTML("beforeend", "<i>")`, `document.createElement("script").text = "1"`,
	} {
		if err := tab.page.Eval(tab.ctx, attack, nil); err == nil {
			t.Errorf("%s is allowed", attack)
		}
	}
}

func TestInABrowserErrorsAreShown(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := start(t, func(s *settings) { s.maxRunning = 1 }, vehicletest.On("ReadDTC", vehicletest.Script{
		vehicletest.Send("1"), vehicletest.Until(release), vehicletest.Answer("2")}))
	proxy := startProxy(t, c.url)
	_, tab := startBrowser(t, proxy.url)
	ctx := tab.ctx

	tab.must(tab.page.Eval(ctx, "document.querySelector('#vehicle').select()", nil))
	tab.must(tab.page.Type(ctx, "my car"))
	tab.click("#run")
	tab.waitText("#problem", "400: vehicle_id: want a UUID")
	tab.must(tab.page.Eval(ctx, "document.querySelector('#vehicle').select()", nil))
	tab.must(tab.page.Type(ctx, uuid.NewString()))
	tab.click("#run")
	tab.waitChunks(1)
	if got := tab.text("#problem"); got != "" {
		t.Errorf("the problem stays: %q", got)
	}
	tab.click("#run")
	tab.waitText("#problem", "503: as much runs here as may")

	// The stream breaks; EventSource comes back and says what it has had.
	proxy.stop()
	tab.waitText("#news", "The connection to the service is lost.")
	tab.click("#run")
	tab.waitText("#problem", "The service cannot be reached.")
	close(release)
	proxy.start()
	tab.waitText("#news", "Completed: 2 chunks, each once and in order.")
	if diff := cmp.Diff([]string{"0 1", "1 2"}, tab.chunks()); diff != "" {
		t.Errorf("the chunks (-want +got):\n%s", diff)
	}
	if !slices.Contains(proxy.lastEventIDs(), "0") {
		t.Errorf("Last-Event-ID: got %q, want 0", proxy.lastEventIDs())
	}
	for _, complaint := range tab.page.Complaints() {
		if !strings.Contains(complaint, "Failed to load resource") { // the browser's own words on each request that fails
			t.Errorf("the page complains: %s", complaint)
		}
	}
}

// A proxy that is before a connector that is started anew refuses for a while.
func TestInABrowserAFollowerComesAgainAfterAProxyHasSaidThatTheServiceIsAway(t *testing.T) {
	t.Parallel()
	release, answer := held()
	c := start(t, nil, answer)
	proxy := startProxy(t, c.url)
	_, tab := startBrowser(t, proxy.url+"/?command="+c.submit("Read").String())
	tab.waitChunks(2)
	proxy.stop()
	proxy.refuse(true)
	proxy.start()
	tab.waitText("#problem", "502: Bad Gateway. Trying again.")
	close(release)
	proxy.refuse(false)
	tab.waitText("#news", "Completed: 4 chunks, each once and in order.")
	if got := tab.text("#problem"); got != "" {
		t.Errorf("the problem stays: %q", got)
	}
}

func TestInABrowserASecondFollowerThatIsRefusedComesAgain(t *testing.T) {
	t.Parallel()
	release, answer := held()
	c := start(t, func(s *settings) { s.maxFollowers = 1 }, answer)
	id := c.submit("Read")
	f := c.follow(id)
	_, tab := startBrowser(t, c.url+"/?command="+id.String())
	tab.waitText("#problem", "does not let this page follow now. Trying again.")
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	close(release)
	tab.waitText("#news", "Completed: 4 chunks, each once and in order.")
	if got := tab.text("#problem"); got != "" {
		t.Errorf("the problem stays: %q", got)
	}
}

// What does not fit is scrolled within, and colours can be read.
func TestInABrowserOnAnyScreen(t *testing.T) {
	t.Parallel()
	c := start(t, mock, vehicletest.On("ReadDTC", vehicletest.Script{vehicletest.Answer(`"` + strings.Repeat("x", 5000) + `"`)}))
	_, tab := startBrowser(t, c.url)
	tab.choose("ReadDTC")
	tab.click("#run")
	tab.waitText("#news", "Completed")
	tab.click("#chunks summary")
	for _, dark := range []bool{false, true} {
		for _, width := range []int{320, 700, 1180, 2500} {
			tab.must(tab.page.Show(tab.ctx, browser.Screen{Width: width, Height: 800, Scale: 1, Dark: dark}))
			var over int
			tab.must(tab.page.Eval(tab.ctx, "document.documentElement.scrollWidth - innerWidth", &over))
			if over > 0 {
				t.Errorf("%d pixels wide: the page is %d wider", width, over)
			}
		}
		var faint []string
		tab.must(tab.page.Eval(tab.ctx, contrast, &faint))
		if len(faint) > 0 {
			t.Errorf("dark %t: texts with a contrast below 4.5 (WCAG 2, 1.4.3): %q", dark, faint)
		}
	}
	var nameless []string
	tab.must(tab.page.Eval(tab.ctx, `[...document.querySelectorAll("input, select, button, a")]
		.filter((e) => !e.labels?.length && !e.textContent.trim()).map((e) => e.outerHTML)`, &nameless))
	if len(nameless) > 0 {
		t.Errorf("controls without a name: %q", nameless)
	}
}

// contrast lists the texts that are hard to read.
const contrast = `(() => {
	const parse = (color) => color.match(/[\d.]+/g).map(Number);
	const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
		.reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
	const ground = (e) => { const c = parse(getComputedStyle(e).backgroundColor); return c[3] === 0 ? ground(e.parentElement) : c; };
	const faint = [];
	for (const e of document.querySelectorAll("body *")) {
		if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
		const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))].sort((a, b) => b - a);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) faint.push(e.tagName + " " + e.textContent.trim().slice(0, 30) + " " + ratio.toFixed(2));
	}
	return faint;
})()`
