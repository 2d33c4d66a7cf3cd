package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// variety is how many different payloads of a size there are; a longer answer repeats them.
const variety = 64

// payloadsOf returns what a vehicle answers to ReadDTC, in chunks of size bytes each, which is 200 or more: up to 512 bytes one
// fault a chunk, in SOVD's words (code, display_code, status flags, a snapshot of the moment), and a list of detailed faults
// in larger ones. What is then missing is text. They are the same in every process.
func payloadsOf(size int) []string {
	payloads := make([]string, variety)
	for i := range payloads {
		if size <= 512 {
			payloads[i] = padded(size, func(pad string) any { return faultOf(i, pad) })
			continue
		}
		list := faultList{ECU: ecuNames[i%len(ecuNames)]}
		for n := range size { // as many as there is room for
			longer := list
			longer.Items = append(longer.Items, detailedFault(i+n))
			if len(encode(longer)) > size {
				break
			}
			list = longer
		}
		payloads[i] = padded(size, func(pad string) any { list.Note = pad; return list })
	}
	return payloads
}

// padded makes a text of size bytes, if what it pads leaves room.
func padded(size int, document func(pad string) any) string {
	const words = "signal above the permitted range after a cold start, seen in two drive cycles; "
	room := max(0, size-len(encode(document(""))))
	return string(encode(document(strings.Repeat(words, room/len(words)+1)[:room])))
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return nil // it is of our own types: it can be encoded
	}
	return text
}

var (
	ecuNames     = []string{"EngineControlModule", "ABS", "BodyControlModule", "CentralGateway", "Restraints"}
	troubleCodes = []string{"P0420", "P0171", "P0300", "C0035", "B1318", "U0100", "P0128", "U0121"}
)

type fault struct {
	Code     string       `json:"code"`
	Display  string       `json:"display_code"`
	Severity int          `json:"severity"`
	Symptom  string       `json:"symptom"`
	Status   faultStatus  `json:"status"`
	Snapshot *snapshot    `json:"snapshot,omitempty"`
	Data     *environment `json:"environment_data,omitempty"`
}

type faultStatus struct {
	Mask      string `json:"mask"`
	Failed    bool   `json:"testFailed"`
	Confirmed bool   `json:"confirmedDTC"`

	Details *statusDetails `json:"details,omitempty"`
}

type statusDetails struct {
	ThisCycle bool `json:"testFailedThisOperationCycle"`
	Pending   bool `json:"pendingDTC"`
	Since     bool `json:"testFailedSinceLastClear"`
	Warning   bool `json:"warningIndicatorRequested"`
}

type snapshot struct {
	Odometer int     `json:"km"`
	Speed    float64 `json:"rpm"`
}

type environment struct {
	Occurrences int         `json:"occurrence_counter"`
	Aging       int         `json:"aging_counter"`
	Snapshots   []freezeRow `json:"snapshots"`
}

type freezeRow struct {
	Odometer int     `json:"odometer"`
	Speed    float64 `json:"vehicle_speed"`
	Engine   float64 `json:"engine_speed"`
	Coolant  float64 `json:"coolant_temperature"`
	Voltage  float64 `json:"control_module_voltage"`
}

type faultList struct {
	ECU   string  `json:"ecu"`
	Items []fault `json:"items"`
	Note  string  `json:"note"`
}

func faultOf(i int, symptom string) fault {
	code := troubleCodes[i%len(troubleCodes)]
	return fault{
		Code: code, Display: fmt.Sprintf("%s-%02X", code, i), Severity: 1 + i%4, Symptom: symptom,
		Status:   faultStatus{Mask: fmt.Sprintf("0x%02X", 0x20+i), Failed: i%2 == 0, Confirmed: true},
		Snapshot: &snapshot{Odometer: 48_000 + 37*i, Speed: 800.25 + 10*float64(i)},
	}
}

func detailedFault(i int) fault {
	f := faultOf(i, "")
	f.Snapshot = nil
	f.Status.Details = &statusDetails{ThisCycle: i%3 == 0, Pending: i%2 == 1, Since: true, Warning: i%5 == 0}
	row := freezeRow{Odometer: 48_000 + 37*i, Speed: 12.5 * float64(i%8), Engine: 800.25 + 10*float64(i), Coolant: 91.5, Voltage: 13.75}
	f.Data = &environment{Occurrences: 1 + i, Aging: i % 40, Snapshots: []freezeRow{row}}
	return f
}
