package main

import (
	"fmt"
	"time"

	"github.com/sovd-go/vehicle/vehicletest"
)

// pace is how long a mock vehicle takes for each chunk, so that an answer can be watched, and cut.
const pace = 300 * time.Millisecond

// longCommand has an answer that is worth cutting: each fault's snapshot records (UDS service 0x19, sub-function 0x04).
const longCommand = "ReadDTCSnapshots"

// demonstration is the built-in vehicles and longCommand, at a pace that can be watched.
func demonstration(pace time.Duration) vehicletest.Responder {
	fleet := vehicletest.NewFleet(0)
	long := snapshots()
	return func(r *vehicletest.Request) vehicletest.Script {
		if r.Command.GetCommandName() == longCommand {
			return resumed(r, long, pace)
		}
		var script vehicletest.Script
		for _, step := range fleet.Respond(r) {
			script = append(script, vehicletest.Delay(pace), step)
		}
		return script
	}
}

// resumed is an answer that goes on after a cut. The even attempts begin where they are asked to; the odd ones are an
// older gateway's, which sends all of it again, at once what it has read before.
func resumed(r *vehicletest.Request, answer vehicletest.Script, pace time.Duration) vehicletest.Script {
	var script vehicletest.Script
	if r.Try%2 == 0 {
		script = append(script, vehicletest.Resume())
	}
	for i, step := range answer {
		if i >= int(r.ResumeFrom) {
			script = append(script, vehicletest.Delay(pace))
		}
		script = append(script, step)
	}
	return script
}

// snapshots has a chunk for each snapshot record.
func snapshots() vehicletest.Script {
	faults := []struct {
		ecu, code string
		records   int
	}{
		{"0x10", "P0442", 5}, {"0x10", "P0128-00", 4}, {"0x18", "P0741-00", 4}, {"0x28", "C0035-13", 3}, {"0x40", "B1318", 3}, {"0xD0", "U0073-88", 3},
	}
	var payloads []string
	for i, fault := range faults {
		for record := range fault.records {
			payloads = append(payloads, fmt.Sprintf(`{"status":"reading","ecuAddress":%q,"dtcCode":%q,"snapshotRecord":"0x%02X",`+
				`"values":{"engineSpeed":%d,"vehicleSpeed":%d,"engineCoolantTemperature":%d}}`,
				fault.ecu, fault.code, record+1, 850+300*i+100*record, 11*i+7*record, 71+3*i+record))
		}
	}
	last := len(payloads) - 1
	var script vehicletest.Script
	for _, payload := range payloads[:last] {
		script = append(script, vehicletest.Send(payload))
	}
	return append(script, vehicletest.Answer(payloads[last]))
}
