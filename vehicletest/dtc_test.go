package vehicletest

import "testing"

func TestTheAggregatedStatusOfAFault(t *testing.T) {
	t.Parallel()
	for status, want := range map[byte]string{0x2F: "active", 0xAF: "active", 0x2C: "passive", 0x28: "passive", 0x24: "pending", 0x50: "notTested"} {
		if got := (fault{status: status}).aggregated(); got != want {
			t.Errorf("0x%02X: got %s, want %s", status, got, want)
		}
	}
}
