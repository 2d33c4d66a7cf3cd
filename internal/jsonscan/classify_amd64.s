#include "textflag.h"

// 32 characters at a time are compared with one; the bits of two such comparisons make a mask. SET stores the mask of the
// characters that Y2 and Y3 mark, and leaves it in R9.
#define SET(field) \
	VPMOVMSKB Y2, R8  \
	VPMOVMSKB Y3, R9  \
	SHLQ      $32, R9 \
	ORQ       R8, R9  \
	MOVQ      R9, field(DI)

#define EQUAL(what, field) \
	VPCMPEQB what, Y0, Y2 \
	VPCMPEQB what, Y1, Y3 \
	SET(field)

#define ALL(byte, to) \
	MOVQ         $byte, AX \
	VMOVQ        AX, X0    \
	VPBROADCASTQ X0, to

#define CONSTANT(name, byte) \
	DATA  name<>+0(SB)/8, $byte  \
	DATA  name<>+8(SB)/8, $byte  \
	DATA  name<>+16(SB)/8, $byte \
	DATA  name<>+24(SB)/8, $byte \
	GLOBL name<>(SB), RODATA|NOPTR, $32

// Every instruction on vectors is AVX's: a mix with SSE's costs a hundred times as much on some machines.

CONSTANT(zero, 0x3030303030303030)
CONSTANT(point, 0x2e2e2e2e2e2e2e2e)
CONSTANT(control, 0x1f1f1f1f1f1f1f1f)
CONSTANT(ones, 0xffffffffffffffff)

// What a character is that is space, by its low four bits; 0xff: nothing is.
DATA spaces<>+0(SB)/8, $0xffffffffffffff20
DATA spaces<>+8(SB)/8, $0xffff0dffff0a09ff
GLOBL spaces<>(SB), RODATA|NOPTR, $16

// func classify(text *byte, blocks *block, n int) (high uint32)
TEXT ·classify(SB), NOSPLIT, $0-28
	MOVQ text+0(FP), SI
	MOVQ blocks+8(FP), DI
	MOVQ n+16(FP), CX

	ALL(0x2222222222222222, Y4)  // quote
	ALL(0x5c5c5c5c5c5c5c5c, Y5)  // backslash
	ALL(0x7b7b7b7b7b7b7b7b, Y6)  // { and, with the bit 0x20, [
	ALL(0x7d7d7d7d7d7d7d7d, Y7)  // } and ]
	ALL(0x3a3a3a3a3a3a3a3a, Y8)  // colon
	ALL(0x2c2c2c2c2c2c2c2c, Y9)  // comma
	ALL(0x2020202020202020, Y10) // space
	ALL(0x4646464646464646, Y12) // makes 9 the largest of signed bytes
	ALL(0x7575757575757575, Y13) // and this less than 0
	VBROADCASTI128 spaces<>(SB), Y11

	VPXOR Y15, Y15, Y15 // all characters, one upon the other

next:
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1
	VPOR    Y0, Y15, Y15
	VPOR    Y1, Y15, Y15
	EQUAL(Y4, 0)

	// Multiplied by all ones without carry, each bit becomes the sum of those up to it: 1 from an odd one to before the next.
	VMOVQ      R9, X2
	VPCLMULQDQ $0, ones<>(SB), X2, X2
	VMOVQ      X2, 8(DI)

	EQUAL(Y5, 16)
	EQUAL(Y8, 40)
	EQUAL(Y9, 48)
	EQUAL(zero<>(SB), 80)
	EQUAL(point<>(SB), 88)

	VPOR     Y10, Y0, Y14
	VPCMPEQB Y6, Y14, Y2
	VPCMPEQB Y7, Y14, Y14
	VPMOVMSKB Y2, R8
	VPMOVMSKB Y14, R10
	VPOR     Y10, Y1, Y14
	VPCMPEQB Y6, Y14, Y3
	VPCMPEQB Y7, Y14, Y14
	VPMOVMSKB Y3, R9
	VPMOVMSKB Y14, R11
	SHLQ $32, R9
	SHLQ $32, R11
	ORQ R8, R9
	ORQ R10, R11
	MOVQ R9, 24(DI)
	MOVQ R11, 32(DI)

	VPADDB   Y12, Y0, Y2
	VPADDB   Y12, Y1, Y3
	VPCMPGTB Y13, Y2, Y2
	VPCMPGTB Y13, Y3, Y3
	SET(72)

	VPSHUFB  Y0, Y11, Y2
	VPSHUFB  Y1, Y11, Y3
	VPCMPEQB Y0, Y2, Y2
	VPCMPEQB Y1, Y3, Y3
	SET(56)

	VPMINUB  control<>(SB), Y0, Y2
	VPMINUB  control<>(SB), Y1, Y3
	VPCMPEQB Y0, Y2, Y2
	VPCMPEQB Y1, Y3, Y3
	SET(64)

	ADDQ $64, SI
	ADDQ $96, DI
	DECQ CX
	JNZ  next
	VPMOVMSKB Y15, R8
	MOVL      R8, high+24(FP)
	VZEROUPPER
	RET
