package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
)

// Measures of the plot, in pixels.
const (
	plotWidth  = 960
	plotLeft   = 400 // where the bars begin
	plotRight  = 150
	plotTop    = 74
	plotRow    = 30
	plotBar    = 14
	plotBottom = 20
)

// plot draws how many times better than its baseline the SDK is, for each figure that has a goal: a bar for the
// median, a line from the least to the most that a round had, a mark for the goal. Where less is better, it is the
// inverse of the ratio. The scale is logarithmic.
func (r *report) plot() []byte {
	figures := slices.DeleteFunc(slices.Clone(r.Figures), func(f figure) bool { return f.met() == "" || f.Procs > 0 })
	p := plotter{least: 0.5, most: 2}
	for _, f := range figures {
		b := f.better()
		p.least, p.most = min(p.least, b.least*0.95), max(p.most, b.most*1.1, b.goal*1.1)
	}
	height := plotTop + plotRow*len(figures) + plotBottom
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title">
<title id="title">How many times better than its baseline the SDK is</title>
<style>
svg{--page:#fff;--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--met:#2f6fb3;--missed:#b35900}
@media(prefers-color-scheme:dark){svg{--page:#0d1117;--ink:#f0f6fc;--soft:#9198a1;--line:#3d444d;--met:#58a6ff;--missed:#f0883e}}
text{font:13px system-ui,sans-serif;fill:var(--ink)}.soft{fill:var(--soft);font-size:12px}.head{font-size:16px;font-weight:600}
.end{text-anchor:end}.mid{text-anchor:middle}.grid{stroke:var(--line)}.one{stroke:var(--soft)}
.met{fill:var(--met)}.missed{fill:var(--missed)}.spread{stroke:var(--ink);stroke-width:1.5}.goal{stroke:var(--ink);stroke-width:3}
</style>
<rect width="100%%" height="100%%" fill="var(--page)"/>
`, plotWidth, height, plotWidth, height)
	p.text(16, 26, "head", "How many times better than its baseline the SDK is")
	p.text(16, 46, "soft", "median of the rounds; thin line: least to most; upright: goal; blue where it is reached; logarithmic")
	for _, tick := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500} {
		if tick < p.least || tick > p.most {
			continue
		}
		class := "grid"
		if tick == 1 {
			class = "one"
		}
		p.printf(`<line class="%s" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n", class, p.x(tick), p.x(tick), plotTop-6, height-plotBottom)
		p.text(p.x(tick), plotTop-12, "soft mid", short(tick)+"×")
	}
	for i, f := range figures {
		p.bar(plotTop+plotRow*i, f)
	}
	p.printf("</svg>\n")
	return p.svg.Bytes()
}

type plotter struct {
	svg         bytes.Buffer
	least, most float64 // of the scale
}

func (p *plotter) bar(y int, f figure) {
	b := f.better()
	class := "met"
	if f.met() == "no" {
		class = "missed"
	}
	middle := float64(y) + plotRow/2
	p.text(plotLeft-12, middle-1, "end", f.Row+": "+f.What)
	p.text(plotLeft-12, middle+11, "soft end", "against "+f.Baseline.String())
	from, to := min(p.x(1), p.x(b.median)), max(p.x(1), p.x(b.median))
	p.printf(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%d"/>`+"\n", class, from, middle-plotBar/2, max(to-from, 1), plotBar)
	p.printf(`<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", p.x(b.least), p.x(b.most), middle, middle)
	p.printf(`<line class="goal" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", p.x(b.goal), p.x(b.goal), middle-plotBar/2-3, middle+plotBar/2+3)
	p.text(max(to, p.x(b.most), p.x(b.goal))+6, middle+4, "", short(b.median)+"×, goal "+short(b.goal)+"×")
}

// x is where a factor is on the scale.
func (p *plotter) x(factor float64) float64 {
	share := math.Log(factor/p.least) / math.Log(p.most/p.least)
	return plotLeft + max(0, share)*(plotWidth-plotLeft-plotRight)
}

func (p *plotter) text(x, y float64, class, text string) {
	p.printf(`<text x="%.1f" y="%.1f" class="%s">`, x, y, class)
	_ = xml.EscapeText(&p.svg, []byte(text)) // into memory: it does not fail
	p.printf("</text>\n")
}

func (p *plotter) printf(format string, args ...any) { _, _ = fmt.Fprintf(&p.svg, format, args...) }

// better is how many times better the SDK is: 2 where it is twice as fast, or needs half.
type better struct{ median, least, most, goal float64 }

func (f figure) better() better {
	const little = 1e-3
	b := better{max(f.Ratio, little), max(f.Least, little), max(f.Most, little), f.Goal}
	if f.Limit > 0 {
		b.goal = f.Limit / max(f.Base, little)
	}
	if !f.More {
		b = better{1 / b.median, 1 / b.most, 1 / b.least, 1 / max(b.goal, little)}
	}
	return b
}

// String says what a side is.
func (s side) String() string {
	switch s {
	case sideStub:
		return "the stub"
	case sideConnector:
		return "the afternoon's connector"
	case sideFair:
		return "a transaction for each command"
	case sideCopy:
		return "COPY"
	default:
		return string(s)
	}
}
