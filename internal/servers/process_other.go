//go:build !unix

package servers

import (
	"errors"
	"os/exec"
)

var errUnix = errors.New("private servers run on Unix only")

func detach(*exec.Cmd, string) error { return errUnix }

func giveTo(string, string) error { return errUnix }
