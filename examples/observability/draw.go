package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
	"time"
)

// chart is a panel of the picture.
type chart struct {
	title, unit string
	lasts       time.Duration
	curves      []curve
}

type curve struct {
	name   string
	points []point
}

type point struct {
	at    time.Duration
	value float64
}

// band is a time in which something was wrong.
type band struct {
	name     string
	from, to time.Duration
}

// The picture's measures, in pixels.
const (
	width       = 960
	left, right = 64, 16 // of the plots
	top         = 44
	plot        = 110 // height
	pitch       = 162 // from one chart to the next
)

var colours = []string{"#1d4ed8", "#b42318", "#0f766e", "#9a3fb5", "#a15c07", "#475569"}

// draw draws charts below each other, on the same time, as SVG.
func draw(charts []chart, bands []band) []byte {
	var b bytes.Buffer
	height := top + len(charts)*pitch + 12
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<title>Metrics of the connector during faults</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height)
	if len(charts) == 0 {
		return append(b.Bytes(), "</svg>\n"...)
	}
	x := func(at time.Duration) float64 {
		return left + (width-left-right)*at.Seconds()/charts[0].lasts.Seconds()
	}
	for _, band := range bands {
		fmt.Fprintf(&b, `<rect x="%.1f" y="28" width="%.1f" height="%d" fill="#fdecea"/>`+"\n", x(band.from), x(band.to)-x(band.from), height-40)
		fmt.Fprintf(&b, `<text x="%.1f" y="20" text-anchor="middle" fill="#b42318" font-weight="600">%s</text>`+"\n",
			(x(band.from)+x(band.to))/2, html.EscapeString(band.name))
	}
	for i, c := range charts {
		c.draw(&b, float64(top+i*pitch), x)
	}
	return append(b.Bytes(), "</svg>\n"...)
}

func (c chart) draw(b *bytes.Buffer, y float64, x func(time.Duration) float64) {
	fmt.Fprintf(b, `<text x="%d" y="%.1f" font-size="14" font-weight="600" fill="#1b1f27">%s<tspan font-size="12" font-weight="400" fill="#586070">%s</tspan>`,
		left, y+12, html.EscapeString(c.title), unitNames[c.unit])
	for i, curve := range c.curves {
		fmt.Fprintf(b, `<tspan dx="14" font-size="12" fill="%s">%s</tspan>`, colours[i%len(colours)], html.EscapeString(curve.name))
	}
	b.WriteString("</text>\n")
	step := tickStep(c.most())
	most := step * math.Max(1, math.Ceil(c.most()/step))
	bottom := y + 22 + plot
	level := func(value float64) float64 { return bottom - plot*value/most }
	for n := 0; float64(n)*step <= most*1.001; n++ {
		value := float64(n) * step
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#d5d9e0" stroke-width="%s"/><text x="%d" y="%.1f" text-anchor="end" fill="#586070">%s</text>`+"\n",
			left, width-right, level(value), level(value), map[bool]string{true: "1", false: "0.5"}[n == 0], left-8, level(value)+4,
			strconv.FormatFloat(value, 'g', 4, 64))
	}
	for at := time.Duration(0); at <= c.lasts; at += 10 * time.Second {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="10" fill="#586070">%.0f s</text>`+"\n", x(at), bottom+12, at.Seconds())
	}
	for i, curve := range c.curves {
		for _, run := range curve.runs() {
			var points strings.Builder
			for _, p := range run {
				fmt.Fprintf(&points, "%.1f,%.1f ", x(p.at), level(p.value))
			}
			fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round" points="%s"/>`+"\n",
				colours[i%len(colours)], strings.TrimSpace(points.String()))
		}
	}
}

// unitNames says Grafana's units in words.
var unitNames = map[string]string{"ops": ", a second", "s": ", seconds", "short": ""}

// most is the highest value.
func (c chart) most() float64 {
	most := 0.0
	for _, curve := range c.curves {
		for _, run := range curve.runs() {
			for _, p := range run {
				most = math.Max(most, p.value)
			}
		}
	}
	return most
}

// runs are the points between those that have no value, or that Prometheus does not have.
func (c curve) runs() (runs [][]point) {
	const gap = 1500 * time.Millisecond
	var run []point
	for _, p := range c.points {
		if len(run) > 0 && (math.IsNaN(p.value) || p.at-run[len(run)-1].at > gap) {
			runs, run = append(runs, run), nil
		}
		if !math.IsNaN(p.value) && !math.IsInf(p.value, 0) {
			run = append(run, p)
		}
	}
	if len(run) > 0 {
		runs = append(runs, run)
	}
	return runs
}

// tickStep is 1, 2 or 5 times a power of ten, for two to five lines.
func tickStep(most float64) float64 {
	if most <= 0 {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, factor := range []float64{0.2, 0.5, 1} {
		if most/(step*factor) <= 5 {
			return step * factor
		}
	}
	return step * 2
}
