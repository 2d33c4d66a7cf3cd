//go:build browser

package browser

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const document = `data:text/html,<title>t</title><button id=b onclick="this.textContent='clicked'">here</button><input id=i><div id=h hidden>x</div>` +
	`<script>addEventListener("error", () => {}); console.error("told"); setTimeout(() => { alert("hello"); throw new Error("thrown") })</script>`

func TestInABrowserAPageIsUsed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	b, err := Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Open(ctx, document)
	must(err)
	must(p.Click(ctx, "#b"))
	must(p.Wait(ctx, `document.querySelector("#b").textContent === "clicked"`))
	must(p.Click(ctx, "#i"))
	must(p.Type(ctx, "typed"))
	var got string
	must(p.Eval(ctx, `Promise.resolve(document.querySelector("#i").value)`, &got))
	if got != "typed" {
		t.Errorf("got %q in the field, want what was typed", got)
	}
	all := strings.Join(p.Complaints(), "\n")
	for _, want := range []string{"told", "dialog: hello", "thrown"} {
		if !strings.Contains(all, want) {
			t.Errorf("got the complaints %q, want %q among them", all, want)
		}
	}

	for _, selector := range []string{"#none", "#h"} { // what is not there, and what cannot be seen
		if err := p.Click(ctx, selector); err == nil {
			t.Errorf("%s was clicked", selector)
		}
	}
	if err := p.Press(ctx, "none"); err == nil {
		t.Error("a key that there is none of was pressed")
	}
	soon, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	if err := p.Wait(soon, "false"); err == nil {
		t.Error("what is false was waited for")
	}
	png, err := p.Screenshot(ctx)
	if err != nil || !strings.HasPrefix(string(png), "\x89PNG") {
		t.Errorf("got a picture of %d bytes, %v", len(png), err)
	}
	must(p.Close(ctx))
	dir := b.dir
	must(b.Close())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the browser's folder is still there: %v", err)
	}
	if _, err := b.Open(ctx, document); err == nil {
		t.Error("a browser that has ended opened a page")
	}
}
