package jsonscan

const canClassify = true // SSE2, which every amd64 has

// classify sets the bits of masks where text has a special character: one mask for each block of 64 bytes.
//
//go:noescape
func classify(text *byte, blocks int, masks *uint64)
