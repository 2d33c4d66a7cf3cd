// Package promsink counts what commands do, for Prometheus.
//
//	client, err := vehicle.NewFromEnv(vehicle.WithSink(store, promsink.New(prometheus.DefaultRegisterer)))
//
// Put it last: what it counts is then what the sinks before it made of a command. A command that one of them refuses in
// Begin does not reach it, and is not in commands_executed_total: sovd_sink_errors_total{call="Begin"} counts it. Attempts,
// retries, the time and the errors of each sink and the connections it sees wherever it stands, since it is a
// [vehicle.Observer]; the connections only of a client that was made with it.
//
// # Metrics
//
// The first three are those that the dashboards of the existing web application read.
//
//	commands_executed_total{status}            counter    status is completed, failed or timeout
//	command_execution_duration_seconds         histogram  with all attempts
//	sovd_command_timeout_total                 counter
//	sovd_commands_total{command,status}        counter    only of NewNamed; command is one of its names, or other
//	sovd_commands_in_flight                    gauge
//	sovd_command_attempts_total                counter
//	sovd_command_retries_total{code}           counter    the gRPC code that ended the attempt, as in Unavailable
//	sovd_command_resumes_total                 counter    attempts that asked for the rest of an answer
//	sovd_chunks_replayed_total                 counter    chunks that came again and were dropped
//	sovd_replays_diverged_total                counter    commands that failed with vehicle.ErrReplayDiverged
//	sovd_chunks_total                          counter
//	sovd_chunk_bytes_total                     counter    of payloads
//	sovd_delivery_batch_chunks                 histogram  chunks that were delivered at once
//	sovd_time_to_first_chunk_seconds           histogram  from Begin
//	sovd_chunk_gap_seconds                     histogram
//	sovd_sink_duration_seconds{sink,call}      histogram  sink is the type, as in *pgsink.Sink; call is Begin, Write or End
//	sovd_sink_errors_total{sink,call}          counter
//	sovd_stream_wait_seconds                   histogram  for a connection with a free stream
//	sovd_pool_connections{state}               gauge      idle, connecting, ready or transient_failure
//	sovd_streams_in_flight                     gauge
//	sovd_streams_waiting                       gauge      of them
//	sovd_certificate_expiry_seconds{certificate} gauge    seconds from now; client or ca
//
// No label has the ID of a command, a vehicle or a user, or anything that a vehicle sent.
package promsink
