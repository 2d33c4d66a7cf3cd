package vehicletest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc/codes"
)

// answersKept bounds the fleet's memory of commands that it has answered.
const answersKept = 4096

// Fleet is a set of vehicles, one for every vehicle id, as [NewServer] has them built in. A vehicle has
// a VIN, a handful of ECUs and their faults, all drawn from the seed and its id: the same everywhere and
// every time. It remembers that its faults were cleared, and gives a command id that it has
// seen the very same answer again (the last 4096 of them), instead of running the command twice. A command
// without an id is run each time.
//
//   - ReadDTC answers in three chunks: the faults of the powertrain's ECUs, those of chassis, body and
//     network, and a summary. Parameters: ecuAddress ("0x10") and statusMask ("0x08"), both optional.
//   - ClearDTC answers in one chunk. Parameters: groupOfDTC, of which it knows "0xFFFFFF", all, the default.
//   - ReadDataByID answers in two chunks: that it reads, and the value. Parameter: dataId ("0xF190").
//   - Anything else, and any value that no ECU knows, is refused as [Refuse] does.
//
// A Fleet may be used by several goroutines at once.
type Fleet struct {
	seed uint64

	mu      sync.Mutex
	cleared map[string]bool
	answers map[string]Script // by vehicle and command id
	order   []string          // of answers, the oldest first
}

// NewFleet gives the vehicles of a seed.
func NewFleet(seed uint64) *Fleet {
	return &Fleet{seed: seed, cleared: make(map[string]bool), answers: make(map[string]Script)}
}

// Respond is a [Responder] that has a script for every request. A chunk of the answer is a step of the
// script, so that a responder of one's own can put faults between them:
//
//	script := fleet.Respond(r)
//	if r.Try == 1 {
//		return vehicletest.Script{script[0], script[1], vehicletest.Cut()}
//	}
//	return append(vehicletest.Script{vehicletest.Resume()}, script...)
func (f *Fleet) Respond(r *Request) Script {
	cmd := r.Command
	key := cmd.GetVehicleId() + "/" + cmd.GetCommandId()
	f.mu.Lock()
	defer f.mu.Unlock()
	if cmd.GetCommandId() == "" { // a bare client's: two of them are not the same command
		return f.run(r)
	}
	if script, ok := f.answers[key]; ok {
		return script
	}
	script := f.run(r)
	if len(f.order) == answersKept {
		delete(f.answers, f.order[0])
		f.order = f.order[1:]
	}
	f.answers[key] = script
	f.order = append(f.order, key)
	return script
}

func (f *Fleet) run(r *Request) Script {
	id, params := r.Command.GetVehicleId(), r.Command.GetCommandParams()
	switch r.Command.GetCommandName() {
	case "ReadDTC":
		return f.car(id).readDTC(params)
	case "ClearDTC":
		if group, ok := params["groupOfDTC"]; ok && group != "0xFFFFFF" {
			return Script{Refuse(serviceClearDTC, NRCRequestOutOfRange)}
		}
		car := f.car(id)
		f.cleared[id] = true
		return car.clearDTC()
	case "ReadDataByID":
		return f.car(id).readDataByID(params)
	default:
		return Script{Fail(codes.InvalidArgument, fmt.Sprintf("command %.64q is not supported", r.Command.GetCommandName()))}
	}
}

// car is one vehicle at one moment.
type car struct {
	rng      *rand.Rand // for what is drawn once per vehicle, always in the same order
	vin      string
	odometer int // km
	faults   []fault
	cleared  bool
}

func (f *Fleet) car(id string) *car {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	c := &car{rng: rand.New(rand.NewPCG(f.seed, h.Sum64()))}
	c.vin = fictionalVIN(c.rng.IntN(1_000_000))
	c.odometer = 4_000 + c.rng.IntN(180_000)
	c.faults = drawFaults(c.rng, c.odometer)
	c.cleared = f.cleared[id]
	return c
}

// answer makes a script of payloads, one step a chunk.
func answer(payloads ...any) Script {
	script := make(Script, len(payloads))
	for i, payload := range payloads {
		text, err := json.Marshal(payload)
		switch {
		case err != nil: // payloads are structs of ours
			return Script{Fail(codes.Internal, err.Error())}
		case i < len(payloads)-1:
			script[i] = Send(string(text))
		default:
			script[i] = Answer(string(text))
		}
	}
	return script
}
