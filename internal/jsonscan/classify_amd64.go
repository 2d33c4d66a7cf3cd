package jsonscan

import "golang.org/x/sys/cpu"

var canClassify = cpu.X86.HasAVX2 && cpu.X86.HasPCLMULQDQ

// classify says what the characters of text are, 64 of them for each block. It returns 0 where all are ASCII.
//
//go:noescape
func classify(text *byte, blocks *block, n int) (high uint32)
