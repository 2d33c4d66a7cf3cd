// Package uuid5 makes UUIDs of names.
package uuid5

import (
	"crypto/sha1" //nolint:gosec // G505: UUIDv5 is made of it

	"github.com/google/uuid"
)

// New is the UUIDv5 (RFC 9562, section 5.5) of a name, and uuid.NewSHA1 without an allocation where the name is short.
func New(namespace uuid.UUID, name []byte) uuid.UUID {
	var room [64]byte
	sum := sha1.Sum(append(append(room[:0], namespace[:]...), name...)) //nolint:gosec // G401: as above
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 5<<4 // the version
	id[8] = id[8]&0x3f | 0x80 // the variant
	return id
}
