package vehicletest_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sovd-go/vehicle/vehiclepb"
	"github.com/sovd-go/vehicle/vehicletest"
)

func requestWith(name, vehicle string, params map[string]string) *vehiclepb.CommandRequest {
	return &vehiclepb.CommandRequest{
		CommandId: uuid.NewString(), VehicleId: vehicle, CommandName: name, CommandParams: params,
	}
}

// fault is a fault in either spelling.
type fault struct {
	Code        string         `json:"code"`
	DisplayCode string         `json:"display_code"`
	DTCCode     string         `json:"dtcCode"`
	Status      map[string]any `json:"status"`
	Adapter     map[string]any `json:"environment_data"`
	Native      map[string]any `json:"environmentData"`
}

func (f fault) code() string { return f.DisplayCode + f.DTCCode }

// status is the UDS status byte, put together from the named bits.
func (f fault) status() (b byte) {
	bits := [8][2]string{
		{"test_failed", "testFailed"},
		{"test_failed_this_operation_cycle", "testFailedThisOperationCycle"},
		{"pending_dtc", "pendingDTC"},
		{"confirmed_dtc", "confirmedDTC"},
		{"test_not_completed_since_last_clear", "testNotCompletedSinceLastClear"},
		{"test_failed_since_last_clear", "testFailedSinceLastClear"},
		{"test_not_completed_this_operation_cycle", "testNotCompletedThisOperationCycle"},
		{"warning_indicator_requested", "warningIndicatorRequested"},
	}
	for i, names := range bits {
		if f.Status[names[0]] == true || f.Status[names[1]] == "1" {
			b |= 1 << i
		}
	}
	return b
}

func faultsOf(t *testing.T, chunks []*vehiclepb.CommandResponse) []fault {
	t.Helper()
	var all []fault
	for _, c := range chunks {
		var report struct {
			Faults []fault `json:"faults"`
		}
		if err := json.Unmarshal([]byte(c.GetResponsePayload()), &report); err != nil {
			t.Fatal(err)
		}
		all = append(all, report.Faults...)
	}
	return all
}

func TestEveryVehicleHasFaultsOfEveryKind(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	wellFormed := regexp.MustCompile(`^[PCBU][0-3][0-9A-F]{3}(-[0-9A-F]{2})?$`)
	for i := range 200 {
		vehicle := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)).String()
		var letters strings.Builder
		var bits byte
		forms, spellings := map[int]bool{}, map[bool]bool{}
		chunks := mustAsk(t, client, requestWith("ReadDTC", vehicle, nil))
		powertrain := len(faultsOf(t, chunks[:1]))
		for i, f := range faultsOf(t, chunks) {
			if i == powertrain {
				letters.WriteByte(' ') // of the next chunk
			}
			if !wellFormed.MatchString(f.code()) {
				t.Errorf("%s: %q is no trouble code", vehicle, f.code())
			}
			native := f.DTCCode != ""
			if !native && f.Code != strings.ReplaceAll(f.DisplayCode, "-", "") {
				t.Errorf("%s: code %q does not fit display_code %q", vehicle, f.Code, f.DisplayCode)
			}
			if mask, ok := f.Status["mask"]; !native && (!ok || mask != fmt.Sprintf("0x%02X", f.status())) {
				t.Errorf("%s: %s: mask %v does not fit status bits 0x%02X", vehicle, f.code(), mask, f.status())
			}
			want := 2 // snapshots and extended data
			if f.status() == 0x50 {
				want = 0
			}
			if got := len(f.Adapter) + len(f.Native); got != want {
				t.Errorf("%s: %s with status 0x%02X: got %d kinds of environment data, want %d", vehicle, f.code(), f.status(), got, want)
			}
			letters.WriteByte(f.code()[0])
			bits |= f.status()
			forms[len(f.code())] = true
			spellings[native] = true
		}
		if got := letters.String(); got != "PP CBU" || bits != 0xFF || len(forms) != 2 || len(spellings) != 2 {
			t.Errorf("%s: got code letters %s, status bits 0x%02X, %d forms, %d spellings, want PP CBU, 0xFF, 2, 2",
				vehicle, got, bits, len(forms), len(spellings))
		}
	}
}

func TestTheSameSeedAndVehicleGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	answer := func(seed uint64, vehicle string) []string {
		client := stub(t, vehicletest.NewServer(t, vehicletest.WithSeed(seed)))
		var all []string
		for _, req := range []*vehiclepb.CommandRequest{
			requestWith("ReadDataByID", vehicle, map[string]string{"dataId": "0xF190"}),
			requestWith("ReadDTC", vehicle, nil),
			requestWith("ReadDataByID", vehicle, map[string]string{"dataId": "0xF18C"}),
		} {
			all = append(all, payloads(mustAsk(t, client, req))...)
		}
		return all
	}
	first := answer(7, vehicleID)
	if diff := cmp.Diff(first, answer(7, vehicleID)); diff != "" {
		t.Errorf("the same seed and vehicle on another server (-first +second):\n%s", diff)
	}
	if cmp.Equal(first, answer(8, vehicleID)) {
		t.Error("another seed gives the same vehicle")
	}
	if cmp.Equal(first, answer(7, uuid.NewString())) {
		t.Error("another id gives the same vehicle")
	}
}

func TestClearDTCIsRememberedByItsVehicleAlone(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	read := requestWith("ReadDTC", vehicleID, nil)
	before := mustAsk(t, client, read)
	for i, want := range []string{"5", "0"} {
		got := payloads(mustAsk(t, client, requestWith("ClearDTC", vehicleID, nil)))
		if len(got) != 1 || !strings.Contains(got[0], `"clearedCount":`+want) {
			t.Errorf("ClearDTC number %d: got %s, want one chunk with clearedCount %s", i+1, got, want)
		}
	}

	after := faultsOf(t, mustAsk(t, client, requestWith("ReadDTC", vehicleID, nil)))
	if got, want := len(after), len(faultsOf(t, before)); got != want {
		t.Errorf("after ClearDTC: got %d faults, want the same %d", got, want)
	}
	for _, f := range after {
		if f.status() != 0x50 || len(f.Adapter)+len(f.Native) > 0 {
			t.Errorf("%s after ClearDTC: got status 0x%02X and environment %v%v, want 0x50 and none", f.code(), f.status(), f.Adapter, f.Native)
		}
	}
	for _, f := range faultsOf(t, mustAsk(t, client, requestWith("ReadDTC", uuid.NewString(), nil)))[:1] {
		if f.status() == 0x50 { // the first is failing now in every vehicle
			t.Errorf("%s of another vehicle was cleared too", f.code())
		}
	}
	again := mustAsk(t, client, read)
	if diff := cmp.Diff(payloads(before), payloads(again)); diff != "" {
		t.Errorf("a command id that was answered before the clear (-want +got):\n%s", diff)
	}
}

// grpcurl and the like send no id unless they are told to.
func TestCommandsWithoutAnIDAreNotTakenForOne(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	for _, tt := range []struct {
		name   string
		chunks int
	}{{"ReadDTC", 3}, {"ClearDTC", 1}, {"ReadDTC", 3}} {
		req := request(tt.name)
		req.CommandId = ""
		if got := payloads(mustAsk(t, client, req)); len(got) != tt.chunks {
			t.Errorf("%s: got %d chunks, %q, want %d", tt.name, len(got), got, tt.chunks)
		}
	}
}

func TestReadDTCFilters(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	all := faultsOf(t, mustAsk(t, client, requestWith("ReadDTC", vehicleID, nil)))
	tests := map[string]struct {
		params map[string]string
		want   func(fault) bool
	}{
		"by status mask":      {map[string]string{"statusMask": "0x01"}, func(f fault) bool { return f.status()&1 != 0 }},
		"by a mask of none":   {map[string]string{"statusMask": "0"}, func(fault) bool { return false }},
		"by ECU":              {map[string]string{"ecuAddress": "0xd0"}, func(f fault) bool { return f.code()[0] == 'U' }},
		"by both":             {map[string]string{"ecuAddress": "0x28", "statusMask": "0x80"}, func(f fault) bool { return f.code()[0] == 'C' && f.status()&0x80 != 0 }},
		"everything is there": {nil, func(fault) bool { return true }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chunks := mustAsk(t, client, requestWith("ReadDTC", vehicleID, tt.params))
			if got := len(chunks); got != 3 {
				t.Errorf("got %d chunks, want 3", got)
			}
			var got, want []string
			for _, f := range faultsOf(t, chunks) {
				got = append(got, f.code())
			}
			for _, f := range all {
				if tt.want(f) {
					want = append(want, f.code())
				}
			}
			if total := fmt.Sprintf(`"totalDtcs":%d,`, len(want)); !strings.Contains(chunks[2].GetResponsePayload(), total) {
				t.Errorf("summary: got %s, want %s", chunks[2].GetResponsePayload(), total)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadDataByIDKnowsItsIdentifiers(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	for id := range strings.FieldsSeq("F186 F187 F189 F18A F18B F18C F190 F191 F195 F405 F40C F40D F442 F446 010C 010D") {
		for _, spelling := range []string{"0x" + id, id, strings.ToLower(id)} {
			chunks := mustAsk(t, client, requestWith("ReadDataByID", vehicleID, map[string]string{"dataId": spelling}))
			if len(chunks) != 2 {
				t.Fatalf("%s: got %d chunks, want 2", spelling, len(chunks))
			}
			var value struct {
				Data struct {
					DataID string `json:"dataId"`
					Value  any    `json:"value"`
				} `json:"data"`
			}
			if err := json.Unmarshal([]byte(chunks[1].GetResponsePayload()), &value); err != nil {
				t.Fatal(err)
			}
			if value.Data.DataID != "0x"+id || value.Data.Value == nil || value.Data.Value == "" {
				t.Errorf("%s: got %+v", spelling, value.Data)
			}
		}
	}
}

func TestVINsAreWellFormedAndFictional(t *testing.T) {
	t.Parallel()
	// The check below is proved by VINs whose check digits are known.
	for vin, want := range map[string]bool{"1M8GDM9AXKP042788": true, "11111111111111111": true, "1M8GDM9A1KP042788": false} {
		if got := validVIN(vin); got != want {
			t.Fatalf("validVIN(%s): got %v, want %v", vin, got, want)
		}
	}
	client := stub(t, vehicletest.NewServer(t))
	vins := map[string]bool{}
	for range 100 {
		chunks := mustAsk(t, client, requestWith("ReadDataByID", uuid.NewString(), map[string]string{"dataId": "0xF190"}))
		vin := regexp.MustCompile(`ZZZTEST0\w{9}`).FindString(chunks[1].GetResponsePayload())
		if !validVIN(vin) {
			t.Errorf("VIN %q in %s is not valid", vin, chunks[1].GetResponsePayload())
		}
		vins[vin] = true
	}
	if len(vins) < 95 {
		t.Errorf("100 vehicles have %d VINs", len(vins))
	}
}

func validVIN(vin string) bool {
	values := map[rune]int{
		'A': 1, 'B': 2, 'C': 3, 'D': 4, 'E': 5, 'F': 6, 'G': 7, 'H': 8, 'J': 1, 'K': 2, 'L': 3, 'M': 4, 'N': 5,
		'P': 7, 'R': 9, 'S': 2, 'T': 3, 'U': 4, 'V': 5, 'W': 6, 'X': 7, 'Y': 8, 'Z': 9,
	}
	if len(vin) != 17 {
		return false
	}
	sum := 0
	for i, r := range vin {
		value, letter := values[r]
		switch {
		case r >= '0' && r <= '9':
			value = int(r - '0')
		case !letter:
			return false
		}
		sum += value * []int{8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2}[i]
	}
	check := fmt.Sprint(sum % 11)
	if check == "10" {
		check = "X"
	}
	return vin[8:9] == check
}

func TestWhatAVehicleDoesNotKnowIsRefused(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	tests := map[string]struct {
		name         string
		params       map[string]string
		service, nrc string // "" where it is no ECU that refuses
	}{
		"a command":                           {"SelfDestruct", nil, "", ""},
		"a data identifier":                   {"ReadDataByID", map[string]string{"dataId": "0xF1FF"}, "0x22", "0x31"},
		"a data identifier that is no number": {"ReadDataByID", map[string]string{"dataId": "VIN"}, "0x22", "0x31"},
		"no data identifier":                  {"ReadDataByID", nil, "0x22", "0x13"},
		"an ECU":                              {"ReadDTC", map[string]string{"ecuAddress": "0x99"}, "0x19", "0x31"},
		"a status mask":                       {"ReadDTC", map[string]string{"statusMask": "all"}, "0x19", "0x31"},
		"a status mask of two bytes":          {"ReadDTC", map[string]string{"statusMask": "0x1FF"}, "0x19", "0x31"},
		"a group of DTCs":                     {"ClearDTC", map[string]string{"groupOfDTC": "0x123456"}, "0x14", "0x31"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chunks, err := ask(t.Context(), client, requestWith(tt.name, vehicleID, tt.params))
			wantCode(t, err, codes.InvalidArgument)
			if len(chunks) > 0 {
				t.Errorf("got %d chunks, want none: a failure is a status", len(chunks))
			}
			want := []any{}
			if tt.nrc != "" {
				want = []any{&errdetails.ErrorInfo{
					Reason: "error-response", Domain: "sovd",
					Metadata: map[string]string{"service": tt.service, "nrc": tt.nrc},
				}}
			}
			if diff := cmp.Diff(want, status.Convert(err).Details(), protocmp.Transform()); diff != "" {
				t.Errorf("details (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAFleetForgetsItsOldestAnswers(t *testing.T) {
	t.Parallel()
	fleet := vehicletest.NewFleet(0)
	respond := func(req *vehiclepb.CommandRequest) *vehicletest.Step {
		return &fleet.Respond(&vehicletest.Request{Command: req})[0]
	}
	const early = 3
	var requests []*vehiclepb.CommandRequest
	var answers []*vehicletest.Step
	for range early {
		req := requestWith("ReadDTC", vehicleID, nil)
		requests, answers = append(requests, req), append(answers, respond(req))
	}
	for range 4096 - early {
		respond(requestWith("ClearDTC", vehicleID, nil))
	}
	for i, req := range requests {
		if respond(req) != answers[i] {
			t.Errorf("answer %d of the last 4096 was forgotten", i+1)
		}
	}
	for range early {
		respond(requestWith("ClearDTC", vehicleID, nil))
	}
	for i, req := range requests {
		if respond(req) == answers[i] {
			t.Errorf("answer %d before the last 4096 was kept", i+1)
		}
	}
}

func TestACommandIDIsItsVehiclesOwn(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	req := requestWith("ReadDTC", vehicleID, nil)
	first := payloads(mustAsk(t, client, req))
	req.VehicleId = uuid.NewString()
	if cmp.Equal(first, payloads(mustAsk(t, client, req))) {
		t.Error("another vehicle gave the same answer")
	}
}

func TestAFleetServesManyAtOnce(t *testing.T) {
	t.Parallel()
	client := stub(t, vehicletest.NewServer(t))
	req := requestWith("ReadDTC", vehicleID, nil)
	var wait sync.WaitGroup
	for i := range 64 {
		wait.Go(func() {
			vehicle := vehicleID
			if i%2 == 0 {
				vehicle = uuid.NewString()
			}
			for _, r := range []*vehiclepb.CommandRequest{requestWith("ClearDTC", vehicle, nil), requestWith("ReadDTC", vehicle, nil), req} {
				if _, err := ask(t.Context(), client, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}
