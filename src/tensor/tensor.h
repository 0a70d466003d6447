/* tensor.h - the inside of kd_tensor, and the drivers (GEMM, convolution) that block and thread the kernels.
 * SPDX-License-Identifier: MIT */
#ifndef KD__TENSOR_H
#define KD__TENSOR_H
#include "base/base.h"
#include "kernels/kernels.h"
#include "kd/tensor.h"

typedef enum kd__owner { KD__OWNER_CALLER = 1, KD__OWNER_TAPE, KD__OWNER_MODEL, KD__OWNER_POISON } kd__owner;
#define KD__TENSOR_MAGIC 0x6b64746eu   /* "kdtn": a freed or foreign pointer is an error, not a crash */
#define KD__NO_BLOCK ((size_t)-1)

/* The first member of every kd_tape: what a tensor needs to know of the tape that made it. */
typedef struct kd__tape_state {
    uint64_t  generation;         /* counts resets, from 1 */
    kd_status status;
    char      text[512];          /* of the sticky error */
} kd__tape_state;

struct kd_tensor {
    uint32_t  magic;
    kd_dtype  dtype;
    uint8_t   owner;              /* kd__owner */
    uint8_t   rank;
    bool      requires_grad;      /* a leaf that wants its gradient, or computed from one */
    bool      retain_grad;        /* kd_requires_grad was called on it: kd_grad may ask after backward */
    bool      is_parameter;       /* a model's: gradients accumulate into `grad` */
    size_t    shape[KD_MAX_RANK];
    ptrdiff_t stride[KD_MAX_RANK];   /* in elements */
    size_t    count;
    void     *data;
    kd_context *ctx;              /* whose threads copy it (NULL: the default); a caller's tensor holds a reference */
    /* on a tape */
    struct kd_tape *tape;         /* also set in a caller's view of a tape's tensor */
    uint64_t  generation;         /* equals the tape's while alive; 0: given back early */
    float    *grad;               /* contiguous; a parameter's lies in its model's block */
    size_t    block, grad_block;  /* indices of the memory blocks of data and grad, or KD__NO_BLOCK */
    size_t    maker;              /* 1 + the node that can make the data again for backward; 0: none */
    size_t    readers;            /* then: nodes to undo that read the data */
};

/* ---- shape.c, tensor.c -------------------------------------------------------------------------- */
/* KD_OK and no text if x is usable; KD_ERR_ARG (NULL, freed), KD_ERR_STATE (stale), or for a poison tensor its tape's
 * status and text.  `what` names the argument. */
kd_status kd__tensor_check(const kd_tensor *x, const char *function, const char *what);
/* The same without a text: false for what _check refuses. */
bool      kd__tensor_alive(const kd_tensor *x);
/* Fill header fields (contiguous strides) for data at `data`, owner and context left 0.  KD_ERR_ARG (shape NULL),
 * KD_ERR_LIMIT, KD_ERR_DTYPE, KD_ERR_OVERFLOW; texts begin with `function`. */
kd_status kd__tensor_init(kd_tensor *x, const char *function, kd_dtype dtype, size_t rank, const size_t *shape, void *data);
bool      kd__tensor_contiguous(const kd_tensor *x);
bool      kd__shape_equal(const kd_tensor *a, const kd_tensor *b);
/* Product of shape[0 .. rank-1]; false if it wraps.  A size of 0 makes it 0 whatever the others are. */
bool      kd__shape_count(size_t rank, const size_t *shape, size_t *count);
/* The shape of a reshape of `count` elements: at most one size of (size_t)-1 is inferred. */
kd_status kd__shape_infer(const char *function, size_t count, size_t rank, const size_t *shape, size_t out[KD_MAX_RANK]);
/* Strides of a contiguous tensor. */
void      kd__strides_contiguous(size_t rank, const size_t *shape, ptrdiff_t stride[KD_MAX_RANK]);
/* KD_ERR_ARG unless perm[0 .. rank-1] names each axis once. */
kd_status kd__axes_check(const char *function, size_t rank, const size_t *perm);
/* The index of the element at row-major `position`. */
void      kd__index_of(size_t rank, const size_t *shape, size_t position, size_t *index);
/* Move row-major `index` to the next element of `shape`. */
void      kd__index_next(size_t rank, const size_t *shape, size_t *index);

/* ---- copy.c: all of these use ctx's threads where it pays --------------------------------------------- */
/* dst[i] = src[i] for each index i of `shape`: elements of `bytes` 1, 4 or 8, strides in elements.  dst and src do not
 * overlap, nor do elements of dst. */
void      kd__strided_copy(kd_context *ctx, size_t bytes, size_t rank, const size_t *shape, void *dst,
                           const ptrdiff_t *dst_stride, const void *src, const ptrdiff_t *src_stride);
/* dst[i] += src[i], likewise. */
void      kd__strided_add(kd_context *ctx, size_t rank, const size_t *shape, float *dst, const ptrdiff_t *dst_stride,
                          const float *src, const ptrdiff_t *src_stride);
/* Contiguous copy of x's elements (any strides, same dtype) to out. */
void      kd__tensor_gather(const kd_tensor *x, void *out);

/* ---- gemm.c -------------------------------------------------------------------------------------
 * C [m, n] (=|+=) op(A) op(B), then the epilogue, row-major, any leading strides.
 * Along k: blocks of 256, each one fma chain from zero, added in order (to the old C first when accumulating);
 * the epilogue rounds as the separate ops would.  Same bits for any ISA, tile, blocking and thread count. */
typedef struct kd__gemm_args {
    size_t m, n, k;
    const float *a; size_t a_stride; bool a_transposed;   /* a_transposed: A is stored [k, m] */
    const float *b; size_t b_stride; bool b_transposed;   /* b_transposed: B is stored [n, k] */
    const float *b_packed;                                 /* op(B) from kd__gemm_pack, or NULL */
    float       *c; size_t c_stride;
    bool         accumulate;
    kd__epilogue after;                                    /* of the finished sums */
} kd__gemm_args;
kd_status kd__gemm(kd_context *ctx, const kd__gemm_args *args);
/* op(B) of n, k, b, b_stride and b_transposed in the order that the kernel reads it, for products that share it: floats needed
 * (false: they do not fit), and into `out`. */
bool      kd__gemm_packed_floats(const kd__gemm_args *args, size_t *floats);
void      kd__gemm_pack(kd_context *ctx, const kd__gemm_args *args, float *out);
/* `batch` products with fixed distances between their matrices (0: shared).  c_step 0: their sum, in order; without an
 * epilogue. */
kd_status kd__gemm_batch(kd_context *ctx, const kd__gemm_args *args, size_t batch, size_t a_step, size_t b_step, size_t c_step);

#ifdef KD_BLIS
/* gemm_blis.c: the same by BLIS; false if it is too small for that. */
bool      kd__gemm_blis(kd_context *ctx, const kd__gemm_args *args);
#endif

/* ---- packed.c: weights that stay as they are, kept in the order that the kernels read --------------------- */
typedef enum kd__packed_form { KD__PACKED_NOTHING, KD__PACKED_PANELS, KD__PACKED_TAPS, KD__PACKED_WINOGRAD,
                              KD__PACKED_WINOGRAD4, KD__PACKED_NORM } kd__packed_form;
typedef struct kd__packed {
    kd__monitor    *lock;        /* forwards of one model may run on several threads */
    const uint64_t *version;     /* of the weights; what was packed from another one is packed again */
    uint64_t        made_of;
    kd__packed_form form;        /* of a matrix, a direct convolution, Winograd's; scale and shift of batch norm */
    size_t          floats;
    float          *data;
} kd__packed;
/* The data in this form, made by fill(arg, out) (false: no memory) when it is not there; NULL when there is no memory: do
 * without. */
const float *kd__packed_get(kd_context *ctx, kd__packed *packed, kd__packed_form form, size_t floats,
                            bool (*fill)(void *arg, float *out), void *arg);

/* b_packed: B, kept packed; packed NULL: none. */
void      kd__gemm_keep(kd_context *ctx, kd__gemm_args *args, kd__packed *packed);
/* kd__gemm with a B that is kept packed; packed NULL: with B as it is. */
kd_status kd__gemm_kept(kd_context *ctx, const kd__gemm_args *args, kd__packed *packed);

/* ---- conv.c: NHWC, weight [kh, kw, ci / groups, co] -------------------------------------------------- */
typedef struct kd__conv_shape {
    size_t n, h, w, ci, kh, kw, co, oh, ow;
    size_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
    bool   winograd4;        /* forward: F(4x4,3x3) where Winograd serves */
} kd__conv_shape;
/* y = conv(x, weight), then the epilogue (NULL: none) on its pixels [n oh ow, co].  packed: the weight's, or NULL.  Chain over kh, kw,
 * ci; the rule which shapes go through Winograd F(2x2,3x3) is part of the same-bits contract (docs/design/numerics.md). */
kd_status kd__conv_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight,
                           kd__packed *packed, const kd__epilogue *after, float *y);
kd_status kd__conv_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight,
                                 float *dx, bool accumulate);
/* Chunks of pixels summed from zero and added in order (after the old dw when accumulating). */
kd_status kd__conv_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy,
                                   float *dw, bool accumulate);
#endif
