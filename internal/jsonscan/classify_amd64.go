package jsonscan

import "golang.org/x/sys/cpu"

var canClassify = cpu.X86.HasAVX2

// classify says what the characters of text are, 64 of them for each block.
//
//go:noescape
func classify(text *byte, blocks *block, n int)
