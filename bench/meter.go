package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"
)

// figures are what one measurement found. Which of them there are depends on the kind of work.
type figures map[metric]float64

type metric string

const (
	perSecond     metric = "per second"      // chunks, commands or rows, as the row says
	cpuEach       metric = "CPU each"        // microseconds of the client process
	allocsEach    metric = "allocations"     // in the client process, for each chunk, command or row
	bytesEach     metric = "bytes"           // likewise
	halfWithin    metric = "p50"             // milliseconds
	mostWithin    metric = "p99"             // milliseconds
	memoryEach    metric = "memory each"     // bytes of resident memory, for each open stream
	routines      metric = "goroutines"      // for each open stream
	commandsInAll metric = "commands in all" // also outside of what was measured
	chunksInAll   metric = "chunks in all"   // of these commands
)

// meter counts what this process uses from its start to its stop.
type meter struct {
	at      time.Time
	cpu     time.Duration
	mem     runtime.MemStats
	profile *os.File
	heap    string
}

// start collects garbage, so that what came before is not counted, and starts profiles where the job asks for them.
func (m *meter) start(j *job) error {
	runtime.GC()
	m.heap = j.MemProfile
	if j.CPUProfile != "" {
		f, err := os.Create(j.CPUProfile)
		if err != nil {
			return err
		}
		m.profile = f
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	runtime.ReadMemStats(&m.mem)
	var err error
	m.cpu, err = cpuTime()
	m.at = time.Now()
	return err
}

// stop returns what n units of work took each.
func (m *meter) stop(n int) (figures, error) {
	took := time.Since(m.at)
	cpu, err := cpuTime()
	if err != nil {
		return nil, err
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	if err := m.writeProfiles(); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("nothing was done in %v", took)
	}
	each := 1 / float64(n)
	return figures{
		perSecond:  float64(n) / took.Seconds(),
		cpuEach:    float64((cpu - m.cpu).Nanoseconds()) / 1e3 * each,
		allocsEach: float64(mem.Mallocs-m.mem.Mallocs) * each,
		bytesEach:  float64(mem.TotalAlloc-m.mem.TotalAlloc) * each,
	}, nil
}

func (m *meter) writeProfiles() error {
	if m.profile != nil {
		pprof.StopCPUProfile()
		if err := m.profile.Close(); err != nil {
			return err
		}
	}
	if m.heap == "" {
		return nil
	}
	f, err := os.Create(m.heap)
	if err != nil {
		return err
	}
	if err := pprof.Lookup("allocs").WriteTo(f, 0); err != nil {
		return err
	}
	return f.Close()
}

// residentMemory is what this process holds of the machine's memory, in bytes, where Linux tells.
func residentMemory() (int64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(strings.TrimSpace(string(text)), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

// latencies gathers how long commands took. It is safe for concurrent use.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

// percentile is the time, in milliseconds, within which so many of a hundred were done.
func (l *latencies) percentile(p float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == 0 {
		return 0
	}
	slices.Sort(l.all)
	i := min(len(l.all)-1, int(p/100*float64(len(l.all))))
	return float64(l.all[i].Nanoseconds()) / 1e6
}
