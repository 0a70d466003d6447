/* op_shape.c - the same numbers in another shape: contiguous, reshape, flatten, permute, slice, concat, pad, detach.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

/* dx (=|+=) dy */
static void pass(kd_tape *tape, kd_tensor *x, kd_tensor *y)
{
    const ptrdiff_t one = 1;
    bool accumulate;
    float *dx;
    if (kd__grad_take(tape, x, y) || !(dx = kd__grad_open(tape, x, &accumulate))) return;
    if (accumulate) kd__strided_add(tape->ctx, 1, &y->count, dx, &one, kd__grad_out(tape, y), &one);
    else kd__strided_copy(tape->ctx, sizeof *dx, 1, &y->count, dx, &one, kd__grad_out(tape, y), &one);
}

/* How the ops of this file end: their backward reads no data. */
static kd_tensor *moved(kd__op_scope *op)
{
    op->unread_in = op->unread_out = UINT16_MAX;
    return kd__op_end(op);
}

/* ---- contiguous: y[i] = x[i], any strides of x ----------------------------------------------------------- */
kd_tensor *kd__contiguous(kd_tape *tape, kd_tensor *x)
{
    if (kd__tensor_contiguous(x)) return x;
    /* Not a call of the user's: it takes its number from the op it works for. */
    kd__op_scope op = { .tape = tape, .id = KD__OP_contiguous, .name = tape->op_name, .number = tape->op_number,
                        .outer_name = tape->op_name, .outer_number = tape->op_number, .in = { x }, .in_count = 1 };
    op.recording = tape->mode != KD_TAPE_INFER && kd__wants_grad(tape, x);
    kd_tensor *y = kd__tape_new(tape, x->dtype, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    kd__tensor_gather(x, y->data);
    op.out[op.out_count++] = y;
    return moved(&op);
}

void kd__backward_contiguous(kd_tape *tape, kd__node *node)
{
    pass(tape, node->in[0], node->out[0]);
}

/* ---- reshape, flatten: y shares x's memory ----------------------------------------------------------------- */
kd_tensor *kd_reshape(kd_tape *tape, kd_tensor *x, size_t rank, const size_t *shape)
{
    kd__op_scope op;
    size_t sizes[KD_MAX_RANK];
    if (!kd__op_begin(&op, tape, KD__OP_reshape, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    kd_status status = kd__shape_infer(__func__, op.in[0]->count, rank, shape, sizes);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    kd__op_output_view(&op, op.in[0], 0, rank, sizes);
    return moved(&op);
}

kd_tensor *kd_flatten(kd_tape *tape, kd_tensor *x)
{
    kd__op_scope op;
    if (!kd__op_begin_as(&op, tape, KD__OP_reshape, __func__, (kd_tensor *[]){ x }, 1, 0, 0)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x [] has no axis to keep");
    size_t sizes[2] = { x->shape[0] };
    if (!kd__shape_count(x->rank - 1u, x->shape + 1, &sizes[1]))
        return kd__op_fail(&op, KD_ERR_OVERFLOW, "x %S: the sizes of a row do not fit", (size_t)x->rank, x->shape);
    kd__op_output_view(&op, x, 0, 2, sizes);
    return moved(&op);
}

void kd__backward_reshape(kd_tape *tape, kd__node *node)
{
    pass(tape, node->in[0], node->out[0]);
}

/* ---- permute: y[i_0, i_1, ..] = x[..], axis k of y is axis perm[k] of x ------------------------------------------- */
typedef struct order { size_t perm[KD_MAX_RANK]; } order;

static void permuted(const kd_tensor *x, const size_t *perm, ptrdiff_t *stride)
{
    for (size_t i = 0; i < x->rank; i++) stride[i] = x->stride[perm[i]];
}

kd_tensor *kd_permute(kd_tape *tape, kd_tensor *x, const size_t *perm)
{
    kd__op_scope op;
    size_t shape[KD_MAX_RANK];
    ptrdiff_t stride[KD_MAX_RANK];
    if (!kd__op_begin(&op, tape, KD__OP_permute, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank && !perm) return kd__op_fail(&op, KD_ERR_ARG, "perm is NULL");
    kd_status status = kd__axes_check(__func__, x->rank, perm);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    for (size_t i = 0; i < x->rank; i++) shape[i] = x->shape[perm[i]];
    permuted(x, perm, stride);
    kd_tensor *y = kd__op_output(&op, x->rank, shape);
    if (y) kd__strided_copy(tape->ctx, sizeof(float), x->rank, shape, y->data, y->stride, x->data, stride);
    if (y && op.recording) {
        order *saved = kd__op_save(&op, sizeof *saved);
        if (saved && x->rank) memcpy(saved->perm, perm, x->rank * sizeof *perm);
    }
    return moved(&op);
}

void kd__backward_permute(kd_tape *tape, kd__node *node)
{
    const order *saved = node->saved;
    const kd_tensor *x = node->in[0], *y = node->out[0];
    ptrdiff_t stride[KD_MAX_RANK];
    bool accumulate;
    float *dx = kd__grad_open(tape, node->in[0], &accumulate);
    if (!dx) return;
    permuted(x, saved->perm, stride);
    if (accumulate) kd__strided_add(tape->ctx, x->rank, y->shape, dx, stride, kd__grad_out(tape, y), y->stride);
    else kd__strided_copy(tape->ctx, sizeof *dx, x->rank, y->shape, dx, stride, kd__grad_out(tape, y), y->stride);
}

/* ---- regions: slice, concat and pad place one tensor inside another ------------------------------------------------ */
typedef struct region { size_t axis, before[KD_MAX_RANK]; } region;

static ptrdiff_t region_offset(const kd_tensor *outer, const size_t *before)
{
    ptrdiff_t offset = 0;
    for (size_t i = 0; i < outer->rank; i++) offset += (ptrdiff_t)before[i] * outer->stride[i];
    return offset;
}

/* x lies in y at `before`: dx (=|+=) that part of dy. */
static void take_region(kd_tape *tape, kd_tensor *x, const kd_tensor *y, const size_t *before)
{
    bool accumulate;
    float *dx = kd__grad_open(tape, x, &accumulate);
    if (!dx || x->count == 0) return;
    const float *dy = kd__grad_out(tape, y) + region_offset(y, before);
    if (accumulate) kd__strided_add(tape->ctx, x->rank, x->shape, dx, x->stride, dy, y->stride);
    else kd__strided_copy(tape->ctx, sizeof *dx, x->rank, x->shape, dx, x->stride, dy, y->stride);
}

/* ---- slice: y = x[.., begin:end, ..]; shares x's memory when that part of it is contiguous ---------------------------- */
kd_tensor *kd_slice(kd_tape *tape, kd_tensor *x, size_t axis, size_t begin, size_t end)
{
    kd__op_scope op;
    size_t shape[KD_MAX_RANK], outer;
    if (!kd__op_begin(&op, tape, KD__OP_slice, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    if (axis >= x->rank) return kd__op_fail(&op, KD_ERR_ARG, "axis %zu of x %S", axis, (size_t)x->rank, x->shape);
    if (begin > end || end > x->shape[axis])
        return kd__op_fail(&op, KD_ERR_ARG, "[%zu, %zu) of axis %zu of x %S", begin, end, axis, (size_t)x->rank, x->shape);
    memcpy(shape, x->shape, sizeof shape);
    shape[axis] = end - begin;
    const size_t offset = x->count && begin < end ? begin * (size_t)x->stride[axis] : 0;
    const bool shares = x->count == 0 || (kd__shape_count(axis, x->shape, &outer) && outer == 1);
    kd_tensor *y = shares ? kd__op_output_view(&op, x, offset, x->rank, shape) : kd__op_output(&op, x->rank, shape);
    if (y && !shares)
        kd__strided_copy(tape->ctx, sizeof(float), x->rank, shape, y->data, y->stride, (float *)x->data + offset, x->stride);
    if (y && op.recording) {
        region *saved = kd__op_save(&op, sizeof *saved);
        if (saved) saved->before[axis] = begin;
    }
    return moved(&op);
}

void kd__backward_slice(kd_tape *tape, kd__node *node)
{
    const region *saved = node->saved;
    const kd_tensor *x = node->in[0], *y = node->out[0];
    bool accumulate;
    float *dx = kd__grad_open(tape, node->in[0], &accumulate);
    if (!dx) return;
    if (!accumulate && y->count < x->count) memset(dx, 0, x->count * sizeof *dx);
    float *part = dx + (y->count ? region_offset(x, saved->before) : 0);
    if (accumulate) kd__strided_add(tape->ctx, x->rank, y->shape, part, x->stride, kd__grad_out(tape, y), y->stride);
    else kd__strided_copy(tape->ctx, sizeof *dx, x->rank, y->shape, part, x->stride, kd__grad_out(tape, y), y->stride);
}

/* ---- concat: parts one behind the other along an axis ------------------------------------------------------------------ */
enum { MAX_PARTS = 16 };

/* More parts than an op has inputs: sixteen at a time, then the results. */
static kd_tensor *concat_many(kd_tape *tape, kd_tensor *const *parts, size_t count, size_t axis)
{
    const size_t groups = (count + MAX_PARTS - 1) / MAX_PARTS;
    kd_tensor **joined = kd__tape_alloc(tape, groups * sizeof *joined);
    if (!joined) return kd__poison(tape);
    for (size_t g = 0; g < groups; g++)
        joined[g] = kd_concat(tape, parts + g * MAX_PARTS, KD_MIN(count - g * MAX_PARTS, (size_t)MAX_PARTS), axis);
    kd_tensor *y = kd_concat(tape, joined, groups, axis);
    for (size_t g = 0; g < groups; g++) kd__tape_release(tape, joined[g]);
    return y;
}

kd_tensor *kd_concat(kd_tape *tape, kd_tensor *const *parts, size_t count, size_t axis)
{
    kd__op_scope op;
    if (kd__tape_ok(tape) && parts && count > MAX_PARTS) return concat_many(tape, parts, count, axis);
    if (!kd__op_begin(&op, tape, KD__OP_concat, parts, count)) return kd__poison(tape);
    if (count == 0) return kd__op_fail(&op, KD_ERR_ARG, "no parts");
    const kd_tensor *first = op.in[0];
    const size_t rank = first->rank;
    if (axis >= rank) return kd__op_fail(&op, KD_ERR_ARG, "axis %zu of part 1 %S", axis, rank, first->shape);
    size_t shape[KD_MAX_RANK], before[KD_MAX_RANK] = { 0 };
    memcpy(shape, first->shape, sizeof shape);
    for (size_t k = 1; k < count; k++) {
        const kd_tensor *part = op.in[k];
        bool fits = part->rank == rank;
        for (size_t i = 0; fits && i < rank; i++) fits = i == axis || part->shape[i] == shape[i];
        if (!fits)
            return kd__op_fail(&op, KD_ERR_SHAPE, "part %zu %S does not follow part 1 %S along axis %zu", k + 1,
                               (size_t)part->rank, part->shape, rank, first->shape, axis);
        if (!kd__add(shape[axis], part->shape[axis], &shape[axis]))
            return kd__op_fail(&op, KD_ERR_OVERFLOW, "the sizes along axis %zu do not fit", axis);
    }
    kd_tensor *y = kd__op_output(&op, rank, shape);
    for (size_t k = 0; y && k < count; k++) {
        const kd_tensor *part = op.in[k];
        if (part->count)
            kd__strided_copy(tape->ctx, sizeof(float), rank, part->shape, (float *)y->data + region_offset(y, before), y->stride,
                             part->data, part->stride);
        before[axis] += part->shape[axis];
    }
    if (y && op.recording) {
        region *saved = kd__op_save(&op, sizeof *saved);
        if (saved) saved->axis = axis;
    }
    return moved(&op);
}

void kd__backward_concat(kd_tape *tape, kd__node *node)
{
    const region *saved = node->saved;
    size_t before[KD_MAX_RANK] = { 0 };
    for (size_t k = 0; k < node->in_count; k++) {
        take_region(tape, node->in[k], node->out[0], before);
        before[saved->axis] += node->in[k]->shape[saved->axis];
    }
}

/* ---- pad: x with `before` and `after` entries of `value` around it on each axis ----------------------------------- */
typedef struct fill { const kd__kernels *kernels; float *out, value; } fill;

static void fill_range(size_t begin, size_t end, void *arg)
{
    const fill *f = arg;
    f->kernels->fill_f32(f->out + begin, end - begin, f->value);
}

kd_tensor *kd_pad(kd_tape *tape, kd_tensor *x, const size_t *before, const size_t *after, float value)
{
    kd__op_scope op;
    size_t shape[KD_MAX_RANK], front[KD_MAX_RANK] = { 0 };
    if (!kd__op_begin(&op, tape, KD__OP_pad, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    for (size_t i = 0; i < x->rank; i++) {
        front[i] = before ? before[i] : 0;
        if (!kd__add(x->shape[i], front[i], &shape[i]) || !kd__add(shape[i], after ? after[i] : 0, &shape[i]))
            return kd__op_fail(&op, KD_ERR_OVERFLOW, "axis %zu of x %S: the padded size does not fit", i, (size_t)x->rank,
                               x->shape);
    }
    kd_tensor *y = kd__op_output(&op, x->rank, shape);
    if (y && y->count > x->count) {
        fill f = { tape->ctx->kernels, y->data, value };
        kd__parallel_range(tape->ctx, y->count, 65536, fill_range, &f);
    }
    if (y && x->count)
        kd__strided_copy(tape->ctx, sizeof(float), x->rank, x->shape, (float *)y->data + region_offset(y, front), y->stride,
                         x->data, x->stride);
    if (y && op.recording) {
        region *saved = kd__op_save(&op, sizeof *saved);
        if (saved) memcpy(saved->before, front, sizeof front);
    }
    return moved(&op);
}

void kd__backward_pad(kd_tape *tape, kd__node *node)
{
    const region *saved = node->saved;
    take_region(tape, node->in[0], node->out[0], saved->before);
}

/* ---- detach: x's memory as a constant --------------------------------------------------------------------------- */
kd_tensor *kd_detach(kd_tape *tape, kd_tensor *x)
{
    kd__op_scope op;
    if (!kd__op_begin_as(&op, tape, KD__OP_reshape, __func__, (kd_tensor *[]){ x }, 1, 0, 0)) return kd__poison(tape);
    op.recording = false;
    kd__op_output_view(&op, op.in[0], 0, op.in[0]->rank, op.in[0]->shape);
    return moved(&op);
}
