/* kd/tensor.h - kd_tensor: a typed, strided, multi-dimensional array.
 * SPDX-License-Identifier: MIT
 *
 * Three owners: the caller (kd_tensor_create, _wrap and views of these; freed with kd_tensor_free), a tape
 * (everything an op returns; gone at kd_tape_reset) and a model (its parameters).  kd_tensor_free on the
 * last two does nothing.  A tensor a tape has taken back is an error to use (KD_ERR_STATE), not a crash,
 * until the tape hands the same header out again.
 * Rank 0 (a scalar) to KD_MAX_RANK; any size may be 0.  Sizes and strides count elements. */
#ifndef KD_TENSOR_H
#define KD_TENSOR_H
#include "base.h"
KD_BEGIN_DECLS

/* The most axes a tensor has. */
#define KD_MAX_RANK 8

/* A tensor: dtype, sizes, strides, data and an owner.  Reading one from several threads is fine, writing is for one at a time. */
typedef struct kd_tensor kd_tensor;

/* The type of an element. */
typedef enum kd_dtype {
    KD_F32 = 1,   /* what ops compute in                     */
    KD_F64 = 2,   /* storage and checks; ops refuse it       */
    KD_I32 = 3,   /* labels, indices                         */
    KD_I64 = 4,   /* labels, indices                         */
    KD_U8  = 5    /* images as they come from files          */
} kd_dtype;

/* Bytes of one element; 0 for an unknown dtype. */
KD_API size_t kd_dtype_size(kd_dtype dtype);
/* "f32", "f64", "i32", "i64", "u8"; "?" for an unknown dtype.  Static. */
KD_API const char *kd_dtype_name(kd_dtype dtype);

/* A new tensor of zeros, contiguous, 64-byte aligned, owned by the caller.  `shape` has `rank` sizes
 * (NULL if rank is 0).  KD_ERR_ARG, KD_ERR_DTYPE, KD_ERR_LIMIT (rank > 8), KD_ERR_OVERFLOW, KD_ERR_NOMEM.
 * On error *out is NULL, here and in every function below that has `out`. */
KD_API KD_MUST_USE kd_status kd_tensor_create(kd_tensor **out, kd_context *ctx, kd_dtype dtype, size_t rank,
                                              const size_t *shape);

/* A tensor over the caller's memory, which must outlive it.  `strides` in elements (may be negative or
 * zero); NULL: contiguous, last index fastest.  `data` points at element [0, ..., 0] and needs the
 * element's own alignment (else KD_ERR_ARG); it may be NULL if the tensor has no elements.
 * Nothing is copied and nothing freed. */
KD_API KD_MUST_USE kd_status kd_tensor_wrap(kd_tensor **out, kd_context *ctx, kd_dtype dtype, size_t rank,
                                            const size_t *shape, const ptrdiff_t *strides, void *data);

/* Views share the data of `x`, which must outlive them; the caller frees the view.
 * reshape: same number of elements; `x` must be contiguous (else KD_ERR_ARG: copy it first).
 * slice: indices [begin, end) of one axis, every `step`-th (step >= 1); begin <= end <= size.
 * transpose: axis i of the result is axis perm[i] of x; perm NULL reverses the axes.
 * A size of (size_t)-1 in reshape is inferred (at most one). */
KD_API KD_MUST_USE kd_status kd_tensor_view(kd_tensor **out, const kd_tensor *x);
KD_API KD_MUST_USE kd_status kd_tensor_reshape(kd_tensor **out, const kd_tensor *x, size_t rank, const size_t *shape);
KD_API KD_MUST_USE kd_status kd_tensor_slice(kd_tensor **out, const kd_tensor *x, size_t axis, size_t begin, size_t end,
                                             size_t step);
KD_API KD_MUST_USE kd_status kd_tensor_transpose(kd_tensor **out, const kd_tensor *x, const size_t *perm);

/* A new contiguous tensor with the elements of x (any strides), owned by the caller. */
KD_API KD_MUST_USE kd_status kd_tensor_clone(kd_tensor **out, const kd_tensor *x);

/* dst[i] = src[i], converting: shapes must match; float to integer truncates toward zero and is
 * KD_ERR_RANGE, with nothing written, if a value does not fit (NaN included).  f64 to f32 rounds to nearest. */
KD_API kd_status kd_tensor_copy(kd_tensor *dst, const kd_tensor *src);

/* Every element = value, converted as in kd_tensor_copy. */
KD_API kd_status kd_tensor_fill(kd_tensor *x, double value);

/* The element at index[0 .. rank-1] as a double.  KD_ERR_RANGE names the axis.  An i64 beyond 2^53 rounds. */
KD_API kd_status kd_tensor_get(const kd_tensor *x, const size_t *index, double *out);
/* The element at `index` = value, converted as in kd_tensor_copy; KD_ERR_RANGE also if it does not fit. */
KD_API kd_status kd_tensor_set(kd_tensor *x, const size_t *index, double value);

/* The value of a tensor with exactly one element, whatever its rank; NaN (and error text) otherwise. */
KD_API double kd_tensor_item(const kd_tensor *x);

/* What it is.  For NULL or a stale tensor: 0 or NULL. */
KD_API kd_dtype kd_tensor_dtype(const kd_tensor *x);
KD_API size_t kd_tensor_rank(const kd_tensor *x);
KD_API size_t kd_tensor_size(const kd_tensor *x, size_t axis);        /* 0 if axis >= rank        */
KD_API ptrdiff_t kd_tensor_stride(const kd_tensor *x, size_t axis);   /* 0 if axis >= rank        */
KD_API size_t kd_tensor_count(const kd_tensor *x);                    /* elements, all axes       */
KD_API int32_t kd_tensor_contiguous(const kd_tensor *x);              /* 1: row-major, no gaps    */
/* Element [0, ..., 0].  The typed one is NULL (and error text) unless the dtype is f32. */
KD_API void *kd_tensor_data(const kd_tensor *x);
KD_API float *kd_tensor_f32(const kd_tensor *x);

/* Text: "f32 [2, 3]\n[[1, 2, 3],\n [4, 5, 6]]"; long axes show their first and last three entries around
 * "...", floats with 4 significant digits.  Writes at most cap bytes including the final 0 and returns the
 * length of the whole text, so that a second call can bring a buffer that holds it (out NULL with cap 0). */
KD_API size_t kd_tensor_format(const kd_tensor *x, char *out, size_t cap);

/* NULL is fine; a tape's or model's tensor is left alone. */
KD_API void kd_tensor_free(kd_tensor *x);

KD_END_DECLS
#endif
