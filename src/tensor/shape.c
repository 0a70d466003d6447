/* shape.c - dtypes and shapes: sizes, strides, counts that cannot wrap.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"

static const struct {
    const char *name;
    size_t      size;
} dtypes[] = {
    [KD_F32] = { "f32", 4 },
    [KD_F64] = { "f64", 8 },
    [KD_I32] = { "i32", 4 },
    [KD_I64] = { "i64", 8 },
    [KD_U8]  = { "u8", 1 },
};

static bool dtype_known(kd_dtype dtype)
{
    return (uint32_t)dtype < KD_COUNT(dtypes) && dtypes[dtype].name;
}

size_t kd_dtype_size(kd_dtype dtype) { return dtype_known(dtype) ? dtypes[dtype].size : 0; }

const char *kd_dtype_name(kd_dtype dtype) { return dtype_known(dtype) ? dtypes[dtype].name : "?"; }

bool kd__shape_count(size_t rank, const size_t *shape, size_t *count)
{
    size_t n = 1;
    bool wraps = false;
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] == 0) {
            *count = 0;
            return true;
        }
        wraps |= !kd__mul(n, shape[i], &n);
    }
    *count = n;
    return !wraps;
}

void kd__strides_contiguous(size_t rank, const size_t *shape, ptrdiff_t stride[KD_MAX_RANK])
{
    size_t step = 1;
    for (size_t i = rank; i-- > 0;) {
        stride[i] = (ptrdiff_t)step;
        if (shape[i] > 1) step *= shape[i];
    }
}

kd_status kd__tensor_init(kd_tensor *x, const char *function, kd_dtype dtype, size_t rank, const size_t *shape, void *data)
{
    if (rank > KD_MAX_RANK) return kd__fail(KD_ERR_LIMIT, "%s: rank %zu is above %d", function, rank, KD_MAX_RANK);
    if (rank && !shape) return kd__fail(KD_ERR_ARG, "%s: shape is NULL", function);
    if (!dtype_known(dtype)) return kd__fail(KD_ERR_DTYPE, "%s: dtype %d is unknown", function, (int)dtype);
    size_t count, bytes;
    if (!kd__shape_count(rank, shape, &count) || !kd__mul(count, dtypes[dtype].size, &bytes) || bytes > PTRDIFF_MAX)
        return kd__fail(KD_ERR_OVERFLOW, "%s: shape %S of %s needs more bytes than can be counted", function, rank, shape,
                        dtypes[dtype].name);
    *x = (kd_tensor){ .magic = KD__TENSOR_MAGIC, .dtype = dtype, .rank = (uint8_t)rank, .count = count, .data = data,
                      .block = KD__NO_BLOCK, .grad_block = KD__NO_BLOCK };
    for (size_t i = 0; i < rank; i++) x->shape[i] = shape[i];
    /* Without elements the strides are never used, and the sizes' product may wrap. */
    if (count) kd__strides_contiguous(rank, shape, x->stride);
    return KD_OK;
}

bool kd__tensor_contiguous(const kd_tensor *x)
{
    ptrdiff_t step = 1;
    if (x->count == 0) return true;
    for (size_t i = x->rank; i-- > 0;) {
        if (x->shape[i] == 1) continue;
        if (x->stride[i] != step) return false;
        step *= (ptrdiff_t)x->shape[i];
    }
    return true;
}

bool kd__shape_equal(const kd_tensor *a, const kd_tensor *b)
{
    if (a->rank != b->rank) return false;
    for (size_t i = 0; i < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

kd_status kd__shape_infer(const char *function, size_t count, size_t rank, const size_t *shape, size_t out[KD_MAX_RANK])
{
    const size_t unknown = (size_t)-1;
    if (rank > KD_MAX_RANK) return kd__fail(KD_ERR_LIMIT, "%s: rank %zu is above %d", function, rank, KD_MAX_RANK);
    if (rank && !shape) return kd__fail(KD_ERR_ARG, "%s: shape is NULL", function);
    size_t at = rank, known = 1;
    for (size_t i = 0; i < rank; i++) {
        out[i] = shape[i];
        if (shape[i] != unknown) continue;
        if (at < rank) return kd__fail(KD_ERR_ARG, "%s: sizes %zu and %zu are both to be inferred", function, at, i);
        at = i;
        out[i] = 1;
    }
    bool fits = kd__shape_count(rank, out, &known);
    if (at < rank) {
        fits = fits && known && count % known == 0;
        out[at] = fits ? count / known : unknown;
    } else {
        fits = fits && known == count;
    }
    if (!fits && at < rank)
        return kd__fail(KD_ERR_SHAPE, "%s: %zu elements do not divide by %zu to give size %zu", function, count, known, at);
    if (!fits) return kd__fail(KD_ERR_SHAPE, "%s: %zu elements do not fill %S", function, count, rank, shape);
    return KD_OK;
}

void kd__index_of(size_t rank, const size_t *shape, size_t position, size_t *index)
{
    for (size_t i = rank; i-- > 0; position /= shape[i]) index[i] = position % shape[i];
}

void kd__index_next(size_t rank, const size_t *shape, size_t *index)
{
    for (size_t i = rank; i-- > 0;) {
        if (++index[i] < shape[i]) return;
        index[i] = 0;
    }
}

kd_status kd__axes_check(const char *function, size_t rank, const size_t *perm)
{
    unsigned seen = 0;
    for (size_t i = 0; i < rank; i++) {
        if (perm[i] >= rank || seen >> perm[i] & 1)
            return kd__fail(KD_ERR_ARG, "%s: perm %S is not an order of %zu axes", function, rank, perm, rank);
        seen |= 1u << perm[i];
    }
    return KD_OK;
}
