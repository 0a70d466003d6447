/* view.c - other looks at the same elements.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"

/* A view begins as a copy of x's header.  It carries x's tape, so that it goes stale with x; for ops it is a constant. */
static kd_status view_begin(kd_tensor *view, kd_tensor **out, const kd_tensor *x, const char *function)
{
    if (!out) return kd__fail(KD_ERR_ARG, "%s: out is NULL", function);
    *out = NULL;
    KD_TRY(kd__tensor_check(x, function, "x"));
    *view = *x;
    view->owner = KD__OWNER_CALLER;
    view->requires_grad = view->retain_grad = view->is_parameter = false;
    view->grad = NULL;
    view->block = view->grad_block = KD__NO_BLOCK;
    view->maker = view->readers = 0;
    return KD_OK;
}

static kd_status view_end(const kd_tensor *view, kd_tensor **out, const char *function)
{
    kd_tensor *v = kd__alloc_raw(view->ctx, sizeof *v);
    if (!v) return kd__fail(KD_ERR_NOMEM, "%s: out of memory", function);
    *v = *view;
    v->ctx = kd__context_retain(view->ctx);
    *out = v;
    return KD_OK;
}

kd_status kd_tensor_view(kd_tensor **out, const kd_tensor *x)
{
    kd_tensor view;
    KD_TRY(view_begin(&view, out, x, __func__));
    return view_end(&view, out, __func__);
}

kd_status kd_tensor_reshape(kd_tensor **out, const kd_tensor *x, size_t rank, const size_t *shape)
{
    kd_tensor view;
    KD_TRY(view_begin(&view, out, x, __func__));
    KD_TRY(kd__shape_infer(__func__, x->count, rank, shape, view.shape));
    if (!kd__tensor_contiguous(x))
        return kd__fail(KD_ERR_ARG, "%s: x %S is not contiguous: kd_tensor_clone it first", __func__, (size_t)x->rank, x->shape);
    view.rank = (uint8_t)rank;
    if (x->count) kd__strides_contiguous(rank, view.shape, view.stride);
    return view_end(&view, out, __func__);
}

kd_status kd_tensor_slice(kd_tensor **out, const kd_tensor *x, size_t axis, size_t begin, size_t end, size_t step)
{
    kd_tensor view;
    KD_TRY(view_begin(&view, out, x, __func__));
    if (axis >= x->rank) return kd__fail(KD_ERR_ARG, "%s: axis %zu of x %S", __func__, axis, (size_t)x->rank, x->shape);
    if (begin > end || end > x->shape[axis])
        return kd__fail(KD_ERR_ARG, "%s: [%zu, %zu) of axis %zu of x %S", __func__, begin, end, axis, (size_t)x->rank, x->shape);
    if (step == 0) return kd__fail(KD_ERR_ARG, "%s: step is 0", __func__);
    size_t length = (end - begin) / step + ((end - begin) % step != 0);
    view.shape[axis] = length;
    (void)kd__shape_count(view.rank, view.shape, &view.count);   /* no more than x's */
    if (view.count) {
        view.data = (unsigned char *)x->data + (ptrdiff_t)begin * x->stride[axis] * (ptrdiff_t)kd_dtype_size(x->dtype);
        /* The stride over a single element is never used, and its product may not fit. */
        if (length > 1) view.stride[axis] = x->stride[axis] * (ptrdiff_t)step;
    }
    return view_end(&view, out, __func__);
}

kd_status kd_tensor_transpose(kd_tensor **out, const kd_tensor *x, const size_t *perm)
{
    kd_tensor view;
    KD_TRY(view_begin(&view, out, x, __func__));
    if (perm) KD_TRY(kd__axes_check(__func__, x->rank, perm));
    for (size_t i = 0; i < x->rank; i++) {
        size_t axis = perm ? perm[i] : x->rank - 1 - i;
        view.shape[i] = x->shape[axis];
        view.stride[i] = x->stride[axis];
    }
    return view_end(&view, out, __func__);
}
