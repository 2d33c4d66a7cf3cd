package pgsink

// NastyPayloads are those of the tests in this package, for those that have a server.
func NastyPayloads(yield func(name, text string, plain bool)) {
	for _, p := range nastyPayloads {
		yield(p.name, p.text, p.plain)
	}
}

// Wrap is how a text is stored that jsonb cannot hold.
func Wrap(text string) string { return wrap([]byte(text)) }
