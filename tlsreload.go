package vehicle

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// reloadInterval is how often the files are looked at while nothing connects.
const reloadInterval = 5 * time.Second

// reloader is the keyring of TLSFiles. It reads the files before each handshake, and every reloadInterval for the
// sake of the connections that are there. What it reads it uses whole or not at all.
//
// gRPC has two things for this. credentials/tls/certprovider/pemfile watches files, but it takes whatever they hold
// first, the pair and the CA apart from each other, looks for changes at its interval only, has a client wait for
// files that are not there, and when a pair does not match it logs the private key. security/advancedtls, a module of
// its own, turns crypto/tls's verification off (InsecureSkipVerify) and does it again in callbacks, because the
// roots of a tls.Config cannot change. Here they need not: a handshake gets a tls.Config of its own, so that crypto/tls
// verifies as ever, and nothing has to be right but the files' reading.
type reloader struct {
	files    TLSFiles
	log      *slog.Logger
	interval time.Duration
	changed  chan struct{} // of size 1: there is a new generation

	mu      sync.Mutex
	held    *generation // what connections go on with
	trouble string      // what was last wrong with the files; it is logged once
	warned  bool        // of the end of the certificate
	notes   []note      // to be logged without the lock, since a handler may ask the client
}

// note is a record for the log.
type note struct {
	level   slog.Level
	message string
	attrs   []slog.Attr
}

// generation is what the files held at one time.
type generation struct {
	credentials.TransportCredentials
	digest    [sha256.Size]byte
	notBefore time.Time // of the client's certificate; zero: there is none
	notAfter  time.Time
	caEnds    time.Time // when the last of the authorities expires; zero: they are the system's
}

func newReloader(files TLSFiles, interval time.Duration, logger *slog.Logger) (keyring, error) {
	r := &reloader{files: files, log: logger, interval: interval, changed: make(chan struct{}, 1)}
	content, err := files.readSettled([sha256.Size]byte{})
	if err != nil {
		return nil, err
	}
	if r.held, err = content.load(files); err != nil {
		return nil, err
	}
	if files.CA == "" && files.Cert == "" {
		return fixed{TransportCredentials: r.held.TransportCredentials}, nil // the system's roots: there is nothing to watch
	}
	r.warnOfMode()
	r.logAll(r.takeNotes())
	return r, nil
}

func (r *reloader) current() credentials.TransportCredentials {
	held, notes := r.look()
	r.logAll(notes)
	return held
}

// look is current, and what there is to log of it.
func (r *reloader) look() (*generation, []note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	r.warnOfEnd()
	return r.held, r.takeNotes()
}

func (r *reloader) note(level slog.Level, message string, attrs ...slog.Attr) {
	r.notes = append(r.notes, note{level, message, attrs})
}

func (r *reloader) takeNotes() []note {
	notes := r.notes
	r.notes = nil
	return notes
}

func (r *reloader) logAll(notes []note) {
	for _, n := range notes {
		commandLog{logger: r.log}.log(context.Background(), n.level, n.message, n.attrs...)
	}
}

func (r *reloader) ends() (client, authorities time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held.notAfter, r.held.caEnds
}

func (r *reloader) watch(renew func()) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(r.interval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				r.current()
			case <-r.changed:
				renew()
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// refresh takes over what the files hold now, if it is new and sound.
func (r *reloader) refresh() {
	content, err := r.files.readSettled(r.held.digest)
	var next *generation
	switch {
	case err != nil:
	case content.digest() == r.held.digest:
		r.trouble = ""
		return
	default:
		next, err = content.load(r.files)
	}
	if err != nil {
		if r.trouble != err.Error() {
			r.trouble = err.Error()
			r.note(slog.LevelWarn,
				"vehicle: TLS files changed and cannot be used; connections go on with what they held before",
				slog.String("reason", r.trouble))
		}
		return
	}
	r.held, r.trouble, r.warned = next, "", false
	select {
	case r.changed <- struct{}{}:
	default:
	}
	attrs := []slog.Attr{slog.String("ca", r.files.CA)}
	if !next.notAfter.IsZero() {
		attrs = append(attrs, slog.String("cert", r.files.Cert), slog.Time("not_after", next.notAfter))
	}
	r.note(slog.LevelInfo, "vehicle: TLS files reloaded", attrs...)
	r.warnOfMode()
}

// warnOfEnd warns of a certificate that nobody has renewed, while there is time: in the last tenth of its life. It
// is usual to renew after two thirds.
func (r *reloader) warnOfEnd() {
	if end := r.held.notAfter; !r.warned && !end.IsZero() && time.Until(end) < end.Sub(r.held.notBefore)/10 {
		r.warned = true
		r.note(slog.LevelWarn, "vehicle: the client's certificate is about to expire, or has",
			slog.String("cert", r.files.Cert), slog.Time("not_after", end))
	}
}

// warnOfMode warns of a key that everybody on the machine may read. A group's right to read is how containers that
// do not run as root get at mounted secrets.
func (r *reloader) warnOfMode() {
	if r.files.Key == "" || runtime.GOOS == "windows" {
		return
	}
	if info, err := os.Stat(r.files.Key); err == nil && info.Mode().Perm()&0o004 != 0 {
		r.note(slog.LevelWarn, "vehicle: every user of this machine may read the client's key",
			slog.String("key", r.files.Key), slog.String("mode", info.Mode().Perm().String()))
	}
}
