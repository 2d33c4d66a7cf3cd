package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRotationUnderLoadFailsNoCommand(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	started := time.Now()
	if err := run(t.Context(), []string{"-commands", "50", "-rotations", "1"}, &out); err != nil {
		t.Fatalf("got error %v, want none\n%s", err, &out)
	}
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("it took %v; who tries it should not have to wait", took)
	}
	for _, want := range []string{"TLS files reloaded", "rotation 1: ", " commands completed, 0 failed\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the output:\n%s", want, &out)
		}
	}
	for _, unwanted := range []string{"level=WARN", "retrying"} {
		if strings.Contains(out.String(), unwanted) {
			t.Errorf("%q is in the output:\n%s", unwanted, &out)
		}
	}
}

func TestItEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(time.Second, cancel)
	var out bytes.Buffer
	if err := run(ctx, nil, &out); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want the context's\n%s", err, &out)
	}
	if !strings.Contains(out.String(), ", 0 failed\n") {
		t.Errorf("commands that were cancelled count as failed:\n%s", &out)
	}
}

func TestNoCommandsAreRefused(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, n := range []string{"0", "-1"} {
		var out bytes.Buffer
		if err := run(ctx, []string{"-commands", n}, &out); err == nil || !strings.Contains(err.Error(), "-commands: want 1") {
			t.Errorf("-commands %s: got error %v, want one that says what to give", n, err)
		}
	}
}
