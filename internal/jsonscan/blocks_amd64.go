package jsonscan

import "golang.org/x/sys/cpu"

var canScanBlocks = cpu.X86.HasAVX2 && cpu.X86.HasPCLMULQDQ && cpu.X86.HasAES && cpu.X86.HasBMI1 && cpu.X86.HasBMI2

// lookAt looks at text, 64 characters for each of n blocks, and brings before up to date. It returns 0 where all characters
// are ASCII.
//
//go:noescape
func lookAt(text *byte, doubts *doubts, n int, before *before) (high uint32)
