/* kernels.h - the table of kernels: one function pointer for each line of kernels.def.
 *
 * What a kernel may assume, and what it owes:
 *   - pointers have the alignment of their element only; sizes may be 0; nothing outside [0, n) is touched;
 *   - arguments were checked by the caller: a kernel has no errors, allocates nothing, starts no threads;
 *   - outputs do not overlap inputs, except where the line says "in place" (then out == in exactly);
 *   - the same bits on every instruction set, at every offset, on every call; docs/design/simd.md;
 *   - NaN and infinities are data: no traps, the FP state untouched.
 * A context's kernels are ctx->kernels; a test takes a table by its name.
 * SPDX-License-Identifier: MIT */
#ifndef KD__KERNELS_H
#define KD__KERNELS_H
#include <stddef.h>
#include <stdint.h>

/* ---- elementwise: one operand ------------------------------------------------------------------- */
/* X(name, saved): what the backward needs, IN (the input), OUT (the output) or NONE.
 * a and b are the op's parameters where it has any. */
#define KD_UNARY_OPS(X)                                                                    \
    X(EXP, OUT)                                                                            \
    X(LOG, IN)                                                                             \
    X(LOG1P, IN)                                                                           \
    X(SQRT, OUT)                                                                           \
    X(RSQRT, OUT)       /* 1 / sqrt(x)                                                  */ \
    X(SQUARE, IN)                                                                          \
    X(ABS, IN)          /* gradient 0 at 0                                              */ \
    X(NEG, NONE)                                                                           \
    X(RELU, OUT)        /* v_max(0, x): NaN passes; gradient 0 where the output is <= 0 */ \
    X(LEAKY_RELU, IN)   /* x > 0 ? x : a x                                              */ \
    X(GELU_ERF, IN)     /* x (1 + erf(x / sqrt 2)) / 2; error <= 2^-23 |x|              */ \
    X(GELU_TANH, IN)    /* x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2              */ \
    X(SILU, IN)         /* x sigmoid(x)                                                 */ \
    X(SIGMOID, OUT)                                                                        \
    X(TANH, OUT)                                                                           \
    X(ERF, IN)                                                                             \
    X(SOFTPLUS, IN)     /* log(1 + e^x)                                                 */ \
    X(CLAMP, IN)        /* to [a, b]; gradient 1 on the limits too                      */ \
    X(SCALE_ADD, NONE)  /* a x + b, rounded once                                        */
#define KD_UNARY_ENUM(name, saved) KD_UNARY_##name,
enum { KD_UNARY_OPS(KD_UNARY_ENUM) KD_UNARY_COUNT };
#undef KD_UNARY_ENUM
enum { KD_UNARY_SAVES_NONE, KD_UNARY_SAVES_IN, KD_UNARY_SAVES_OUT };
/* Which of them op (< KD_UNARY_COUNT) is: KD_UNARY_SAVES_*. */
static inline uint32_t kd__unary_saves(uint32_t op)
{
    static const uint8_t saves[] = {
#define KD_UNARY_SAVES(name, saved) KD_UNARY_SAVES_##saved,
        KD_UNARY_OPS(KD_UNARY_SAVES)
#undef KD_UNARY_SAVES
    };
    return saves[op];
}
/* unary_f32            out[i] = f(in[i]); in place.
 * unary_backward_f32   grad_in[i] (= or +=, by accumulate) grad_out[i] f'; grad_in may be grad_out when not
 *                      accumulating; saved may be NULL for SAVES_NONE. */

struct kd__kernels {
    const char *isa;   /* "scalar", "avx2", "avx512", "neon" */
#define KERNEL(name, args) void(*name) args;
#include "kernels/kernels.def"
#undef KERNEL
};
typedef struct kd__kernels kd__kernels;

extern const kd__kernels kd__kernels_scalar, kd__kernels_avx2, kd__kernels_avx512, kd__kernels_neon;
#endif
