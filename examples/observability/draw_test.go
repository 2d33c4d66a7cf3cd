package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

func TestThePictureIsWellFormedAndWhole(t *testing.T) {
	t.Parallel()
	at := func(seconds int, value float64) point {
		return point{at: time.Duration(seconds) * time.Second, value: value}
	}
	charts := []chart{
		{title: "One & <two>", unit: "ops", lasts: 30 * time.Second, curves: []curve{
			{name: "a", points: []point{at(0, 1), at(1, 2), at(2, math.NaN()), at(3, 4), at(9, 5), at(10, 6)}}, // three pieces
			{name: "b<", points: []point{at(0, 0), at(1, 0)}},
		}},
		{title: "Nothing", lasts: 30 * time.Second},
	}
	picture := draw(charts, []band{{name: `"down" & out`, from: time.Second, to: 2 * time.Second}})
	lines := 0
	var text strings.Builder
	for decoder := xml.NewDecoder(bytes.NewReader(picture)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name.Local == "polyline" {
				lines++
			}
		case xml.CharData:
			text.Write(token)
		}
	}
	if lines != 4 {
		t.Errorf("got %d lines, want 4: three pieces of one curve and one of the other", lines)
	}
	for _, want := range []string{"One & <two>", "a second", "b<", "Nothing", `"down" & out`, "30 s"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the picture does not say %q", want)
		}
	}
	if strings.Contains(string(picture), "NaN") || strings.Contains(string(picture), "Inf") {
		t.Error("the picture has numbers that are none")
	}
}

func TestTicksAreRound(t *testing.T) {
	t.Parallel()
	for most, want := range map[float64]float64{0: 1, 0.9: 0.2, 1: 0.2, 3: 1, 7: 2, 24: 5, 60: 20, 99: 20, 1000: 200} {
		if got := tickStep(most); math.Abs(got-want) > 1e-9 {
			t.Errorf("up to %v: got steps of %v, want %v", most, got, want)
		}
	}
}
