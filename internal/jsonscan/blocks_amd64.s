#include "go_asm.h"
#include "textflag.h"

// A mask has a bit for each of a block's 64 characters, the first in the lowest one.
//
// In all of this file SI is the text, DI the block's doubts, and BX what is known from the blocks before. AX and R10 are of passing use.
// Every instruction on vectors is AVX's: a mix with SSE's costs a hundred times as much on some machines. ANDNQ x, y, z makes
// z = x &^ y.

// MASK makes a mask of the characters that Y2 and Y3 mark, 32 each. It needs another register.
#define MASK(to, other) \
	VPMOVMSKB Y2, to     \
	VPMOVMSKB Y3, other  \
	SHLQ      $32, other \
	ORQ       other, to

#define EQUAL(what, to, other) \
	VPCMPEQB what, Y0, Y2 \
	VPCMPEQB what, Y1, Y3 \
	MASK(to, other)

// INSIDE makes R9 of the quotes in R8: the insides of strings, each from its first quote to before its last. Multiplied by all ones
// without carry, a bit becomes the sum of those up to it: 1 from an odd one to before the next.
#define INSIDE \
	VMOVQ      R8, X2                \
	VPCLMULQDQ $0, ones<>(SB), X2, X2 \
	VMOVQ      X2, R9                \
	XORQ       before_quoted(BX), R9 \
	MOVQ       R9, AX                \
	SARQ       $63, AX               \
	MOVQ       AX, before_quoted(BX)

// FOLLOW takes where tokens end, and makes of it where those begin that follow them, with space between or not: a sum carries
// through the space, to what is behind it. The field of before says the same of a block's first token.
#define FOLLOW(ends, field) \
	XORL AX, AX                \
	ADDQ ends, ends            \
	ADCQ $0, AX                \
	ORQ  field(BX), ends       \
	MOVQ space-8(SP), R10      \
	ANDQ ends, R10             \
	ADDQ space-8(SP), R10      \
	ADCQ $0, AX                \
	MOVQ AX, field(BX)         \
	ORQ  R10, ends             \
	ANDQ notSpace-16(SP), ends

// SUM adds 16 characters to X13: the key of a round of AES. What one of them changes is in four bytes after the next round, where as many of
// the next 16 could undo it, and in all 16 after another, whose key does not matter.
#define SUM(at) \
	VAESENC at(SI), X13, X13 \
	VAESENC X4, X13, X13

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

CONSTANT(zero, 0x3030303030303030)
CONSTANT(point, 0x2e2e2e2e2e2e2e2e)
CONSTANT(control, 0x1f1f1f1f1f1f1f1f)
CONSTANT(ones, 0xffffffffffffffff)
CONSTANT(negative, 0x7575757575757575) // of signed bytes, what is more than this has been a digit; see Y12

// What a character is that is space, by its low four bits; 0xff: nothing is.
DATA spaces<>+0(SB)/8, $0xffffffffffffff20
DATA spaces<>+8(SB)/8, $0xffff0dffff0a09ff
GLOBL spaces<>(SB), RODATA|NOPTR, $16

// func lookAt(text *byte, doubts *doubts, n int, before *before) (high uint32)
TEXT ·lookAt(SB), NOSPLIT, $96-36
	MOVQ text+0(FP), SI
	MOVQ doubts+8(FP), DI
	MOVQ n+16(FP), AX
	MOVQ AX, left-80(SP)
	MOVQ before+24(FP), BX

	ALL(0x2222222222222222, Y4)  // quote
	ALL(0x5c5c5c5c5c5c5c5c, Y5)  // backslash
	ALL(0x7b7b7b7b7b7b7b7b, Y6)  // { and, with the bit 0x20, [
	ALL(0x7d7d7d7d7d7d7d7d, Y7)  // } and ]
	ALL(0x3a3a3a3a3a3a3a3a, Y8)  // colon
	ALL(0x2c2c2c2c2c2c2c2c, Y9)  // comma
	ALL(0x2020202020202020, Y10) // space
	ALL(0x4646464646464646, Y12) // makes 9 the largest of signed bytes
	VBROADCASTI128 spaces<>(SB), Y11

	VPXOR   Y15, Y15, Y15       // all characters, one upon the other
	VMOVDQU before_sum(BX), X13 // see SUM

next:
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1
	VPOR    Y0, Y15, Y15
	VPOR    Y1, Y15, Y15
	SUM(0)
	SUM(16)
	SUM(32)
	SUM(48)
	MOVQ    $0, doubts_escaped(DI)
	EQUAL(Y4, R8, AX)

	// Backslashes and control characters are rare.
	VPCMPEQB Y5, Y0, Y2
	VPCMPEQB Y5, Y1, Y3
	VPOR     Y2, Y3, Y3
	VPMINUB  Y0, Y1, Y2
	VPMINUB  control<>(SB), Y2, Y14
	VPCMPEQB Y2, Y14, Y14
	VPOR     Y3, Y14, Y14
	VPTEST   Y14, Y14
	JNZ      rare
	CMPQ     before_escaped(BX), $0
	JNE      rare
	INSIDE

strings:
	// R8 is the quotes of strings, R9 their insides, R11 what is outside.
	MOVQ R8, R11
	ORQ  R9, R11
	NOTQ R11
	MOVQ R8, AX
	ORQ  R11, AX
	JZ   inString

	// Brackets, colons, commas and space. AX gathers them; what else is outside of strings is of scalars, in R11.
	VPOR      Y10, Y0, Y14
	VPCMPEQB  Y6, Y14, Y2
	VPCMPEQB  Y7, Y14, Y14
	VPMOVMSKB Y2, AX
	VPMOVMSKB Y14, DX
	VPOR      Y10, Y1, Y14
	VPCMPEQB  Y6, Y14, Y2
	VPCMPEQB  Y7, Y14, Y14
	VPMOVMSKB Y2, R12
	VPMOVMSKB Y14, R13
	SHLQ      $32, R12
	SHLQ      $32, R13
	ORQ       R12, AX
	ORQ       R13, DX
	ANDQ      R11, AX
	ANDQ      R11, DX
	MOVQ      AX, open-24(SP)
	MOVQ      DX, closing-32(SP)
	ORQ       DX, AX

	EQUAL(Y8, DX, R14)
	ANDQ R11, DX
	MOVQ DX, colon-40(SP)
	ORQ  DX, AX
	EQUAL(Y9, DX, R14)
	ANDQ R11, DX
	MOVQ DX, comma-48(SP)
	ORQ  DX, AX

	VPSHUFB  Y0, Y11, Y2
	VPSHUFB  Y1, Y11, Y3
	VPCMPEQB Y0, Y2, Y2
	VPCMPEQB Y1, Y3, Y3
	MASK(DX, R14)
	ANDQ R11, DX
	MOVQ DX, space-8(SP)
	ORQ  DX, AX
	NOTQ DX
	MOVQ DX, notSpace-16(SP)

	// DX is where scalars begin.
	ANDNQ R11, AX, R11
	LEAQ  (R11)(R11*1), DX
	ORQ   before_inScalar(BX), DX
	ANDNQ R11, DX, DX
	MOVQ  R11, AX
	SHRQ  $63, AX
	MOVQ  AX, before_inScalar(BX)
	MOVQ  DX, scalars-56(SP)

	// R12 is the digits, AX the numbers that begin with one, and DX what else there is: the three words, in R14 what is doubtful, and
	// negative numbers, which begin behind their minus. What ends too near to the block's end is doubtful.
	VPADDB   Y12, Y0, Y2
	VPADDB   Y12, Y1, Y3
	VPCMPGTB negative<>(SB), Y2, Y2
	VPCMPGTB negative<>(SB), Y3, Y3
	MASK(R12, AX)
	MOVQ  DX, AX
	ANDQ  R12, AX
	ANDNQ DX, AX, DX
	MOVQ  $0x07ffffffffffffff, R10
	ANDNQ DX, R10, R14
	ANDQ  R10, DX
	JZ    numbers
	MOVQ  AX, numbers-72(SP)
	MOVQ  R12, digits-88(SP)

word:
	TZCNTQ  DX, AX
	BLSRQ   DX, DX
	MOVL    (SI)(AX*1), R10
	CMPL    R10, $0x65757274 // true
	SETEQ   R12
	CMPL    R10, $0x6c6c756e // null
	SETEQ   R13
	ORL     R13, R12
	CMPL    R10, $0x736c6166 // fals
	SETEQ   R13
	CMPB    4(SI)(AX*1), $0x65 // e
	SETEQ   R10
	ANDL    R10, R13
	MOVBQZX R13, R13
	ORB     R13, R12
	JZ      noWord
	LEAQ    4(AX)(R13*1), R10
	BTQ     R10, R11
	JCS     doubtful

another:
	TESTQ DX, DX
	JNZ   word
	MOVQ  numbers-72(SP), AX
	MOVQ  digits-88(SP), R12

numbers:
	// R13 is where numbers end. To add a digit to those that follow carries over to there.
	LEAQ  (AX)(R12*1), R13
	ANDNQ R13, R12, R13

	// A fraction begins behind the point at which a number ends.
	EQUAL(point<>(SB), R10, DX)
	ANDQ  R13, R10
	ANDNQ R13, R10, R13
	SHLQ  $1, R10
	MOVQ  R10, DX
	ANDQ  R12, DX
	ADDQ  R12, DX
	ANDNQ DX, R12, DX
	ORQ   DX, R13

	// Unusual is one with an empty fraction, one that goes on where it ends, one with a digit behind a leading zero. If one is,
	// all of the block's numbers are doubtful.
	ANDNQ R10, R12, R10
	ANDQ  R11, R13
	ORQ   R10, R13
	EQUAL(zero<>(SB), R10, DX)
	ANDQ    AX, R10
	SHLQ    $1, R10
	ANDQ    R12, R10
	XORL    DX, DX
	ORQ     R13, R10
	CMOVQNE AX, DX
	ORQ     DX, R14

	// So is the last one, where it goes on in the next block.
	TESTQ R11, R11
	JGE   tokens
	TESTQ AX, AX
	JZ    tokens
	BSRQ  AX, AX
	BTSQ  AX, R14

tokens:
	MOVQ R14, doubts_scalars(DI)

	// Where strings begin, R14, and where values do, R11.
	MOVQ scalars-56(SP), DX
	MOVQ open-24(SP), R12
	MOVQ R8, R14
	ANDQ R9, R14
	MOVQ R14, R11
	ORQ  R12, DX
	ORQ  DX, R11

	// wrong = afterOpen &^ (values | closing)
	MOVQ closing-32(SP), R13
	ORQ  R11, R13
	FOLLOW(R12, before_opened)
	ANDNQ R12, R13, R13
	MOVQ  R13, wrong-64(SP)

	// wrong |= afterSeparator &^ values | values &^ (afterOpen | afterSeparator)
	MOVQ colon-40(SP), R13
	ORQ  comma-48(SP), R13
	FOLLOW(R13, before_separated)
	ORQ   R13, R12
	ANDNQ R11, R12, R12
	ANDNQ R13, R11, R13
	ORQ   R13, R12
	ORQ   wrong-64(SP), R12

	// What follows a colon is no key. To add a key's beginning to its characters carries over to its end.
	MOVQ colon-40(SP), R13
	FOLLOW(R13, before_coloned)
	ANDNQ DX, R13, DX
	ANDNQ R14, R13, R14
	MOVQ  before_inKey(BX), AX
	MOVQ  R9, R13
	NEGQ  AX                   // carries if it is not 0
	ADCQ  R14, R13
	SBBQ  AX, AX
	NEGQ  AX
	MOVQ  AX, before_inKey(BX)
	ANDNQ R13, R9, R13
	ANDQ  R8, R13
	FOLLOW(R13, before_keyed)

	// wrong |= colon &^ afterKey
	MOVQ  colon-40(SP), AX
	ANDNQ AX, R13, R10
	ORQ   R10, R12
	MOVQ  R12, wrong-64(SP)

	// DX is what cannot be in an object: (scalars | open) &^ afterColon | afterKey &^ colon.
	ANDNQ R13, AX, R13
	ORQ   R13, DX

	// Brackets, R8, of which R9 open and R10 are curly. R11 is those that are open, and R12 after which of R8 the innermost is an object's.
	VPSLLW $2, Y0, Y2 // the bit 0x20 goes where masks are made of
	VPSLLW $2, Y1, Y3
	MASK(R10, AX)
	MOVQ open-24(SP), R9
	MOVQ closing-32(SP), R8
	ORQ  R9, R8
	MOVQ R8, R14
	NOTQ R14
	MOVQ before_objects(BX), R11
	XORL R12, R12
	XORL R13, R13
	CMPQ R11, $const_outermost
	JEQ  outermost

nested:
	TESTQ R8, R8
	JZ    matched

bracket:
	TZCNTQ  R8, AX
	BLSRQ   R8, R8
	MOVQ    R11, CX
	SHRQ    $1, CX
	BTQ     AX, R10
	ADCQ    R11, R11
	BTQ     AX, R9
	CMOVQCC CX, R11
	ORQ     R11, R13
	MOVQ    R11, CX
	ANDL    $1, CX
	SHLXQ   AX, CX, CX
	ORQ     CX, R12
	CMPQ    R11, $const_outermost
	JLS     ended
	TESTQ   R8, R8
	JNZ     bracket

matched:
	MOVQ before_objects(BX), AX
	ANDL $1, AX
	MOVQ R11, before_objects(BX)
	ORQ  R13, before_deepest(BX)

	// R12 becomes what is in an object. To add to what is no bracket carries over to the next one.
	LEAQ (AX)(R12*2), R12
	ADDQ R14, R12
	XORQ R14, R12

	// wrong |= closing & (curly ^ inObject) | notInObject & inObject | colon &^ inObject
	XORQ  R12, R10
	ANDQ  closing-32(SP), R10
	ANDQ  R12, DX
	ORQ   DX, R10
	MOVQ  colon-40(SP), AX
	ANDNQ AX, R12, AX
	ORQ   AX, R10
	ORQ   wrong-64(SP), R10
	ORQ   R10, before_wrong(BX)

advance:
	ADDQ      $64, SI
	ADDQ      $doubts__size, DI
	DECQ      left-80(SP)
	JNZ       next
	VPMOVMSKB Y15, R8
	MOVL      R8, high+32(FP)
	VMOVDQU   X13, before_sum(BX)
	VZEROUPPER
	RET

noWord:
	CMPB (SI)(AX*1), $0x2d // minus
	JNE  doubtful
	LEAQ 1(AX), R10
	MOVQ digits-88(SP), R12
	BTQ  R10, R12
	JCC  doubtful
	MOVQ numbers-72(SP), AX
	BTSQ R10, AX
	MOVQ AX, numbers-72(SP)
	JMP  another

doubtful:
	BTSQ AX, R14
	JMP  another

inString:
	MOVQ $0, doubts_scalars(DI)
	JMP  advance

outermost:
	// No bracket is open: there is no comma before the first one.
	BLSMSKQ R8, AX
	ANDQ    comma-48(SP), AX
	ORQ     AX, before_wrong(BX)
	JMP     nested

ended:
	// The last bracket is closed: there is neither a bracket nor a comma behind it. Or there was none to close.
	MOVQ  $-2, CX
	SHLXQ AX, CX, CX
	ANDQ  comma-48(SP), CX
	ORQ   R8, CX
	BTQ   $0, R11
	ADCQ  $0, CX
	ORQ   CX, before_wrong(BX)
	JMP   matched

rare:
	EQUAL(Y5, AX, DX)
	MOVQ before_escaped(BX), DX
	MOVQ AX, R9
	ORQ  DX, R9
	JZ   unescaped

	// AX is the backslashes, DX what the one before escapes. A backslash escapes what follows it (R9), unless it is escaped. Of
	// a row of them, every other one is: those at even places, or those at odd ones, by where it begins. To add where
	// rows begin at odd places to all backslashes carries over to their ends.
	ANDNQ AX, DX, AX
	LEAQ  (DX)(AX*2), R9
	MOVQ  $0x5555555555555555, R10
	ANDNQ AX, R10, R11
	ANDNQ R11, R9, R11
	ADDQ  AX, R11
	SBBQ  DX, DX
	NEGQ  DX
	MOVQ  DX, before_escaped(BX)
	SHLQ  $1, R11
	XORQ  R10, R11
	ANDQ  R9, R11
	MOVQ  R11, doubts_escaped(DI)
	ANDNQ R8, R11, R8

unescaped:
	INSIDE
	VPMINUB  control<>(SB), Y0, Y2
	VPMINUB  control<>(SB), Y1, Y3
	VPCMPEQB Y0, Y2, Y2
	VPCMPEQB Y1, Y3, Y3
	MASK(R10, AX)
	ANDQ R9, R10
	ORQ  R10, before_wrong(BX)
	JMP  strings
