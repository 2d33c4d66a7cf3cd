// Package dialing tells a dial option that only says how to connect from those that may look at messages.
package dialing

import "google.golang.org/grpc"

// Way is an option that only says how to connect.
type Way struct{ grpc.DialOption }

// MayLook says whether an option may have messages looked at, by an interceptor or a stats handler: gRPC's options do not tell.
func MayLook(o grpc.DialOption) bool {
	_, way := o.(Way)
	return !way
}
