package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// The program starts itself again for each part, so that parts share no heap, no collector and no scheduler: one process
// is the gateway, and one the client of each measurement. roleVariable says which part a process is.
const (
	roleVariable = "VEHICLE_BENCH_ROLE"
	roleGateway  = "gateway"
	roleClient   = "client"
	roleSoak     = "soak"
)

// play runs a part of the program. A part ends when the program does: its standard input ends then.
func play(ctx context.Context, role string, in io.Reader, out io.Writer) error {
	answer := json.NewEncoder(out)
	switch role {
	case roleGateway:
		return serveGateway(in, func(at addresses) error { return answer.Encode(at) })
	case roleClient:
		var j job
		if err := json.NewDecoder(in).Decode(&j); err != nil {
			return err
		}
		figures, err := j.measure(ctx)
		if err != nil {
			return err
		}
		return answer.Encode(figures)
	case roleSoak:
		var o soakOrder
		if err := json.NewDecoder(in).Decode(&o); err != nil {
			return err
		}
		return soakClient(ctx, o, func(s soaked) error { return answer.Encode(s) })
	default:
		return fmt.Errorf("there is no role %q", role)
	}
}

// part is another process of this program.
type part struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors bytes.Buffer
	closed bool
}

// startPart starts a part. Procs is its GOMAXPROCS, and 0 leaves that to Go.
func startPart(ctx context.Context, role string, procs int) (*part, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &part{cmd: exec.CommandContext(ctx, program)}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	if procs > 0 {
		p.cmd.Env = append(p.cmd.Env, "GOMAXPROCS="+strconv.Itoa(procs))
	}
	p.cmd.Stderr = &p.errors
	p.cmd.WaitDelay = 5 * time.Second
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// read waits for the next line that the part writes, which is JSON.
func (p *part) read(v any) error {
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		return errors.Join(err, p.close())
	}
	return nil
}

// close ends the part. It may be called again.
func (p *part) close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	err := p.in.Close()
	_, _ = io.Copy(io.Discard, p.out)
	if failed := p.cmd.Wait(); failed != nil {
		err = fmt.Errorf("%w: %s", failed, bytes.TrimSpace(p.errors.Bytes()))
	}
	return err
}

// startGateway starts the server process.
func startGateway(ctx context.Context) (*part, addresses, error) {
	var at addresses
	p, err := startPart(ctx, roleGateway, 0)
	if err != nil {
		return nil, at, err
	}
	return p, at, p.read(&at)
}

// measureApart has a job done by a process of its own.
func measureApart(ctx context.Context, j job, procs int) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	p, err := startPart(ctx, roleClient, procs)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(p.in).Encode(j); err != nil {
		return nil, errors.Join(err, p.close())
	}
	var f figures
	if err := p.read(&f); err != nil {
		return nil, err
	}
	return f, p.close()
}
