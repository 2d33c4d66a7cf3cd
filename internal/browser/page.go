package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Page is a tab. It may be used by several goroutines at once.
type Page struct {
	browser *Browser
	target  string
	session string

	mu         sync.Mutex
	complaints []string
}

// Open opens an address in a new tab.
func (b *Browser) Open(ctx context.Context, url string) (*Page, error) {
	var created struct {
		Target string `json:"targetId"`
	}
	if err := b.pipe.call(ctx, "", "Target.createTarget", object{"url": "about:blank", "newWindow": true}, &created); err != nil {
		return nil, err
	}
	var attached struct {
		Session string `json:"sessionId"`
	}
	if err := b.pipe.call(ctx, "", "Target.attachToTarget", object{"targetId": created.Target, "flatten": true}, &attached); err != nil {
		return nil, err
	}
	p := &Page{browser: b, target: created.Target, session: attached.Session}
	b.pipe.listen(p.session, p.hear)
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		if err := p.call(ctx, domain+".enable", nil, nil); err != nil {
			return nil, err
		}
	}
	return p, p.Go(ctx, url)
}

type object map[string]any

func (p *Page) call(ctx context.Context, method string, params, result any) error {
	return p.browser.pipe.call(ctx, p.session, method, params, result)
}

// Go goes to an address.
func (p *Page) Go(ctx context.Context, url string) error {
	var got struct {
		Error string `json:"errorText"`
	}
	if err := p.call(ctx, "Page.navigate", object{"url": url}, &got); err != nil {
		return err
	}
	if got.Error != "" {
		return fmt.Errorf("opening %s: %s", url, got.Error)
	}
	return p.Wait(ctx, `document.readyState === "complete"`)
}

// hear notes what goes wrong in the tab: exceptions, errors on the console, refused content, requests that failed, and
// dialogs, which it closes.
func (p *Page) hear(method string, params json.RawMessage) {
	var e struct {
		Exception struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
		Entry struct {
			Level string `json:"level"`
			Text  string `json:"text"`
			URL   string `json:"url"`
		} `json:"entry"`
		Type    string `json:"type"`
		Message string `json:"message"`
		Args    []struct {
			Value       any    `json:"value"`
			Description string `json:"description"`
		} `json:"args"`
	}
	if json.Unmarshal(params, &e) != nil {
		return
	}
	switch {
	case method == "Runtime.exceptionThrown":
		p.complain("exception: " + e.Exception.Text + " " + e.Exception.Exception.Description)
	case method == "Log.entryAdded" && e.Entry.Level == "error":
		p.complain("error: " + e.Entry.Text + " " + e.Entry.URL)
	case method == "Runtime.consoleAPICalled" && (e.Type == "error" || e.Type == "assert"):
		p.complain(fmt.Sprint("console: ", e.Args))
	case method == "Page.javascriptDialogOpening":
		p.complain("dialog: " + e.Message)
		_ = p.browser.pipe.send(p.session, "Page.handleJavaScriptDialog", object{"accept": false}, nil)
	}
}

func (p *Page) complain(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complaints = append(p.complaints, strings.TrimSpace(text))
}

// Complaints gives what has gone wrong in the tab since it was last asked.
func (p *Page) Complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	complaints := p.complaints
	p.complaints = nil
	return complaints
}

// Eval runs a JavaScript expression, waits for its promise, and reads its value into result, if that is not nil.
func (p *Page) Eval(ctx context.Context, expression string, result any) error {
	var got struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		Exception *struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
	}
	err := p.call(ctx, "Runtime.evaluate", object{"expression": expression, "awaitPromise": true, "returnByValue": true}, &got)
	switch {
	case err != nil:
		return err
	case got.Exception != nil:
		return fmt.Errorf("%s: %s %s", expression, got.Exception.Text, got.Exception.Exception.Description)
	case result == nil:
		return nil
	case got.Result.Value == nil:
		return fmt.Errorf("%s: there is no value", expression)
	}
	return json.Unmarshal(got.Result.Value, result)
}

// Wait waits until a JavaScript expression is true.
func (p *Page) Wait(ctx context.Context, expression string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var is bool
		if err := p.Eval(ctx, "!!("+expression+")", &is); err != nil {
			return fmt.Errorf("waiting for %s: %w", expression, err)
		}
		if is {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", expression, ctx.Err())
		}
	}
}

// Click clicks with the mouse into the middle of what a CSS selector finds; it must be there to be seen.
func (p *Page) Click(ctx context.Context, selector string) error {
	quoted, err := json.Marshal(selector)
	if err != nil {
		return err
	}
	var at struct{ X, Y float64 }
	if err := p.Eval(ctx, `(() => {
		const element = document.querySelector(`+string(quoted)+`);
		element.scrollIntoView({ block: "center", behavior: "instant" });
		const box = element.getBoundingClientRect();
		const at = { X: box.x + box.width / 2, Y: box.y + box.height / 2 };
		if (!element.contains(document.elementFromPoint(at.X, at.Y))) throw new Error("it is covered or hidden");
		return at;
	})()`, &at); err != nil {
		return fmt.Errorf("clicking %s: %w", selector, err)
	}
	for _, kind := range []string{"mouseMoved", "mousePressed", "mouseReleased"} {
		event := object{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}
		if err := p.call(ctx, "Input.dispatchMouseEvent", event, nil); err != nil {
			return fmt.Errorf("clicking %s: %w", selector, err)
		}
	}
	return nil
}

// keys are those of Press that are no characters, with what they type and their codes on Windows.
var keys = map[string]struct {
	text string
	code int
}{"Enter": {"\r", 13}, "Tab": {"", 9}, " ": {" ", 32}, "ArrowDown": {"", 40}, "ArrowUp": {"", 38}}

// Press presses keys, one after the other: those of keys by name.
func (p *Page) Press(ctx context.Context, names ...string) error {
	for _, name := range names {
		key, ok := keys[name]
		if !ok {
			return fmt.Errorf("pressing %q: there is no such key", name)
		}
		event := object{"type": "keyDown", "key": name, "code": name, "windowsVirtualKeyCode": key.code, "text": key.text}
		if err := p.call(ctx, "Input.dispatchKeyEvent", event, nil); err != nil {
			return err
		}
		event["type"] = "keyUp"
		delete(event, "text")
		if err := p.call(ctx, "Input.dispatchKeyEvent", event, nil); err != nil {
			return err
		}
	}
	return nil
}

// Type types a text into what has the focus.
func (p *Page) Type(ctx context.Context, text string) error {
	return p.call(ctx, "Input.insertText", object{"text": text}, nil)
}

// Screen is what a page finds itself on.
type Screen struct {
	Width, Height int     // CSS pixels
	Scale         float64 // pixels to one of those
	Dark          bool    // the user prefers dark colours
}

// Show puts the page on another screen.
func (p *Page) Show(ctx context.Context, s Screen) error {
	metrics := object{"width": s.Width, "height": s.Height, "deviceScaleFactor": s.Scale, "mobile": false}
	if err := p.call(ctx, "Emulation.setDeviceMetricsOverride", metrics, nil); err != nil {
		return err
	}
	scheme := "light"
	if s.Dark {
		scheme = "dark"
	}
	feature := object{"name": "prefers-color-scheme", "value": scheme}
	return p.call(ctx, "Emulation.setEmulatedMedia", object{"features": []object{feature}}, nil)
}

// Screenshot gives a picture of the screen, as a PNG.
func (p *Page) Screenshot(ctx context.Context) ([]byte, error) {
	var got struct{ Data []byte }
	err := p.call(ctx, "Page.captureScreenshot", object{"format": "png"}, &got)
	return got.Data, err
}

// Close closes the tab.
func (p *Page) Close(ctx context.Context) error {
	return p.browser.pipe.call(ctx, "", "Target.closeTarget", object{"targetId": p.target}, nil)
}
