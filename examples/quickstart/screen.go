package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/sovd-go/vehicle"
)

// screen shows what happens. The client logs from goroutines of its own, hence the mutex.
type screen struct {
	mu  sync.Mutex
	out io.Writer
}

func newScreen(out io.Writer) *screen { return &screen{out: out} }

func (s *screen) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format, args...)
}

// begin is the head of a command's table.
func (s *screen) begin(cmd vehicle.Command) {
	s.printf("\n%s\n  %-12s  %3s  %5s  %5s  %s\n", cmd.Name, "received", "seq", "final", "bytes", "payload")
}

func (s *screen) row(chunk vehicle.Chunk) {
	final := ""
	if chunk.Final {
		final = "final"
	}
	s.printf("  %s  %3d  %5s  %5d  %s\n",
		chunk.ReceivedAt.Format("15:04:05.000"), chunk.Seq, final, len(chunk.Payload), cut(printable(summarise(chunk.Payload)), 60))
}

// end says what the rows do not.
func (s *screen) end(res *vehicle.Result) {
	switch {
	case res.Err != nil:
		s.note("%v", res.Err)
	case res.Attempts > 1:
		s.note("%d chunks, each once and in order; %d came a second time and were dropped", res.Chunks, res.Replayed)
	}
}

// note is what happens between the chunks.
func (s *screen) note(format string, args ...any) { s.printf("  -- "+format+"\n", args...) }

// attempts is an interceptor: it sees each attempt at a command, and shows where those after the first begin.
func (s *screen) attempts(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	attempt, from := strings.Join(md.Get("x-sovd-attempt"), ""), strings.Join(md.Get("x-sovd-resume-from"), "")
	switch {
	case attempt == "1":
	case from == "":
		s.note("attempt %s asks for the whole answer", attempt)
	default:
		s.note("attempt %s asks for chunk %s and those after it", attempt, from)
	}
	return streamer(ctx, desc, cc, method, opts...)
}

// logger shows the client's log, without what the table says already.
func (s *screen) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(noteWriter{s}, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, slog.LevelKey, "command", "command_id", "vehicle_id":
				return slog.Attr{}
			case "delay":
				return slog.Duration(a.Key, a.Value.Duration().Round(time.Millisecond))
			default:
				return a
			}
		},
	}))
}

type noteWriter struct{ *screen }

func (w noteWriter) Write(line []byte) (int, error) {
	w.note("%s", strings.TrimSpace(string(line)))
	return len(line), nil
}

// summary is the last table: what came of each command.
func (s *screen) summary(results []*vehicle.Result) {
	s.printf("\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(table, "%s\tstatus\tchunks\tdropped\tattempts\ttime\t\n", left("command"))
	for _, r := range results {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%v\t\n", left(r.Command.Name), r.Status, r.Chunks, r.Replayed, r.Attempts,
			r.FinishedAt.Sub(r.StartedAt).Round(time.Millisecond))
	}
	_ = table.Flush()
}

// left aligns the first column, in a table whose columns are aligned right.
func left(text string) string { return fmt.Sprintf("%-16s", text) }

// payload is what the program understands of an answer, in the spellings that are in the field.
type payload struct {
	Status string `json:"status"`
	Faults []struct {
		DisplayCode string `json:"display_code"`
		DTCCode     string `json:"dtcCode"`
	} `json:"faults"`
	TotalDTCs    *int `json:"totalDtcs"`
	ClearedCount *int `json:"clearedCount"`
	Data         *struct {
		DataID      string `json:"dataId"`
		Description string `json:"description"`
		Value       any    `json:"value"`
		Unit        string `json:"unit"`
	} `json:"data"`
	ECUAddress     string             `json:"ecuAddress"`
	DTCCode        string             `json:"dtcCode"`
	SnapshotRecord string             `json:"snapshotRecord"`
	Values         map[string]float64 `json:"values"`
}

// summarise says in a line what a payload holds. Texts that identify a vehicle or a part of it (a VIN, a serial
// number) are personal data: of a data item it shows numbers only.
func summarise(text json.RawMessage) string {
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return "(not an object)"
	}
	switch {
	case p.Data != nil:
		value := "***"
		if number, ok := p.Data.Value.(float64); ok {
			value = strings.TrimSpace(fmt.Sprint(number, " ", p.Data.Unit))
		}
		return fmt.Sprintf("%s %s: %s", p.Data.DataID, p.Data.Description, value)
	case len(p.Faults) > 0:
		var codes []string
		for _, f := range p.Faults {
			codes = append(codes, f.DisplayCode+f.DTCCode)
		}
		return fmt.Sprintf("%d faults: %s", len(codes), strings.Join(codes, ", "))
	case p.TotalDTCs != nil:
		return fmt.Sprintf("%s, %d faults in all", p.Status, *p.TotalDTCs)
	case p.ClearedCount != nil:
		return fmt.Sprintf("%s, %d faults cleared", p.Status, *p.ClearedCount)
	case p.SnapshotRecord != "":
		return fmt.Sprintf("%s %s, record %s: %d values", p.ECUAddress, p.DTCCode, p.SnapshotRecord, len(p.Values))
	default:
		return p.Status
	}
}

// printable keeps what a vehicle sends from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// cut keeps the table in its width.
func cut(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(slices.Concat(runes[:width-1], []rune("…")))
	}
	return text
}
