// Package vehicle runs diagnostic commands on vehicles through a SOVD vehicle service (gRPC). A command's answer
// streams back in chunks, and every chunk reaches every [Sink] exactly once, in order, however often the link broke on
// the way; and every command ends recorded.
//
//	client, err := vehicle.New("gateway.example.com:443", vehicle.WithSink(sink.JSONLines(os.Stdout)))
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//
//	stream := client.Stream(ctx, vehicle.Command{VehicleID: vehicleID, Name: "ReadDTC"})
//	for chunk, err := range stream.Chunks() {
//		if err != nil {
//			return err // a *vehicle.Error: errors.Is(err, vehicle.ErrUnavailable), ErrTimeout, ...
//		}
//		fmt.Println(chunk.Seq, string(chunk.Payload))
//	}
//	fmt.Println(stream.Result().Attempts, "attempts")
//
// One [Client] serves a program: it is safe for concurrent use and pools its connections. [Client.Execute] is for
// those who leave the chunks to the sinks, [Client.ExecuteAll] for many commands, [NewFromEnv] for a client that the
// environment configures. What an [Option] says for the client, a [CallOption] may say for one call.
//
// # When the link breaks
//
// The command is asked for again, under the same ID, from the chunk that is wanted next. A vehicle that sends everything
// again is compared with what was delivered, and that part is dropped ([ResumeMode], [RetryPolicy]). A command that
// must not run twice is marked [Command].Once.
//
// # Errors
//
// Every failure is an [*Error]. It matches one of the sentinels ([ErrTimeout], [ErrSink], ...) under errors.Is, says how
// far the command got, and whether the vehicle may have run it ([Error.MayHaveRun]).
//
// # Packages
//
// Package [github.com/sovd-go/vehicle/sink] has ready sinks and ways to combine them; below it are those for PostgreSQL
// (pgsink), Redis (redissink), Prometheus (promsink) and OpenTelemetry (otelsink). Package
// [github.com/sovd-go/vehicle/vehicletest] is a vehicle service for tests.
package vehicle
