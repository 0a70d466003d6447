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
#include "kernels/distill_args.h"
#include "kernels/depthwise_args.h"
#include "kernels/gemm_block.h"
#include "kernels/pool_args.h"
#include "kernels/winograd_args.h"

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
    X(GELU_ERF, IN)     /* x (1 + erf(x / sqrt 2)) / 2; error <= 2.5 * 2^-24 |x|        */ \
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

/* ---- elementwise: two operands -------------------------------------------------------------------- */
enum { KD_BINARY_ADD, KD_BINARY_SUB, KD_BINARY_MUL, KD_BINARY_DIV };
/* Element (r, i) of a [rows, n] operand is data[r * row + i * step].  step is 0 or 1; row 0 repeats one row:
 * row = n, step 1: a matrix; 0, 1: one row for all; 1, 0: one number a row; 0, 0: one number. */
typedef struct kd__operand { const float *data; size_t row, step; } kd__operand;
typedef struct kd__target { float *data; size_t row, step; } kd__target;
/* binary_f32           out[r][i] = a op b, rows out_row apart; out may be an operand of the same layout.
 * binary_backward_f32  grad of operand `which` (0: a, 1: b) = or += grad_out times the derivative; summed over
 *                      what the operand's layout (grad.row, grad.step, like the operand's) repeats:
 *                      down columns in the order of column_sums_f32, along a row in that of sum_f32,
 *                      the whole as the sum of its rows in order, in double. */

/* ---- reductions --------------------------------------------------------------------------------------- */
/* sum_f32, dot_f32     in double: lane i % 16 of register (i / 16) % 4 takes element i in order, registers fold as
 *                      (0 + 1) + (2 + 3), lanes by the tree.
 * row_sums_f32         out[r] = or += scale * sum_f32 of row r, rounded once to float.
 * column_sums_f32      out[i] = or += S_0 + S_1 + ..., S_k the chain from zero over rows 64 k .. 64 k + 63; so rows
 *                      may be split into blocks of 64 for threads and the blocks added in order.
 * row_max_f32          out[r] and the column of its first occurrence (arg may be NULL); the first NaN wins.
 * first_nonfinite_f32  *out = the first index of a NaN or infinity, n if there is none. */

/* ---- moving and adding -------------------------------------------------------------------------------- */
/* axpy_f32             y[i] = fma(a, x[i], y[i]).
 * copy2d_f32           out[r * out_row + i * out_step] = or += in[r * in_row + i * in_step]; any strides. */

/* ---- optimizers (kern_optim.c) -------------------------------------------------------------------
 * g' = grad_scale g + weight_decay w everywhere; afterwards g = 0. */
#define KD_SGD_FIRST    1u   /* v is not read: v = g' */
#define KD_SGD_NESTEROV 2u
typedef struct kd__sgd_step {
    float    grad_scale, weight_decay, lr, momentum, grad_share;   /* share: 1 - dampening */
    uint32_t flags;
} kd__sgd_step;
typedef struct kd__adam_step {
    float grad_scale, weight_decay, keep;         /* keep: what decoupled decay leaves of w, 1 - lr decay       */
    float grad_share1, beta2, grad_share2;        /* shares: 1 - beta                                           */
    float step_size, root_correction, eps;        /* lr / (1 - beta1^t), sqrt(1 - beta2^t)                      */
} kd__adam_step;
/* sgd_step_f32      v = momentum v + grad_share g';  w -= lr v, or lr (g' + momentum v) with NESTEROV; v NULL: lr g'
 * adam_step_f32     m += grad_share1 (g' - m);  v = beta2 v + grad_share2 g'^2;
 *                   w = keep w - step_size m / (sqrt(v) / root_correction + eps)
 * approach_f32      average += share (x - average)
 *
 * ---- data (kern_convert.c) -------------------------------------------------------------------------
 * affine_u8, affine_f32   out[i] = in[i] scale[i % period] + offset[i % period], rounded once; period a multiple of 16
 * mix_f32                 a, b = share a + (1 - share) b, share b + (1 - share) a */

/* ---- softmax over rows ----------------------------------------------------------------------------------- */
/* Row conventions of include/kd/kernels.h: NaN or +inf anywhere gives NaN throughout; -inf is probability 0; a row
 * of -inf throughout gives softmax 0, log-softmax -inf, logsumexp -inf.
 * softmax_f32           out[r][c] = softmax(in[r] / t)[c], or its logarithm; in place when the strides are equal.
 * softmax_backward_f32  contiguous rows; y is the output.  grad_in = or += y (g - sum g y) / t, or for the logarithm
 *                       (g - e^y sum g) / t; grad_in may be grad_out when not accumulating.
 * logsumexp_f32         out[r] = log sum_c exp(in[r][c] / t). */

/* ---- normalisation ------------------------------------------------------------------------------- */
/* A ReLU behind the norm.  Its gradient is 0 where y is <= 0, as that of RELU: a NaN lets it pass. */
typedef struct kd__norm_relu {
    const float *scale, *shift;   /* [c]: y is fma(x - mean, scale, shift), computed again */
    const float *y;               /* or y [rows, c] is given; then g [rows, c], dy itself if you like, gets the gradient before */
    float       *g;               /*    the ReLU */
} kd__norm_relu;
/* Columns: matrices [rows, c], contiguous, a statistic per column.  Rows are added four at a time, ((r0 + r1) + (r2 + r3)),
 * the groups in order, the last rows % 4 one by one: at most 256 rows a call keeps the error of a sum below
 * 67 * 2^-24 of the sum of magnitudes.
 * norm_columns_stats      shift near the mean; s1 = sum (x - shift), s2 = sum (x - shift)^2
 * norm_columns_dots       s_dy = sum g, s_dyx = sum g (x - mean), g = dy, or with `relu` what of dy comes through it
 * norm_columns_apply      y = fma(x - mean, scale, shift), + residual [rows, c], max(0, .) with relu; mean NULL: fma(x, scale,
 *                         shift); residual NULL: none; in place
 * norm_columns_backward   dx (=, +=) scale g - ((x - mean) k + m); x NULL: scale dy; g = dy, or with shift what of dy comes
 *                         through max(0, fma(x - mean, scale, shift))
 * Rows: sums of blocks of 4096 in single precision, the blocks added in double.
 * layer_norm_rows         y = (x - mean) rstd weight + bias; weight, bias NULL: 1, 0; mean, rstd [rows] are outputs
 * layer_norm_backward_rows  dx (=, +=) rstd (g - mean g - hat mean(g hat)), g = dy weight; dx NULL: not wanted;
 *                         dweight += dy hat, dbias += dy, row by row; NULL: not wanted
 * l2_normalize_rows       y = x / max(|x|, eps); norm [rows] gets |x|, summed in double
 * l2_normalize_backward_rows  dx (=, +=) (dy - y (dy . y)) / |x|, or dy / eps where |x| < eps
 * cosine_rows             out[r] = a . b / max(|a| |b|, eps), summed in double; the norms are outputs
 * cosine_backward_rows    da (=, +=) dy (b / |b| - y a / |a|) / |a|, or dy b / eps where |a| |b| < eps */

/* ---- losses of a difference d = a - b --------------------------------------------------------------- */
/* f(d) = d^2 for beta 0, else smooth L1: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2.
 * difference              out[i] = f(d)
 * difference_sum          *sum = sum f(d): blocks of 4096 in single precision, added in double
 * difference_backward     da (=, +=) scale f'(d), times dy[i] where dy is not NULL */

/* ---- recurrent cells (kern_rnn.c) ------------------------------------------------------------------- */
/* One step of `rows` sequences.  A row of gates has the blocks i, f, g, o (LSTM) or r, z, n (GRU) of `hidden` columns each, states
 * have `hidden`; all are contiguous.
 * lstm_step            gates: arguments in, values out: i, f, o = sigmoid, g = tanh; c = f c_before + i g; h = o tanh c
 * lstm_backward_step   gates: values in, gradients of their arguments out; dh that of h, dc of c in, of c_before out
 * gru_step             gates: x W + b in, values out; product: h_before W + b.  r, z = sigmoid of the sum, n = tanh(gate + r product),
 *                      h = n + z (h_before - n)
 * gru_backward_step    gates: values in, gradients of their arguments out; product: as it was in, its gradient out; dh that of h;
 *                      dh_before += z dh, without what comes through the product */

/* ---- random ------------------------------------------------------------------------------------------------- */
/* dropout_f32          out[i] = or += w >> 8 < threshold ? 0 : in[i] * scale, w number index + i of the stream `key`
 *                      (kd_rng); index a multiple of 4.  in place when not accumulating. */

struct kd__kernels {
    const char *isa;   /* "scalar", "avx2", "avx512", "neon" */
#define KERNEL(name, args) void(*name) args;
#define SHARED KERNEL
#include "kernels/kernels.def"
#undef KERNEL
#undef SHARED
};
typedef struct kd__kernels kd__kernels;

extern const kd__kernels kd__kernels_scalar, kd__kernels_avx2, kd__kernels_avx512, kd__kernels_neon;
#endif
