package main

import (
	"bytes"
	"embed"
	"html/template"
	"mime"
	"net/http"
	"path"
)

// The page is files as they are: nothing builds them, and they load nothing from elsewhere.
//
//go:embed page
var pageFiles embed.FS

var pageTemplate = template.Must(template.ParseFS(pageFiles, "page/index.html"))

// pagePolicy lets the page run its own script, apply its own style, ask this service, and nothing else. Trusted Types
// keep the script from making HTML out of texts, where a browser knows them.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// routePage routes the page at /, its files, and with a mock vehicle service the way to cut the link.
func (s *service) routePage(mux *http.ServeMux) {
	var index bytes.Buffer
	err := pageTemplate.Execute(&index, struct {
		Mock bool
		Long string
	}{s.cut != nil, longCommand})
	if err != nil { // the template is ours
		s.log.Error("the page", "error", err)
	}
	mux.HandleFunc("GET /{$}", servePageFile("index.html", index.Bytes()))
	for _, name := range []string{"page.css", "page.js", "follow.js", "attempts.js", "icon.svg"} {
		text, err := pageFiles.ReadFile("page/" + name)
		if err != nil {
			s.log.Error("the page", "error", err)
		}
		mux.HandleFunc("GET /page/"+name, servePageFile(name, text))
	}
	if s.cut != nil {
		mux.HandleFunc("POST /link/cut", s.postCut)
		mux.HandleFunc("/link/cut", notAllowed(http.MethodPost))
	}
}

func servePageFile(name string, text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer") // the address names a command
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(text) // a client that has gone needs no answer
	}
}

// postCut cuts every connection to the mock vehicle service, with a reset, whatever runs on it.
func (s *service) postCut(w http.ResponseWriter, _ *http.Request) {
	s.cut()
	w.WriteHeader(http.StatusNoContent)
}
