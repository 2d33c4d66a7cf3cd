package vehicletest

import (
	"net"

	"golang.org/x/sys/unix"
)

// unsent says how many bytes the kernel has not sent yet. A reset would discard them.
func unsent(c *net.TCPConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	err = raw.Control(func(fd uintptr) {
		if got, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD); err == nil {
			n = got
		}
	})
	if err != nil {
		return 0 // closed
	}
	return n
}
