//go:build !linux

package vehicletest

import "net"

// unsent is known on Linux only.
func unsent(*net.TCPConn) int { return 0 }
