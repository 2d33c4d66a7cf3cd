package vehicle

import "time"

// WithReloadInterval is for tests that rotate certificates over real sockets, where no clock can be turned.
func WithReloadInterval(d time.Duration) Option {
	return clientOption(func(c *config) { c.security.interval = d })
}

// ReadTLSFiles reads files that are being exchanged.
func ReadTLSFiles(files TLSFiles) (ca, cert, key []byte, err error) {
	content, err := files.readSettled([32]byte{})
	return content.ca, content.cert, content.key, err
}
