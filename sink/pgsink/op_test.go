package pgsink

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sovd-go/vehicle"
)

func TestTheHalvesOfABatchHaveItsBytes(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	text := []byte(`"\u0000` + strings.Repeat("<", 300<<10) + `"`) // is stored as a longer one
	chunks := []vehicle.Chunk{{CommandID: id, Payload: text}, {CommandID: id, Seq: 1, Payload: text}}
	o, n, err := newWrite(id, chunks, &mark{})
	if err != nil || n != 2 {
		t.Fatalf("got %d chunks, %v", n, err)
	}
	all := o.rows.bytes
	first := o.split()
	if got, want := []int{first.rows.bytes, o.rows.bytes}, all/2; got[0] != want || got[1] != want {
		t.Errorf("got %d bytes, want %d each", got, want)
	}
}

// Whatever the parameters are, they are encoded as encoding/json would.
func FuzzParams(f *testing.F) {
	f.Add("did", "F190", "ecu", "0x7E0", "count", 3.5)
	f.Add("b", "<a & b>", "a", "quoted \"word\"", "", 0.5)
	f.Add("same", "nul \x00", "same", "broken \xff", "é\u2028", 1e300)
	f.Fuzz(func(t *testing.T, name1, text1, name2, text2, name3 string, number float64) {
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return // no number of JSON's
		}
		params := map[string]any{name1: text1, name2: text2, name3: []any{number, nil, json.RawMessage(`{ "a": true }`)}}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(params); err != nil {
			t.Fatal(err)
		}
		got, err := encodeParams(params)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.String(), string(got)+"\n"); diff != "" {
			t.Errorf("encoded otherwise than by encoding/json (-want +got):\n%s", diff)
		}
	})
}

func TestParamsThatAreNotJSON(t *testing.T) {
	t.Parallel()
	_, err := newBegin(vehicle.Command{Name: "ReadDTC", Params: map[string]any{"a": "text", "b": math.NaN()}}, false)
	if want := "the command's parameters cannot be encoded as JSON"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
