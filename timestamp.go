package vehicle

import "time"

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

// parseTimestamp is zero for what it cannot read: an answer does not fail for its clock.
func parseTimestamp(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	if t, ok := parseUTC(text); ok {
		return t
	}
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

// parseUTC reads the forms that nearly all vehicles send, 2006-01-02T15:04:05.999999 with or without fraction and Z. For
// these package time would try two layouts, and make an error for the first.
func parseUTC(text string) (_ time.Time, ok bool) {
	if len(text) < 19 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' || text[16] != ':' {
		return time.Time{}, false
	}
	year, month, day := digits(text[0:4]), digits(text[5:7]), digits(text[8:10])
	hour, minute, second := digits(text[11:13]), digits(text[14:16]), digits(text[17:19])
	if year < 0 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return time.Time{}, false
	}
	rest := text[19:]
	if rest != "" && rest[len(rest)-1] == 'Z' {
		rest = rest[:len(rest)-1]
	}
	nanos := 0
	if rest != "" {
		fraction := rest[1:]
		if nanos = digits(fraction); rest[0] != '.' || nanos < 0 || len(fraction) == 0 || len(fraction) > 9 {
			return time.Time{}, false
		}
		for range 9 - len(fraction) {
			nanos *= 10
		}
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	return t, t.Day() == day // no February 30th
}

// digits is the number that text says; negative: it is none, or no text of up to nine digits.
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
