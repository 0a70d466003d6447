/* tensor.c - kd_tensor: made, wrapped, asked and freed.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"
#include <math.h>

/* The tape begins with its state, which is all this room knows of it. */
static const kd__tape_state *state_of(const kd_tensor *x) { return (const kd__tape_state *)(const void *)x->tape; }

bool kd__tensor_alive(const kd_tensor *x)
{
    return x && x->magic == KD__TENSOR_MAGIC && x->owner != KD__OWNER_POISON &&
           (!x->tape || x->generation == state_of(x)->generation);
}

kd_status kd__tensor_check(const kd_tensor *x, const char *function, const char *what)
{
    if (KD_LIKELY(kd__tensor_alive(x))) return KD_OK;
    if (!x) return kd__fail(KD_ERR_ARG, "%s: %s is NULL", function, what);
    if (x->magic != KD__TENSOR_MAGIC) return kd__fail(KD_ERR_ARG, "%s: %s is not a tensor, or was freed", function, what);
    if (x->owner == KD__OWNER_POISON) {
        if (!x->tape) return kd__fail(KD_ERR_ARG, "%s: %s came from an op whose tape is NULL", function, what);
        if (state_of(x)->status != KD_OK) return kd__fail(state_of(x)->status, "%s", state_of(x)->text);
    } else if (x->generation == 0) {
        return kd__fail(KD_ERR_STATE, "%s: %s was made inside kd_model_forward, which gave its memory back", function, what);
    }
    return kd__fail(KD_ERR_STATE, "%s: %s was made before kd_tape_reset", function, what);
}

kd_status kd_tensor_create(kd_tensor **out, kd_context *ctx, kd_dtype dtype, size_t rank, const size_t *shape)
{
    KD_NEED(out);
    *out = NULL;
    kd_tensor header;
    size_t bytes;
    KD_TRY(kd__tensor_init(&header, __func__, dtype, rank, shape, NULL));
    size_t front = (sizeof header + KD_ALIGN - 1) & ~(size_t)(KD_ALIGN - 1);   /* the elements follow their header */
    if (!kd__add(front, header.count * kd_dtype_size(dtype), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%s: shape %S of %s needs more bytes than can be counted", __func__, rank, shape,
                        kd_dtype_name(dtype));
    kd_tensor *x = kd__alloc(ctx, bytes);
    if (!x) return kd__fail(KD_ERR_NOMEM, "%s: out of memory for %s %S", __func__, kd_dtype_name(dtype), rank, shape);
    *x = header;
    x->owner = KD__OWNER_CALLER;
    x->data = (unsigned char *)x + front;
    x->ctx = kd__context_retain(ctx);
    *out = x;
    return KD_OK;
}

/* Every reachable element must lie within PTRDIFF_MAX bytes of data, on both sides. */
static bool strides_fit(const kd_tensor *x)
{
    ptrdiff_t low = 0, high = 0, size = (ptrdiff_t)kd_dtype_size(x->dtype);
    for (size_t i = 0; i < x->rank; i++) {
        ptrdiff_t reach;
        if (__builtin_mul_overflow(x->stride[i], (ptrdiff_t)(x->shape[i] - 1), &reach) ||
            __builtin_mul_overflow(reach, size, &reach) ||
            __builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high))
            return false;
    }
    return true;
}

kd_status kd_tensor_wrap(kd_tensor **out, kd_context *ctx, kd_dtype dtype, size_t rank, const size_t *shape,
                         const ptrdiff_t *strides, void *data)
{
    KD_NEED(out);
    *out = NULL;
    kd_tensor header;
    KD_TRY(kd__tensor_init(&header, __func__, dtype, rank, shape, data));
    for (size_t i = 0; strides && i < rank; i++) header.stride[i] = strides[i];
    if (header.count) {
        if (!data) return kd__fail(KD_ERR_ARG, "%s: data is NULL for %s %S", __func__, kd_dtype_name(dtype), rank, shape);
        if ((uintptr_t)data % kd_dtype_size(dtype))
            return kd__fail(KD_ERR_ARG, "%s: data is not aligned for %s", __func__, kd_dtype_name(dtype));
        if (!strides_fit(&header))
            return kd__fail(KD_ERR_OVERFLOW, "%s: the strides reach further than memory can", __func__);
    }
    kd_tensor *x = kd__alloc_raw(ctx, sizeof *x);
    if (!x) return kd__fail(KD_ERR_NOMEM, "%s: out of memory", __func__);
    *x = header;
    x->owner = KD__OWNER_CALLER;
    x->ctx = kd__context_retain(ctx);
    *out = x;
    return KD_OK;
}

void kd_tensor_free(kd_tensor *x)
{
    if (!x || x->magic != KD__TENSOR_MAGIC || x->owner != KD__OWNER_CALLER) return;
    kd_context *ctx = x->ctx;
    x->magic = 0;
    kd__free(ctx, x);
    kd__context_release(ctx);
}

kd_dtype kd_tensor_dtype(const kd_tensor *x) { return kd__tensor_alive(x) ? x->dtype : (kd_dtype)0; }

size_t kd_tensor_rank(const kd_tensor *x) { return kd__tensor_alive(x) ? x->rank : 0; }

size_t kd_tensor_size(const kd_tensor *x, size_t axis)
{
    return kd__tensor_alive(x) && axis < x->rank ? x->shape[axis] : 0;
}

ptrdiff_t kd_tensor_stride(const kd_tensor *x, size_t axis)
{
    return kd__tensor_alive(x) && axis < x->rank ? x->stride[axis] : 0;
}

size_t kd_tensor_count(const kd_tensor *x) { return kd__tensor_alive(x) ? x->count : 0; }

int32_t kd_tensor_contiguous(const kd_tensor *x) { return kd__tensor_alive(x) && kd__tensor_contiguous(x); }

void *kd_tensor_data(const kd_tensor *x) { return kd__tensor_check(x, __func__, "x") == KD_OK ? x->data : NULL; }

float *kd_tensor_f32(const kd_tensor *x)
{
    if (kd__tensor_check(x, __func__, "x") != KD_OK) return NULL;
    if (x->dtype != KD_F32) {
        kd__fail(KD_ERR_DTYPE, "%s: x is %s, not f32", __func__, kd_dtype_name(x->dtype));
        return NULL;
    }
    return x->data;
}

double kd_tensor_item(const kd_tensor *x)
{
    const size_t origin[KD_MAX_RANK] = { 0 };
    double value;
    if (kd__tensor_check(x, __func__, "x") != KD_OK) return NAN;
    if (x->count != 1) {
        kd__fail(KD_ERR_SHAPE, "%s: x %S has %zu elements, not one", __func__, (size_t)x->rank, x->shape, x->count);
        return NAN;
    }
    return kd_tensor_get(x, origin, &value) == KD_OK ? value : NAN;
}
