package vehicle

import (
	"crypto/sha1"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sovd-go/vehicle/vehiclepb"
)

// Chunk ids are stored and announced: they must never change. The literals are those of Python's uuid.uuid5.
func TestChunkID(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		command string
		seq     int32
		want    string
	}{
		"the first chunk":               {"123e4567-e89b-42d3-a456-426614174000", 0, "f795f994-7836-5343-a9c2-0c592cc5d0ef"},
		"the second chunk":              {"123e4567-e89b-42d3-a456-426614174000", 1, "f1310063-5fb4-5790-b110-6598d2aeedbd"},
		"a number of two digits":        {"123e4567-e89b-42d3-a456-426614174000", 10, "267e4f1f-adee-5b43-a94b-d55c3fc67a84"},
		"the last number":               {"00000000-0000-0000-0000-000000000000", math.MaxInt32, "21552709-5494-5769-a13c-ed5e063e3f05"},
		"a number that no chunk has":    {"7d44485b-35c7-4bd2-9e33-4e1bb2a7e1a5", -1, "050e1ad0-a4e6-5ed4-aefb-27aca3ce0f3c"},
		"what the chunk brings is none": {"123e4567-e89b-42d3-a456-426614174000", 0, "f795f994-7836-5343-a9c2-0c592cc5d0ef"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chunk := Chunk{CommandID: uuid.MustParse(tt.command), Seq: tt.seq}
			if strings.HasPrefix(name, "what") {
				chunk = Chunk{CommandID: chunk.CommandID, Seq: tt.seq, VehicleID: uuid.New(), Payload: json.RawMessage(`1`), Final: true, Timestamp: time.Now(), ReceivedAt: time.Now()}
			}
			got := chunk.ID()
			if got.String() != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if want := nameBased(chunk.CommandID, strconv.Itoa(int(tt.seq))); got != want {
				t.Errorf("got %s, want %s by RFC 9562", got, want)
			}
		})
	}
}

// nameBased is RFC 9562, section 5.5: SHA-1 of namespace and name, cut to 16 bytes, version 5, variant 10.
func nameBased(namespace uuid.UUID, name string) (id uuid.UUID) {
	sum := sha1.Sum(append(namespace[:], name...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}

type (
	group    string
	level    struct{ Min, Max int }
	stubborn struct{ how string }
)

func (s stubborn) MarshalJSON() ([]byte, error) {
	switch s.how {
	case "panics":
		panic("cannot encode secret")
	case "returns no JSON":
		return []byte(`{"secret":`), nil
	default:
		return nil, errUnsealed
	}
}

var errUnsealed = errors.New("secret is not sealed")

func TestPrepareEncodesParameters(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		value any
		want  string
	}{
		"a string is sent as it is":                    {"0xF190", "0xF190"},
		"an empty string is sent as it is":             {"", ""},
		"a string like JSON is sent as it is":          {`{"a": 1}`, `{"a": 1}`},
		"a string with quotes is sent as it is":        {`say "ä"`, `say "ä"`},
		"a named string is JSON":                       {group("powertrain"), `"powertrain"`},
		"an integer is JSON":                           {61840, "61840"},
		"a large integer keeps its digits":             {int64(math.MaxInt64), "9223372036854775807"},
		"a float is JSON":                              {0.5, "0.5"},
		"a boolean is JSON":                            {true, "true"},
		"nil is JSON":                                  {nil, "null"},
		"a nil pointer is JSON":                        {(*level)(nil), "null"},
		"bytes are JSON, in base64":                    {[]byte{0x19, 0x02}, `"GQI="`},
		"a list is JSON":                               {[]string{"P", "C"}, `["P","C"]`},
		"a map is JSON, sorted":                        {map[string]int{"b": 2, "a": 1}, `{"a":1,"b":2}`},
		"a struct is JSON":                             {level{1, 2}, `{"Min":1,"Max":2}`},
		"raw JSON is JSON":                             {json.RawMessage(`{"a": 1}`), `{"a":1}`},
		"a number in text is JSON":                     {json.Number("1e3"), "1e3"},
		"a UUID is JSON":                               {uuid.Nil, `"00000000-0000-0000-0000-000000000000"`},
		"what HTML escapes is JSON and stays readable": {[]string{"<a&b>"}, `["<a&b>"]`},
		"a line end inside a list is escaped":          {[]string{"a\n"}, `["a\n"]`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := prepare(Command{VehicleID: uuid.New(), Name: "ReadDTC", Params: map[string]any{"p": tt.value}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{"p": tt.want}, p.request.GetCommandParams()); diff != "" {
				t.Errorf("parameters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	cycle := map[string]any{}
	cycle["secret"] = cycle
	params := func(key string, value any) func(*Command) {
		return func(c *Command) { c.Params = map[string]any{"mask": "fine", key: value} }
	}
	tests := map[string]struct {
		ruin  func(*Command)
		want  string
		cause error // to be found; nil: none
	}{
		"no name":                             {ruin: func(c *Command) { c.Name = "" }, want: "the command has no Name"},
		"a name of spaces":                    {ruin: func(c *Command) { c.Name = " \t" }, want: "the command has no Name"},
		"a name that is no text":              {ruin: func(c *Command) { c.Name = "Read\xff" }, want: "the command's Name is not valid UTF-8"},
		"no vehicle":                          {ruin: func(c *Command) { c.VehicleID = uuid.Nil }, want: "the command has no VehicleID"},
		"a function":                          {ruin: params("f", func() {}), want: `parameter "f" of type func() cannot be encoded as JSON`},
		"a channel":                           {ruin: params("c", make(chan int)), want: `parameter "c" of type chan int cannot be encoded as JSON`},
		"NaN":                                 {ruin: params("n", math.NaN()), want: `parameter "n" of type float64 cannot be encoded as JSON`},
		"infinity deep inside":                {ruin: params("n", []any{map[string]any{"secret": math.Inf(1)}}), want: `parameter "n" of type []interface {} cannot be encoded as JSON`},
		"a value that contains itself":        {ruin: params("m", cycle), want: `parameter "m" of type map[string]interface {} cannot be encoded as JSON`},
		"a MarshalJSON that fails":            {ruin: params("b", stubborn{}), want: `parameter "b" of type vehicle.stubborn cannot be encoded as JSON`, cause: errUnsealed},
		"a MarshalJSON that panics":           {ruin: params("b", stubborn{"panics"}), want: `parameter "b" of type vehicle.stubborn cannot be encoded as JSON`},
		"a MarshalJSON that returns no JSON":  {ruin: params("b", stubborn{"returns no JSON"}), want: `parameter "b" of type vehicle.stubborn cannot be encoded as JSON`},
		"a string that is no text":            {ruin: params("s", "secret\xff"), want: `parameter "s" is not valid UTF-8`},
		"a key that is no text":               {ruin: params("s\xff", 1), want: "parameter \"s\uFFFD\" is not valid UTF-8"},
		"a key like a VIN":                    {ruin: params("\n1HGCM82633A004352", math.NaN()), want: `parameter "[VIN]" of type float64 cannot be encoded as JSON`},
		"the first of several, by their keys": {ruin: func(c *Command) { c.Params = map[string]any{"d": stubborn{}, "b": stubborn{}, "a": 1, "c": stubborn{}} }, want: `parameter "b" of type vehicle.stubborn cannot be encoded as JSON`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := Command{VehicleID: uuid.New(), Name: "ReadDTC"}
			tt.ruin(&cmd)
			p, err := prepare(cmd)
			if err == nil || err.Error() != tt.want {
				t.Fatalf("got error %v, want %s", err, tt.want)
			}
			if p.ID == uuid.Nil {
				t.Error("ID: got none, want one for the Result")
			}
			if tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("errors.Is(err, %q): got false, want true", tt.cause)
			}
		})
	}
}

func TestPrepareLeavesTheCallersCommandAlone(t *testing.T) {
	t.Parallel()
	params := map[string]any{"did": "0xF190"}
	cmd := Command{VehicleID: uuid.New(), Name: "ReadDataByID", Params: params, UserID: uuid.New(), Once: true}
	p, err := prepare(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"did": "0xF190"}, params); diff != "" || cmd.ID != uuid.Nil {
		t.Errorf("the caller's command: got ID %s and params (-want +got):\n%s", cmd.ID, diff)
	}
	params["did"] = "0xF18C"
	if got := p.Params["did"]; got != "0xF190" {
		t.Errorf("the running command's parameter after the caller changed its own: got %v, want 0xF190", got)
	}
	if p.UserID != cmd.UserID || !p.Once {
		t.Errorf("the running command: got %+v, want the caller's UserID and Once", p.Command)
	}
	want := &vehiclepb.CommandRequest{
		CommandId:     p.ID.String(),
		VehicleId:     cmd.VehicleID.String(),
		CommandName:   "ReadDataByID",
		CommandParams: map[string]string{"did": "0xF190"},
	}
	if diff := cmp.Diff(want, p.request, protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestPrepareAssignsAnID(t *testing.T) {
	t.Parallel()
	cmd := Command{VehicleID: uuid.New(), Name: "ReadDTC"}
	first, err := prepare(cmd)
	second, err2 := prepare(cmd)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if first.ID == second.ID || first.ID.Version() != 4 {
		t.Errorf("ids of two commands without: got %s and %s, want random ones", first.ID, second.ID)
	}
	if got := first.request.GetCommandParams(); got != nil {
		t.Errorf("parameters of a command without: got %v, want none", got)
	}
	cmd.ID = uuid.New()
	if third, err := prepare(cmd); err != nil || third.ID != cmd.ID {
		t.Errorf("id of a command that has one: got %s, %v, want %s", third.ID, err, cmd.ID)
	}
}

// Whatever the caller hands over, what comes out is a request that can be sent, or an error that tells
// nothing of the parameters' values.
func FuzzPrepare(f *testing.F) {
	f.Add("ReadDTC", "mask", "0xFF", 1.5, []byte(`{"a":[1,2]}`))
	f.Add(" ", "", "\xff", math.Inf(-1), []byte(`{`))
	f.Add("Read\xffDTC", "\n1HGCM82633A004352", "\u2028<&>", math.NaN(), []byte(`"\ud800"`))
	f.Fuzz(func(t *testing.T, name, key, text string, number float64, raw []byte) {
		const mark = "5ec2e7-5ec2e7"
		params := map[string]any{
			key:              mark + text,
			key + ".number":  number,
			key + ".raw":     json.RawMessage(raw),
			key + ".nested":  map[string]any{text: []any{number, mark + text}},
			key + ".marshal": rawest(mark + string(raw)),
		}
		before := maps.Clone(params)
		p, err := prepare(Command{VehicleID: uuid.New(), Name: name, Params: params})
		if len(params) != len(before) {
			t.Fatalf("the caller's parameters: got %d, want %d", len(params), len(before))
		}
		if err != nil {
			if strings.Contains(err.Error(), mark) || !utf8.ValidString(err.Error()) {
				t.Errorf("got error %q, want text without a parameter's value", err)
			}
			return
		}
		if _, err := proto.Marshal(p.request); err != nil {
			t.Fatalf("the request cannot be sent: %v", err)
		}
		sent := p.request.GetCommandParams()
		if diff := cmp.Diff(slices.Sorted(maps.Keys(params)), slices.Sorted(maps.Keys(sent))); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		for k, v := range sent {
			if k == key {
				if v != mark+text {
					t.Errorf("a string: got %q, want it as it was: %q", v, mark+text)
				}
			} else if !json.Valid([]byte(v)) {
				t.Errorf("parameter %q: got %q, want JSON", k, v)
			}
		}
	})
}

// rawest encodes itself as what it is, JSON or not.
type rawest string

func (r rawest) MarshalJSON() ([]byte, error) {
	if strings.HasSuffix(string(r), "!") {
		panic(string(r))
	}
	quoted, err := json.Marshal(string(r))
	if strings.HasSuffix(string(r), "?") {
		return quoted[:len(quoted)-1], err
	}
	return quoted, err
}
