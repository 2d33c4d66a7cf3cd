// Package vehiclepb is the vehicle service's wire contract: the messages and the gRPC stub and
// server interface that protoc generates from sovd_vehicle_service.proto.
//
// Applications rarely need it: [github.com/sovd-go/vehicle.Client] speaks it for them. It is there
// for servers, for gateways and for tests that put messages on the wire by hand.
//
// A program can have one copy of a contract. One that also has a stub of its own, generated from the same .proto, panics at
// start: the file "is already registered". Make that package an alias of this one; docs/migrating-from-a-stub.md in the
// repository shows how.
package vehiclepb

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
