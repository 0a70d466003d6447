/* convert.c - values between dtypes: copy, fill, one element.
 *
 * Values pass through a short buffer of double (from floats) or int64_t (from integers), which hold every dtype exactly,
 * so that each result is rounded once.  Ranges are checked over the whole source before anything is written.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "tensor/tensor.h"
#include <math.h>

enum { BUFFER = 256 };

typedef struct buffer {
    bool   integer;   /* which member holds the values */
    size_t n;
    union {
        double  real[BUFFER];
        int64_t whole[BUFFER];
    } u;
} buffer;

#define LOAD(dtype, type, member)                                                                     \
    case dtype:                                                                                       \
        for (size_t i = 0; i < n; i++) b->u.member[i] = ((const type *)data)[(ptrdiff_t)i * stride];  \
        break;
static void load(buffer *b, kd_dtype dtype, const void *data, ptrdiff_t stride, size_t n)
{
    b->n = n;
    b->integer = dtype != KD_F32 && dtype != KD_F64;
    switch (dtype) {
    LOAD(KD_F32, float, real)
    LOAD(KD_F64, double, real)
    LOAD(KD_I32, int32_t, whole)
    LOAD(KD_I64, int64_t, whole)
    LOAD(KD_U8, uint8_t, whole)
    }
}

#define STORE(dtype, type)                                                                                           \
    case dtype:                                                                                                      \
        if (b->integer)                                                                                              \
            for (size_t i = 0; i < b->n; i++) ((type *)data)[(ptrdiff_t)i * stride] = (type)b->u.whole[i];           \
        else                                                                                                         \
            for (size_t i = 0; i < b->n; i++) ((type *)data)[(ptrdiff_t)i * stride] = (type)b->u.real[i];            \
        break;
static void store(const buffer *b, kd_dtype dtype, void *data, ptrdiff_t stride)
{
    switch (dtype) {
    STORE(KD_F32, float)
    STORE(KD_F64, double)
    STORE(KD_I32, int32_t)
    STORE(KD_I64, int64_t)
    STORE(KD_U8, uint8_t)
    }
}

static bool whole_fits(kd_dtype dtype, int64_t v)
{
    return dtype == KD_I32 ? v >= INT32_MIN && v <= INT32_MAX : dtype != KD_U8 || (v >= 0 && v <= UINT8_MAX);
}

/* v truncated toward zero fits; a NaN never does. */
static bool real_fits(kd_dtype dtype, double v)
{
    switch (dtype) {
    case KD_I32: return v > -2147483649.0 && v < 2147483648.0;
    case KD_I64: return v >= -0x1p63 && v < 0x1p63;
    case KD_U8: return v > -1.0 && v < 256.0;
    default: return true;
    }
}

/* The first value that does not fit dtype; b->n if all do. */
static size_t first_misfit(const buffer *b, kd_dtype dtype)
{
    size_t i = 0;
    if (b->integer)
        while (i < b->n && whole_fits(dtype, b->u.whole[i])) i++;
    else
        while (i < b->n && real_fits(dtype, b->u.real[i])) i++;
    return i;
}

static kd_status misfit(const char *function, const buffer *b, size_t i, kd_dtype dtype, size_t rank, const size_t *index)
{
    if (b->integer)
        return kd__fail(KD_ERR_RANGE, "%s: element %S is %lld, beyond %s", function, rank, index, (long long)b->u.whole[i],
                        kd_dtype_name(dtype));
    return kd__fail(KD_ERR_RANGE, "%s: element %S is %.9g, beyond %s", function, rank, index, b->u.real[i], kd_dtype_name(dtype));
}

static ptrdiff_t offset_of(const kd_tensor *x, const size_t *index)
{
    ptrdiff_t offset = 0;
    for (size_t i = 0; i < x->rank; i++) offset += (ptrdiff_t)index[i] * x->stride[i];
    return offset * (ptrdiff_t)kd_dtype_size(x->dtype);
}

static unsigned char *element(const kd_tensor *x, const size_t *index) { return (unsigned char *)x->data + offset_of(x, index); }

/* Walk src a buffer at a time; write to dst, or only check that values fit its dtype. */
static kd_status convert(const char *function, kd_tensor *dst, const kd_tensor *src, bool write)
{
    size_t index[KD_MAX_RANK] = { 0 };
    size_t rank = src->rank, run = rank ? src->shape[rank - 1] : 1, rows = src->count / run;
    ptrdiff_t src_step = rank ? src->stride[rank - 1] : 0, dst_step = rank ? dst->stride[rank - 1] : 0;
    buffer b;
    for (size_t row = 0; row < rows; row++) {
        for (size_t at = 0; at < run; at += b.n) {
            if (rank) index[rank - 1] = at;
            load(&b, src->dtype, element(src, index), src_step, KD_MIN(run - at, (size_t)BUFFER));
            if (write) {
                store(&b, dst->dtype, element(dst, index), dst_step);
                continue;
            }
            size_t bad = first_misfit(&b, dst->dtype);
            if (bad == b.n) continue;
            if (rank) index[rank - 1] += bad;
            return misfit(function, &b, bad, dst->dtype, rank, index);
        }
        if (rank) {
            index[rank - 1] = 0;
            kd__index_next(rank - 1, src->shape, index);
        }
    }
    return KD_OK;
}

/* The bytes x's elements lie in. */
static void extent(const kd_tensor *x, uintptr_t *low, uintptr_t *high)
{
    size_t size = kd_dtype_size(x->dtype);
    *low = (uintptr_t)x->data;
    *high = *low + size;
    for (size_t i = 0; i < x->rank; i++) {
        ptrdiff_t reach = (ptrdiff_t)(x->shape[i] - 1) * x->stride[i] * (ptrdiff_t)size;
        if (reach < 0) *low -= 0 - (uintptr_t)reach;
        else *high += (uintptr_t)reach;
    }
}

static bool overlap(const kd_tensor *a, const kd_tensor *b)
{
    uintptr_t a_low, a_high, b_low, b_high;
    extent(a, &a_low, &a_high);
    extent(b, &b_low, &b_high);
    return a_low < b_high && b_low < a_high;
}

kd_status kd_tensor_copy(kd_tensor *dst, const kd_tensor *src)
{
    KD__FP_SCOPE;
    KD_TRY(kd__tensor_check(dst, __func__, "dst"));
    KD_TRY(kd__tensor_check(src, __func__, "src"));
    if (!kd__shape_equal(dst, src))
        return kd__fail(KD_ERR_SHAPE, "%s: dst %S, src %S", __func__, (size_t)dst->rank, dst->shape, (size_t)src->rank,
                        src->shape);
    if (src->count == 0) return KD_OK;
    for (size_t i = 0; i < dst->rank; i++)
        if (dst->stride[i] == 0 && dst->shape[i] > 1)
            return kd__fail(KD_ERR_ARG, "%s: elements of dst share memory along axis %zu", __func__, i);
    const bool widens = dst->dtype == KD_F32 || dst->dtype == KD_F64 || dst->dtype == src->dtype;
    if (!widens) KD_TRY(convert(__func__, dst, src, false));

    kd_tensor from = *src;
    void *scratch = NULL;
    if (overlap(dst, src)) {
        scratch = kd__scratch_get(dst->ctx, src->count * kd_dtype_size(src->dtype));
        if (!scratch) return kd__fail(KD_ERR_NOMEM, "%s: out of memory", __func__);
        kd__tensor_gather(src, scratch);
        from.data = scratch;
        kd__strides_contiguous(from.rank, from.shape, from.stride);
    }
    if (dst->dtype == src->dtype)
        kd__strided_copy(dst->ctx, kd_dtype_size(dst->dtype), dst->rank, dst->shape, dst->data, dst->stride, from.data,
                         from.stride);
    else
        (void)convert(__func__, dst, &from, true);   /* checked above */
    kd__scratch_put(dst->ctx, scratch);
    return KD_OK;
}

kd_status kd_tensor_fill(kd_tensor *x, double value)
{
    KD__FP_SCOPE;
    KD_TRY(kd__tensor_check(x, __func__, "x"));
    buffer b = { .n = 1 };
    b.u.real[0] = value;
    if (!real_fits(x->dtype, value))
        return kd__fail(KD_ERR_RANGE, "%s: value %.9g is beyond %s", __func__, value, kd_dtype_name(x->dtype));
    if (x->count == 0) return KD_OK;
    for (size_t i = 1; i < BUFFER; i++) b.u.real[i] = value;
    size_t index[KD_MAX_RANK] = { 0 };
    size_t rank = x->rank, run = rank ? x->shape[rank - 1] : 1, rows = x->count / run;
    for (size_t row = 0; row < rows; row++) {
        for (size_t at = 0; at < run; at += b.n) {
            if (rank) index[rank - 1] = at;
            b.n = KD_MIN(run - at, (size_t)BUFFER);
            store(&b, x->dtype, element(x, index), rank ? x->stride[rank - 1] : 0);
        }
        if (rank) {
            index[rank - 1] = 0;
            kd__index_next(rank - 1, x->shape, index);
        }
    }
    return KD_OK;
}

static kd_status index_check(const char *function, const kd_tensor *x, const size_t *index)
{
    KD_TRY(kd__tensor_check(x, function, "x"));
    if (x->rank && !index) return kd__fail(KD_ERR_ARG, "%s: index is NULL", function);
    for (size_t i = 0; i < x->rank; i++)
        if (index[i] >= x->shape[i])
            return kd__fail(KD_ERR_RANGE, "%s: index %zu of axis %zu of x %S", function, index[i], i, (size_t)x->rank, x->shape);
    return KD_OK;
}

kd_status kd_tensor_get(const kd_tensor *x, const size_t *index, double *out)
{
    KD__FP_SCOPE;
    KD_NEED(out);
    *out = NAN;
    KD_TRY(index_check(__func__, x, index));
    const void *at = element(x, index);
    switch (x->dtype) {
    case KD_F32: *out = (double)*(const float *)at; break;
    case KD_F64: *out = *(const double *)at; break;
    case KD_I32: *out = (double)*(const int32_t *)at; break;
    case KD_I64: *out = (double)*(const int64_t *)at; break;
    case KD_U8: *out = (double)*(const uint8_t *)at; break;
    }
    return KD_OK;
}

kd_status kd_tensor_set(kd_tensor *x, const size_t *index, double value)
{
    KD__FP_SCOPE;
    KD_TRY(index_check(__func__, x, index));
    if (!real_fits(x->dtype, value))
        return kd__fail(KD_ERR_RANGE, "%s: value %.9g is beyond %s", __func__, value, kd_dtype_name(x->dtype));
    buffer b = { .n = 1 };
    b.u.real[0] = value;
    store(&b, x->dtype, element(x, index), 0);
    return KD_OK;
}
