package vehicletest

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// ecu is a control unit. Addresses are one byte as in SAE J2178-1; names are those of a parts catalogue.
type ecu struct {
	address string
	name    string
	classic bool // behind a classic diagnostic adapter: JSON in its spelling; else a native SOVD server's
}

var (
	engine       = ecu{"0x10", "Engine Control Module", true}
	transmission = ecu{"0x18", "Transmission Control Module", true}
	brake        = ecu{"0x28", "ABS/ESP Control Module", true}
	body         = ecu{"0x40", "Body Control Module", false}
	restraints   = ecu{"0x58", "Restraints Control Module", false}
	gateway      = ecu{"0xD0", "Central Gateway", false}

	ecus = []ecu{engine, transmission, brake, body, restraints, gateway}
)

// knownFault is a trouble code as SAE J2012 writes it: five characters for the two-byte form, and the
// failure type byte after them (J2012-DA) for the three-byte form.
type knownFault struct {
	ecu      ecu
	code     string
	name     string
	severity int    // SOVD: 1 fatal, 2 error, 3 warning, 4 information
	symptom  string // of the failure type byte
}

// faultChoices has one fault drawn from each row, so that every vehicle has P, C, B and U codes in both forms.
var faultChoices = [][]knownFault{
	{
		{engine, "P0420", "Catalyst System Efficiency Below Threshold Bank 1", 2, ""},
		{engine, "P0171", "System Too Lean Bank 1", 2, ""},
		{engine, "P0300", "Random/Multiple Cylinder Misfire Detected", 1, ""},
		{engine, "P0442", "Evaporative Emission System Leak Detected (small leak)", 3, ""},
	},
	{
		{engine, "P0113-13", "Intake Air Temperature Sensor 1 Circuit High Bank 1", 3, "Circuit Open"},
		{engine, "P0128-00", "Coolant Thermostat (Coolant Temperature Below Thermostat Regulating Temperature)", 3, ""},
		{transmission, "P0715-29", "Input/Turbine Shaft Speed Sensor A Circuit", 2, "Signal Invalid"},
		{transmission, "P0741-00", "Torque Converter Clutch Circuit Performance/Stuck Off", 2, ""},
	},
	{
		{brake, "C0035-13", "Left Front Wheel Speed Sensor", 2, "Circuit Open"},
		{brake, "C0040-29", "Right Front Wheel Speed Sensor", 2, "Signal Invalid"},
		{brake, "C0045-64", "Left Rear Wheel Speed Sensor", 2, "Signal Plausibility Failure"},
	},
	{
		{body, "B1318", "Battery Voltage Low", 3, ""},
		{body, "B1318-16", "Battery Voltage Low", 3, "Circuit Voltage Below Threshold"},
		{restraints, "B0001-12", "Driver Frontal Stage 1 Deployment Control", 1, "Circuit Short To Battery"},
		{restraints, "B0100-87", "Electronic Frontal Sensor 1", 1, "Missing Message"},
	},
	{
		{gateway, "U0121-87", "Lost Communication With Anti-Lock Brake System (ABS) Control Module", 2, "Missing Message"},
		{gateway, "U0073-88", "Control Module Communication Bus A Off", 1, "Bus Off"},
		{gateway, "U0140", "Lost Communication With Body Control Module", 2, ""},
	},
}

// The status byte of UDS (ISO 14229-1, annex D), as bits 0 to 7.
const (
	testFailed = 1 << iota
	testFailedThisOperationCycle
	pendingDTC
	confirmedDTC
	testNotCompletedSinceLastClear
	testFailedSinceLastClear
	testNotCompletedThisOperationCycle
	warningIndicatorRequested

	statusAfterClear = testNotCompletedSinceLastClear | testNotCompletedThisOperationCycle // 0x50
)

// statusBytes are what the rows of faultChoices draw from; over one vehicle every bit is set somewhere.
var statusBytes = [][]byte{
	{0xAF},             // failing now, confirmed, lamp on
	{0x28, 0x2C, 0x2F}, // confirmed earlier, pending again, failing again
	{0xAF, 0xE8, 0x2E}, // E8: confirmed, lamp on, not tested yet since the ignition was switched on
	{0x24, 0x2F, 0x68},
	{statusAfterClear}, // not tested since the last clear
}

// fault is what one ECU's fault memory holds.
type fault struct {
	knownFault
	status      byte
	occurrences int
	aging       int                // warm-up cycles since it last failed
	odometer    int                // km, when it was stored
	freeze      map[string]float64 // nil: nothing was stored
}

func drawFaults(rng *rand.Rand, odometer int) []fault {
	faults := make([]fault, len(faultChoices))
	for i, choices := range faultChoices {
		statuses := statusBytes[i]
		f := fault{
			knownFault:  choices[rng.IntN(len(choices))],
			status:      statuses[rng.IntN(len(statuses))],
			occurrences: 1 + rng.IntN(12),
			aging:       1 + rng.IntN(39),
			odometer:    odometer - rng.IntN(2_000),
			freeze: map[string]float64{
				"controlModuleVoltage":     float64(118+rng.IntN(28)) / 10, // V
				"engineCoolantTemperature": float64(20 + rng.IntN(80)),     // °C
				"engineSpeed":              float64(700 + 50*rng.IntN(60)), // rpm
				"vehicleSpeed":             float64(rng.IntN(140)),         // km/h
			},
		}
		switch {
		case f.status == statusAfterClear:
			f = f.afterClear()
		case f.status&(testFailed|testFailedThisOperationCycle|pendingDTC) != 0:
			f.aging = 0 // it ages only while it stays away
		}
		faults[i] = f
	}
	return faults
}

// readDTC answers as service 0x19 does, by status mask (sub-function 0x02) with snapshots (0x04) and
// extended data (0x06).
func (c *car) readDTC(params map[string]string) Script {
	mask := byte(0xFF)
	if text, ok := params["statusMask"]; ok {
		n, err := strconv.ParseUint(text, 0, 8)
		if err != nil {
			return Script{Refuse(serviceReadDTC, NRCRequestOutOfRange)}
		}
		mask = byte(n)
	}
	address, one := params["ecuAddress"]
	if one && !knownECU(address) {
		return Script{Refuse(serviceReadDTC, NRCRequestOutOfRange)}
	}

	chunks := [2]faultReport{{Status: "reading", Faults: []any{}}, {Status: "reading", Faults: []any{}}}
	total := 0
	for _, f := range c.faults {
		if c.cleared {
			f = f.afterClear()
		}
		if one && !strings.EqualFold(f.ecu.address, address) || f.status&mask == 0 {
			continue
		}
		chunk := &chunks[1]
		if f.code[0] == 'P' {
			chunk = &chunks[0]
		}
		chunk.Faults = append(chunk.Faults, f.json())
		total++
	}
	return answer(chunks[0], chunks[1], faultSummary{
		Status: "complete", TotalDTCs: total, AvailabilityMask: "0xFF", Odometer: c.odometer,
	})
}

// clearDTC answers as service 0x14 does for all groups.
func (c *car) clearDTC() Script {
	count := len(c.faults)
	if c.cleared {
		count = 0
	}
	return answer(clearReport{Status: "success", GroupOfDTC: "0xFFFFFF", ClearedCount: count})
}

// afterClear keeps nothing but the code.
func (f fault) afterClear() fault {
	return fault{knownFault: f.knownFault, status: statusAfterClear}
}

func knownECU(address string) bool {
	for _, e := range ecus {
		if strings.EqualFold(e.address, address) {
			return true
		}
	}
	return false
}

type faultReport struct {
	Status string `json:"status"`
	Faults []any  `json:"faults"`
}

type faultSummary struct {
	Status           string `json:"status"`
	TotalDTCs        int    `json:"totalDtcs"`
	AvailabilityMask string `json:"statusAvailabilityMask"`
	Odometer         int    `json:"odometer"`
}

type clearReport struct {
	Status       string `json:"status"`
	GroupOfDTC   string `json:"groupOfDTC"`
	ClearedCount int    `json:"clearedCount"`
}

// json gives the fault in its ECU's spelling. Both are in the field: what a classic diagnostic adapter
// emits (code, snake_case booleans and the mask), and SOVD's own (camelCase "0" and "1").
func (f fault) json() any {
	bit := func(b byte) bool { return f.status&b != 0 }
	if f.ecu.classic {
		return adapterFault{
			Code:        strings.ReplaceAll(f.code, "-", ""),
			DisplayCode: f.code,
			Name:        f.name,
			Severity:    f.severity,
			Scope:       "FaultMem",
			Symptom:     f.symptom,
			ECUAddress:  f.ecu.address,
			ECUName:     f.ecu.name,
			Status: adapterStatus{
				TestFailed:                         bit(testFailed),
				TestFailedThisOperationCycle:       bit(testFailedThisOperationCycle),
				PendingDTC:                         bit(pendingDTC),
				ConfirmedDTC:                       bit(confirmedDTC),
				TestNotCompletedSinceLastClear:     bit(testNotCompletedSinceLastClear),
				TestFailedSinceLastClear:           bit(testFailedSinceLastClear),
				TestNotCompletedThisOperationCycle: bit(testNotCompletedThisOperationCycle),
				WarningIndicatorRequested:          bit(warningIndicatorRequested),
				Mask:                               fmt.Sprintf("0x%02X", f.status),
			},
			Environment: adapterEnvironment{
				ExtendedData: f.extendedData("occurrence_counter", "aging_counter"),
				Snapshots:    f.adapterSnapshots(),
			},
		}
	}
	digit := func(b byte) string {
		if bit(b) {
			return "1"
		}
		return "0"
	}
	return nativeFault{
		Code:        f.code,
		Description: f.name,
		Severity:    f.severity,
		Scope:       "FaultMem",
		Symptom:     f.symptom,
		ECUAddress:  f.ecu.address,
		ECUName:     f.ecu.name,
		Status: nativeStatus{
			TestFailed:                         digit(testFailed),
			TestFailedThisOperationCycle:       digit(testFailedThisOperationCycle),
			PendingDTC:                         digit(pendingDTC),
			ConfirmedDTC:                       digit(confirmedDTC),
			TestNotCompletedSinceLastClear:     digit(testNotCompletedSinceLastClear),
			TestFailedSinceLastClear:           digit(testFailedSinceLastClear),
			TestNotCompletedThisOperationCycle: digit(testNotCompletedThisOperationCycle),
			WarningIndicatorRequested:          digit(warningIndicatorRequested),
			AggregatedStatus:                   f.aggregated(),
		},
		Environment: nativeEnvironment{
			ExtendedData: f.extendedData("occurrenceCounter", "agingCounter"),
			Snapshots:    f.nativeSnapshots(),
		},
	}
}
