package vehicle

import (
	"strings"
	"time"
)

// clock tells when the chunks of one answer were sent and when they came. It remembers the last timestamp's second, which
// is often that of the next.
type clock struct {
	second string // 2006-01-02T15:04:05; "": none yet
	at     time.Time
	base   time.Time // see now
}

// now is time.Now, which reads two of the system's clocks, at the cost of one of them: it reads the other once a second.
func (c *clock) now() time.Time {
	since := time.Since(c.base)
	if since > time.Second {
		c.base, since = time.Now(), 0
	}
	return c.base.Add(since)
}

// parse is zero for what it cannot read: an answer does not fail for its clock.
func (c *clock) parse(text string) time.Time {
	if len(text) < secondLen {
		return parseTimestamp(text)
	}
	second := text[:secondLen]
	if second != c.second {
		at, ok := parseSecond(second)
		if !ok {
			return parseTimestamp(text)
		}
		c.second, c.at = strings.Clone(second), at
	}
	nanos, ok := parseFraction(text[secondLen:])
	if !ok {
		return parseTimestamp(text)
	}
	return c.at.Add(nanos)
}

// timestampLayouts are the forms of ISO 8601 that vehicles send. Go reads a fraction of a second after
// any of them, with a point or a comma. Without a zone the time is UTC, as the wire contract says.
var timestampLayouts = []string{
	"2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02T15:04:05Z07",
	"20060102T150405Z0700",
	"20060102T150405",
}

// parseTimestamp is zero for what it cannot read.
func parseTimestamp(text string) time.Time {
	if len(text) > 10 && text[10] == ' ' { // RFC 3339 allows the space
		text = text[:10] + "T" + text[11:]
	}
	for _, layout := range timestampLayouts {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 { // no JSON, no database would take it
			break
		}
		return t
	}
	return time.Time{}
}

const secondLen = len("2006-01-02T15:04:05")

// parseSecond and parseFraction read the form that nearly all vehicles send, 2006-01-02T15:04:05.999999 with or without
// fraction and Z. For these package time would try two layouts, and make an error for the first.
func parseSecond(text string) (_ time.Time, ok bool) {
	if text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' || text[16] != ':' {
		return time.Time{}, false
	}
	year, month, day := digits(text[0:4]), digits(text[5:7]), digits(text[8:10])
	hour, minute, second := digits(text[11:13]), digits(text[14:16]), digits(text[17:19])
	if year < 0 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	return t, t.Day() == day // no February 30th
}

func parseFraction(text string) (_ time.Duration, ok bool) {
	if text != "" && text[len(text)-1] == 'Z' {
		text = text[:len(text)-1]
	}
	if text == "" {
		return 0, true
	}
	nanos := digits(text[1:])
	if text[0] != '.' || nanos < 0 || len(text) == 1 {
		return 0, false
	}
	for range 10 - len(text) {
		nanos *= 10
	}
	return time.Duration(nanos), true
}

// digits is the number that text says; negative where it is none, or is longer than nine digits.
func digits(text string) int {
	if len(text) > 9 {
		return -1
	}
	n := 0
	for i := range len(text) {
		d := text[i] - '0'
		if d > 9 {
			return -1
		}
		n = n*10 + int(d)
	}
	return n
}
