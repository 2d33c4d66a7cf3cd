// Package vehicletest is a vehicle service for tests and demonstrations: what net/http/httptest is to
// HTTP. A server speaks the real protocol, in memory or over TCP; behind it are realistic vehicles that
// know ReadDTC, ReadDataByID and ClearDTC. Everything else is a [Script], a list of small steps, and
// each attempt at a command can have its own:
//
//	func TestTunnel(t *testing.T) {
//		server := vehicletest.NewServer(t, vehicletest.On("ReadDTC",
//			vehicletest.Script{vehicletest.Send(`{"dtc":"P0420"}`), vehicletest.Cut()},          // first attempt
//			vehicletest.Script{vehicletest.Answer(`{"dtc":"P0420"}`, `{"dtc":"U0121-87"}`)}, // from the second on
//		))
//		client := server.Client(t)
//		res, err := client.Execute(t.Context(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"})
//		...
//		server.Requests() // what arrived, with metadata, deadline, and how each call ended
//	}
//
// The steps: [Send], [Answer], [SendEdited], [SendRaw] and [SendBytes] for what is sent; [NumberFrom]
// and [Resume] for how it is numbered; [Delay], [Stall] and [Until] for time; [Header], [Trailer], [Fail]
// and [Refuse] for gRPC; [Cut], [HangUp], [BlackHole] and [GoAway] for the connection. A step is a
// function, so a test writes its own where these do not do. [WithResponder] chooses a script by looking
// at the request, and [On] is the common case of it.
//
// An in-memory server made inside a testing/synctest bubble lives on the bubble's clock: hours of
// silence take milliseconds. What is about sockets (resets, TLS) wants [WithTCP], outside bubbles.
//
// Programs use [Start] instead of [NewServer], and close the server themselves. [NewCA] issues certificates for servers
// with TLS, and [TestSink] checks that a sink keeps the rules of [vehicle.Sink].
package vehicletest
