package vehicletest

// The two spellings of a fault. Field order is the order on the wire.

type adapterFault struct {
	Code        string             `json:"code"`
	DisplayCode string             `json:"display_code"`
	Name        string             `json:"fault_name"`
	Severity    int                `json:"severity"`
	Scope       string             `json:"scope"`
	Symptom     string             `json:"symptom,omitempty"`
	ECUAddress  string             `json:"ecu_address"`
	ECUName     string             `json:"ecu_name"`
	Status      adapterStatus      `json:"status"`
	Environment adapterEnvironment `json:"environment_data"`
}

type adapterStatus struct {
	TestFailed                         bool   `json:"test_failed"`
	TestFailedThisOperationCycle       bool   `json:"test_failed_this_operation_cycle"`
	PendingDTC                         bool   `json:"pending_dtc"`
	ConfirmedDTC                       bool   `json:"confirmed_dtc"`
	TestNotCompletedSinceLastClear     bool   `json:"test_not_completed_since_last_clear"`
	TestFailedSinceLastClear           bool   `json:"test_failed_since_last_clear"`
	TestNotCompletedThisOperationCycle bool   `json:"test_not_completed_this_operation_cycle"`
	WarningIndicatorRequested          bool   `json:"warning_indicator_requested"`
	Mask                               string `json:"mask"`
}

type adapterEnvironment struct {
	ExtendedData map[string]int `json:"extended_data_records,omitempty"`
	Snapshots    *snapshotData  `json:"snapshots,omitempty"`
}

type snapshotData struct {
	Data map[string]snapshotRecord `json:"data"`
}

type snapshotRecord struct {
	Odometer int                `json:"odometer"`
	Values   map[string]float64 `json:"values"`
}

type nativeFault struct {
	Code        string            `json:"dtcCode"`
	Description string            `json:"description"`
	Severity    int               `json:"severity"`
	Scope       string            `json:"scope"`
	Symptom     string            `json:"symptom,omitempty"`
	ECUAddress  string            `json:"ecuAddress"`
	ECUName     string            `json:"ecuName"`
	Status      nativeStatus      `json:"status"`
	Environment nativeEnvironment `json:"environmentData"`
}

type nativeStatus struct {
	TestFailed                         string `json:"testFailed"`
	TestFailedThisOperationCycle       string `json:"testFailedThisOperationCycle"`
	PendingDTC                         string `json:"pendingDTC"`
	ConfirmedDTC                       string `json:"confirmedDTC"`
	TestNotCompletedSinceLastClear     string `json:"testNotCompletedSinceLastClear"`
	TestFailedSinceLastClear           string `json:"testFailedSinceLastClear"`
	TestNotCompletedThisOperationCycle string `json:"testNotCompletedThisOperationCycle"`
	WarningIndicatorRequested          string `json:"warningIndicatorRequested"`
	AggregatedStatus                   string `json:"aggregatedStatus"`
}

type nativeEnvironment struct {
	ExtendedData map[string]int   `json:"extendedDataRecords,omitempty"`
	Snapshots    []nativeSnapshot `json:"snapshots,omitempty"`
}

type nativeSnapshot struct {
	Record   string             `json:"record"`
	Odometer int                `json:"odometer"`
	Values   map[string]float64 `json:"values"`
}

// extendedData is nil, and thereby absent, after a clear.
func (f fault) extendedData(occurrence, aging string) map[string]int {
	if f.freeze == nil {
		return nil
	}
	return map[string]int{occurrence: f.occurrences, aging: f.aging}
}

func (f fault) adapterSnapshots() *snapshotData {
	if f.freeze == nil {
		return nil
	}
	return &snapshotData{Data: map[string]snapshotRecord{
		"DTCSnapshotRecord_1": {Odometer: f.odometer, Values: f.freeze},
	}}
}

func (f fault) nativeSnapshots() []nativeSnapshot {
	if f.freeze == nil {
		return nil
	}
	return []nativeSnapshot{{Record: "0x01", Odometer: f.odometer, Values: f.freeze}}
}

func (f fault) aggregated() string {
	switch {
	case f.status&testFailed != 0:
		return "active"
	case f.status&confirmedDTC != 0:
		return "passive"
	case f.status&pendingDTC != 0:
		return "pending"
	default:
		return "notTested"
	}
}
