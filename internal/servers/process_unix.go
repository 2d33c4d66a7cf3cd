//go:build unix

package servers

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// detach puts a program into a process group of its own, so that an interrupt from the keyboard ends
// this program first, which still needs its servers. As root it makes the program run as account.
func detach(cmd *exec.Cmd, account string) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	uid, gid, err := identity(account)
	if err != nil || uid < 0 {
		return err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // G115: identity returns no others
	return nil
}

func giveTo(path, account string) error {
	uid, gid, err := identity(account)
	if err != nil || uid < 0 {
		return err
	}
	return os.Chown(path, uid, gid)
}

// identity gives account's ids, and -1 where the programs run as who we are.
func identity(account string) (uid, gid int, err error) {
	if account == "" || os.Geteuid() != 0 {
		return -1, -1, nil
	}
	u, err := user.Lookup(account)
	if err != nil {
		return -1, -1, fmt.Errorf("to run as another user than root: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return -1, -1, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}
