package vehicle

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials/insecure"
)

// setting is a setting of a SETTINGS frame.
func setting(id byte, value uint16) string {
	return string([]byte{0, id, 0, 0, byte(value >> 8), byte(value)})
}

func TestStreamLimitIsWhatTheServerSays(t *testing.T) {
	t.Parallel()
	settings := func(payload string) string { return frame(frameSettings, 0, 0, payload) }
	const unlimited, unknown = math.MaxUint32, 0
	limited := settings(setting(maxConcurrentStreams, 300))
	for _, tt := range []struct {
		name  string
		reads []string // what arrives together
		want  uint32
	}{
		{"a server that says nothing yet", nil, unknown},
		{"a server whose SETTINGS have not all come", []string{limited[:12]}, unknown},
		{"a server that sets nothing", []string{settings("")}, unlimited},
		{"a server that sets something else", []string{settings(setting(4, 7) + setting(5, 8))}, unlimited},
		{"a limit", []string{limited}, 300},
		{"a limit among other settings", []string{settings(setting(1, 5) + setting(maxConcurrentStreams, 300) + setting(5, 8))}, 300},
		{"a limit among other frames", []string{data(1, "a") + data(1, "b") + limited + data(1, "c")}, 300},
		{"another limit later", []string{limited, data(1, "a"), settings(setting(maxConcurrentStreams, 20))}, 20},
		{"something else later", []string{limited, settings(setting(4, 20))}, 300},
		{"the last of two", []string{settings(setting(maxConcurrentStreams, 300) + setting(maxConcurrentStreams, 20))}, 20},
		{"an acknowledgement sets nothing", []string{limited, frame(frameSettings, flagAck, 0, "")}, 300},
		{"an acknowledgement with settings is none", []string{limited, frame(frameSettings, flagAck, 0, setting(maxConcurrentStreams, 20))}, 300},
		{"a setting of which a part is missing is none", []string{limited, settings(setting(maxConcurrentStreams, 20)[:5])}, 300},
		{"the same bytes in another frame say nothing", []string{limited, frame(frameData, 0, 1, setting(maxConcurrentStreams, 20))}, 300},
		{"a frame in pieces is not read", []string{limited[:12], limited[12:]}, unknown},
		{"a frame whose header comes in pieces is not read", []string{limited[:4], limited[4:]}, unknown},
		{"a frame whose header comes alone is not read", []string{limited[:9], limited[9:]}, unknown},
		{"what was known before a frame in pieces may have changed", []string{limited, limited[:12], limited[12:]}, unknown},
		{"a frame in pieces, and another limit later", []string{limited[:12], limited[12:], limited}, 300},
		{"a frame in pieces, and something else later", []string{limited[:12], limited[12:], settings(setting(4, 20))}, unknown},
		{"an acknowledgement in pieces changes nothing", []string{limited, frame(frameSettings, flagAck, 0, "")[:5], frame(frameSettings, flagAck, 0, "")[5:]}, 300},
		{"another frame in pieces changes nothing", []string{limited, data(1, "abc")[:10], "bc"}, 300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var limit streamLimit
			m := merger{limit: &limit}
			for _, read := range tt.reads {
				m.merge([]byte(read))
			}
			if got := limit.Load(); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestStreamLimitAllowsLessThanItself(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		limit   uint32
		streams int
		want    bool
	}{
		{"one that is not known allows the first", 0, 0, true},
		{"one that is not known allows no other", 0, 1, false},
		{"below it", 100, 99, true},
		{"at it", 100, 100, false},
		{"above it", 100, 101, false},
		{"no limit", math.MaxUint32, math.MaxInt32, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var limit streamLimit
			limit.Store(tt.limit)
			if got := limit.allows(tt.streams); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// gRPC may make several connections for one, and uses the first whose SETTINGS it has.
func TestStreamLimitIsThatOfTheLastServerToSpeak(t *testing.T) {
	t.Parallel()
	limited := frame(frameSettings, 0, 0, setting(maxConcurrentStreams, 300))
	for _, tt := range []struct {
		name string
		next string // what the second connection's server says
		want uint32
	}{
		{"a second connection that is given up", "", 300},
		{"a second connection with another limit", frame(frameSettings, 0, 0, setting(maxConcurrentStreams, 20)), 20},
		{"a second connection without a limit", frame(frameSettings, 0, 0, ""), math.MaxUint32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var limit streamLimit
			credentials := merging{insecure.NewCredentials(), &limit, 0}.Clone()
			for _, says := range []string{limited, tt.next} {
				conn, _, err := credentials.ClientHandshake(t.Context(), "", readConn{from: strings.NewReader(says)})
				if err != nil {
					t.Fatal(err)
				}
				_, _ = conn.Read(make([]byte, 100))
			}
			if got := limit.Load(); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
