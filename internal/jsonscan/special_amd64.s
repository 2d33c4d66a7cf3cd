#include "textflag.h"

// Sixteen bytes at a time are compared with a quote, with a backslash, and, as signed numbers, with a space: less than that
// are the control characters and all that is not ASCII.

// func classify(text *byte, blocks int, masks *uint64)
TEXT ·classify(SB), NOSPLIT, $0-24
	MOVQ text+0(FP), SI
	MOVQ blocks+8(FP), CX
	MOVQ masks+16(FP), DI

	MOVQ $0x2222222222222222, AX
	MOVQ AX, X13
	PUNPCKLQDQ X13, X13 // quotes
	MOVQ $0x5c5c5c5c5c5c5c5c, AX
	MOVQ AX, X14
	PUNPCKLQDQ X14, X14 // backslashes
	MOVQ $0x2020202020202020, AX
	MOVQ AX, X15
	PUNPCKLQDQ X15, X15 // spaces

block:
	MOVOU 0(SI), X0
	MOVOU 16(SI), X1
	MOVOU 32(SI), X2
	MOVOU 48(SI), X3

	MOVO X0, X4
	PCMPEQB X13, X4
	MOVO X0, X5
	PCMPEQB X14, X5
	POR X5, X4
	MOVO X15, X5
	PCMPGTB X0, X5
	POR X5, X4
	PMOVMSKB X4, R8

	MOVO X1, X4
	PCMPEQB X13, X4
	MOVO X1, X5
	PCMPEQB X14, X5
	POR X5, X4
	MOVO X15, X5
	PCMPGTB X1, X5
	POR X5, X4
	PMOVMSKB X4, R9

	MOVO X2, X4
	PCMPEQB X13, X4
	MOVO X2, X5
	PCMPEQB X14, X5
	POR X5, X4
	MOVO X15, X5
	PCMPGTB X2, X5
	POR X5, X4
	PMOVMSKB X4, R10

	MOVO X3, X4
	PCMPEQB X13, X4
	MOVO X3, X5
	PCMPEQB X14, X5
	POR X5, X4
	MOVO X15, X5
	PCMPGTB X3, X5
	POR X5, X4
	PMOVMSKB X4, R11

	SHLQ $16, R9
	SHLQ $32, R10
	SHLQ $48, R11
	ORQ R9, R8
	ORQ R11, R10
	ORQ R10, R8
	MOVQ R8, (DI)

	ADDQ $64, SI
	ADDQ $8, DI
	DECQ CX
	JNZ block
	RET
