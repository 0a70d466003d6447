/* tensor.h - the inside of kd_tensor, and the drivers (GEMM, convolution) that block and thread the kernels.
 * SPDX-License-Identifier: MIT */
#ifndef KD__TENSOR_H
#define KD__TENSOR_H
#include "base/base.h"
#include "kernels/kernels.h"
#include "kd/tensor.h"

typedef enum kd__owner { KD__OWNER_CALLER = 1, KD__OWNER_TAPE, KD__OWNER_MODEL } kd__owner;
#define KD__TENSOR_MAGIC 0x6b64746eu   /* "kdtn": a freed or foreign pointer is an error, not a crash */

struct kd_tensor {
    uint32_t  magic;
    kd_dtype  dtype;
    uint8_t   owner;              /* kd__owner */
    uint8_t   rank;
    bool      requires_grad;      /* a leaf that wants its gradient, or computed from one */
    bool      is_parameter;
    size_t    shape[KD_MAX_RANK];
    ptrdiff_t stride[KD_MAX_RANK];   /* in elements */
    size_t    count;
    void     *data;
    void     *memory;             /* what kd_tensor_free returns to ctx; NULL for wraps and views */
    kd_context *ctx;              /* of a caller's tensor */
    /* on a tape */
    struct kd_tape *tape;
    uint64_t  generation;         /* equals the tape's while alive */
    float    *grad;               /* contiguous; a parameter's lies in its model's block */
    uint64_t  grad_generation;    /* which backward `grad` belongs to (leaf tensors outlive tapes) */
    size_t    block;              /* KD_TAPE_INFER: index of its memory block, see tape.h */
};

/* True and no text if x is usable; else KD_ERR_ARG (NULL, freed) or KD_ERR_STATE (stale). `what` names the argument. */
kd_status kd__tensor_check(const kd_tensor *x, const char *function, const char *what);
/* Fill header fields (contiguous strides) for data at `data`.  KD_ERR_LIMIT, KD_ERR_DTYPE, KD_ERR_OVERFLOW. */
kd_status kd__tensor_init(kd_tensor *x, kd_dtype dtype, size_t rank, const size_t *shape, void *data);
bool      kd__tensor_contiguous(const kd_tensor *x);
bool      kd__shape_equal(const kd_tensor *a, const kd_tensor *b);
/* Product of shape[0 .. rank-1]; false if it wraps. */
bool      kd__shape_count(size_t rank, const size_t *shape, size_t *count);
/* Contiguous copy of x's elements (any strides, same dtype) to out. */
void      kd__tensor_gather(const kd_tensor *x, void *out);

/* ---- gemm.c -------------------------------------------------------------------------------------
 * C [m, n] (=|+=) op(A) op(B) (+ bias [n]) (then activation), row-major, any leading strides.
 * Along k: blocks of 256, each one fma chain from zero, added in order (to the old C first when accumulating);
 * the epilogue rounds as the separate ops would.  Same bits for any ISA, tile, blocking and thread count. */
typedef struct kd__gemm_args {
    size_t m, n, k;
    const float *a; size_t a_stride; bool a_transposed;   /* a_transposed: A is stored [k, m] */
    const float *b; size_t b_stride; bool b_transposed;   /* b_transposed: B is stored [n, k] */
    float       *c; size_t c_stride;
    bool         accumulate;
    const float *bias;                                     /* NULL or [n] */
    bool         relu;                                     /* max(0, .) after the bias */
} kd__gemm_args;
kd_status kd__gemm(kd_context *ctx, const kd__gemm_args *args);
/* `batch` products with fixed distances between their matrices (0: shared). */
kd_status kd__gemm_batch(kd_context *ctx, const kd__gemm_args *args, size_t batch, size_t a_step, size_t b_step, size_t c_step);

/* ---- conv.c: NHWC, weight [kh, kw, ci / groups, co] -------------------------------------------------- */
typedef struct kd__conv_shape {
    size_t n, h, w, ci, kh, kw, co, oh, ow;
    size_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
} kd__conv_shape;
/* y = conv(x, weight) + bias, then max(0, .) if relu.  Chain over kh, kw, ci; the rule which shapes go through Winograd
 * F(2x2,3x3) is part of the same-bits contract (docs/design/numerics.md). */
kd_status kd__conv_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight,
                           const float *bias, bool relu, float *y);
kd_status kd__conv_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight,
                                 float *dx, bool accumulate);
/* Each image summed from zero, images added in order (after the old dw when accumulating). */
kd_status kd__conv_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy,
                                   float *dw, bool accumulate);
#endif
