package vehicletest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// dataReading and dataValue are the two chunks of ReadDataByID.
type dataReading struct {
	Status     string `json:"status"`
	DataID     string `json:"dataId"`
	ECUAddress string `json:"ecuAddress"`
}

type dataValue struct {
	Status     string   `json:"status"`
	Data       dataItem `json:"data"`
	ECUAddress string   `json:"ecuAddress"`
}

type dataItem struct {
	DataID      string `json:"dataId"`
	Description string `json:"description"`
	Value       any    `json:"value"`
	Unit        string `json:"unit,omitempty"`
}

// readDataByID answers as service 0x22 does, from the engine's ECU.
func (c *car) readDataByID(params map[string]string) Script {
	text, ok := params["dataId"]
	if !ok {
		return Script{Refuse(serviceReadDataByID, NRCIncorrectLength)}
	}
	id := strings.ToUpper(strings.TrimPrefix(strings.ToLower(text), "0x"))
	for _, item := range c.data() {
		if item.DataID == id {
			item.DataID = "0x" + id
			return answer(
				dataReading{Status: "reading", DataID: item.DataID, ECUAddress: engine.address},
				dataValue{Status: "complete", Data: item, ECUAddress: engine.address})
		}
	}
	return Script{Refuse(serviceReadDataByID, NRCRequestOutOfRange)}
}

// data is what the vehicle knows of itself: identification (ISO 14229-1, annex C: F18x and F19x), and
// OBD-on-UDS values (SAE J1979-2: F4 and the PID; vehicles before it: 01 and the PID).
func (c *car) data() []dataItem {
	software := fmt.Sprintf("%02d.%02d.%03d", 20+c.rng.IntN(6), 1+c.rng.IntN(12), c.rng.IntN(400))
	serial := fmt.Sprintf("ECM%09d", c.rng.IntN(1_000_000_000))
	made := fmt.Sprintf("202%d-%02d-%02d", c.rng.IntN(6), 1+c.rng.IntN(12), 1+c.rng.IntN(28))
	idle := 680 + 10*c.rng.IntN(20)
	coolant := 78 + c.rng.IntN(20)
	ambient := -5 + c.rng.IntN(35)
	voltage := float64(136+c.rng.IntN(10)) / 10
	return []dataItem{
		{DataID: "F186", Description: "Active Diagnostic Session", Value: "defaultSession"},
		{DataID: "F187", Description: "Vehicle Manufacturer Spare Part Number", Value: partNumber(c.rng, "06K")},
		{DataID: "F189", Description: "Vehicle Manufacturer ECU Software Version Number", Value: software},
		{DataID: "F18A", Description: "System Supplier Identifier", Value: "EXAMPLE-TIER1"},
		{DataID: "F18B", Description: "ECU Manufacturing Date", Value: made},
		{DataID: "F18C", Description: "ECU Serial Number", Value: serial},
		{DataID: "F190", Description: "Vehicle Identification Number", Value: c.vin},
		{DataID: "F191", Description: "Vehicle Manufacturer ECU Hardware Number", Value: partNumber(c.rng, "06H")},
		{DataID: "F195", Description: "System Supplier ECU Software Version Number", Value: "SW" + software},
		{DataID: "F405", Description: "Engine Coolant Temperature", Value: coolant, Unit: "°C"},
		{DataID: "F40C", Description: "Engine Speed", Value: idle, Unit: "rpm"},
		{DataID: "F40D", Description: "Vehicle Speed", Value: 0, Unit: "km/h"},
		{DataID: "F442", Description: "Control Module Voltage", Value: voltage, Unit: "V"},
		{DataID: "F446", Description: "Ambient Air Temperature", Value: ambient, Unit: "°C"},
		{DataID: "010C", Description: "Engine Speed", Value: idle, Unit: "rpm"},
		{DataID: "010D", Description: "Vehicle Speed", Value: 0, Unit: "km/h"},
	}
}

func partNumber(rng *rand.Rand, group string) string {
	return fmt.Sprintf("%s %03d %03d %c", group, rng.IntN(1000), rng.IntN(1000), "ABCDEFGH"[rng.IntN(8)])
}

// fictionalVIN is a well-formed VIN that no vehicle has: the manufacturer ZZZ is assigned to nobody,
// and the model says TEST0. The year is T (2026), the plant 0.
func fictionalVIN(serial int) string {
	vin := []byte(fmt.Sprintf("ZZZTEST0_T0%06d", serial))
	vin[8] = checkDigit(vin)
	return string(vin)
}

// checkDigit is that of 49 CFR 565.15(c): the weighted sum of the transliterated characters, modulo 11,
// with X for 10. The ninth character, its own place, has no weight.
func checkDigit(vin []byte) byte {
	const letters = "0123456789.ABCDEFGH..JKLMN.P.R..STUVWXYZ" // the value is the index modulo 10
	weights := [17]int{8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2}
	sum := 0
	for i, c := range vin {
		sum += weights[i] * (strings.IndexByte(letters, c) % 10)
	}
	return "0123456789X"[sum%11]
}
