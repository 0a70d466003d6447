/* op_reduce.c - sum, mean and maximum over axes.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"
#include <math.h>

typedef struct reduce_shape {
    uint32_t axes;                       /* as bits, all of them named */
    size_t   rank, shape[KD_MAX_RANK];   /* of the result */
    size_t   kept[KD_MAX_RANK];          /* x's shape with 1 for the reduced axes */
    size_t   each;                       /* elements that become one */
} reduce_shape;

static bool plan_reduction(kd__op_scope *op, uint32_t axes, int32_t keep, reduce_shape *s)
{
    const kd_tensor *x = op->in[0];
    uint32_t all = (1u << x->rank) - 1u;
    if (axes & ~all) {
        kd__op_fail(op, KD_ERR_ARG, "axes 0x%x name an axis that x %S does not have", axes, (size_t)x->rank, x->shape);
        return false;
    }
    *s = (reduce_shape){ .axes = axes ? axes : all, .each = 1 };
    for (size_t i = 0; i < x->rank; i++) {
        bool reduced = s->axes >> i & 1u;
        s->kept[i] = reduced ? 1 : x->shape[i];
        if (reduced) s->each *= x->shape[i];
        if (!reduced || keep) s->shape[s->rank++] = s->kept[i];
    }
    return true;
}

/* ---- sum, mean ------------------------------------------------------------------------------------------- */

typedef struct sum_saved { uint32_t axes; float scale; } sum_saved;

static kd_tensor *sum(kd__op_scope *op, uint32_t axes, int32_t keep, bool mean)
{
    const kd_tensor *x = op->in[0];
    reduce_shape s;
    if (!plan_reduction(op, axes, keep, &s)) return kd__poison(op->tape);
    kd_tensor *y = kd__op_output(op, s.rank, s.shape);
    if (!y) return kd__poison(op->tape);
    double scale = mean ? 1.0 / (double)s.each : 1.0;
    if (mean && s.each == 0) {
        op->tape->ctx->kernels->fill_f32(y->data, y->count, NAN);
    } else {
        kd_status status = kd__reduce_sum(op->tape->ctx, x->rank, x->shape, s.axes, x->data, scale, y->data, false);
        if (status != KD_OK) return kd__tape_fail(op->tape, status);
    }
    if (op->recording) {
        sum_saved *saved = kd__op_save(op, sizeof *saved);
        if (!saved) return kd__poison(op->tape);
        *saved = (sum_saved){ s.axes, (float)scale };
    }
    return kd__op_end(op);
}

/* dx = scale dy, repeated along the axes that were summed */
static void sum_backward(kd_tape *tape, kd__node *node)
{
    const sum_saved *saved = node->saved;
    kd_context *ctx = tape->ctx;
    kd_tensor *x = node->in[0], *y = node->out[0], row;
    const float *dy = kd__grad_out(tape, y);
    bool accumulate;
    float *dx, *scaled = NULL;
    if (!kd__wants_grad(tape, x) || !(dx = kd__grad_open(tape, x, &accumulate)) || x->count == 0) return;
    size_t kept[KD_MAX_RANK], rank, shape[KD_MAX_RANK];
    for (size_t i = 0; i < x->rank; i++) kept[i] = saved->axes >> i & 1u ? 1 : x->shape[i];
    row = *y;
    row.rank = x->rank;
    memcpy(row.shape, kept, sizeof kept);
    kd__broadcast plan;
    kd__broadcast_plan(&plan, x, &row, &rank, shape);
    if (!accumulate) {
        memset(plan.step[0], 0, sizeof plan.step[0]);   /* the first operand is one number */
        kd__binary(ctx, &plan, KD_BINARY_MUL, &saved->scale, dy, dx);
        return;
    }
    if (saved->scale != 1.0f) {
        scaled = kd__scratch_get(ctx, y->count * sizeof *scaled);
        if (!scaled) {
            kd__tape_fail(tape, KD_ERR_NOMEM);
            return;
        }
        ctx->kernels->unary_f32(KD_UNARY_SCALE_ADD, scaled, dy, y->count, saved->scale, 0.0f);
        dy = scaled;
    }
    kd__binary(ctx, &plan, KD_BINARY_ADD, dx, dy, dx);
    kd__scratch_put(ctx, scaled);
}

kd_tensor *kd_sum(kd_tape *tape, kd_tensor *x, uint32_t axes, int32_t keep)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_sum, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    return sum(&op, axes, keep, false);
}
/* y = sum x */
void kd__backward_sum(kd_tape *tape, kd__node *node) { sum_backward(tape, node); }

kd_tensor *kd_mean(kd_tape *tape, kd_tensor *x, uint32_t axes, int32_t keep)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_mean, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    return sum(&op, axes, keep, true);
}
/* y = sum x / count */
void kd__backward_mean(kd_tape *tape, kd__node *node) { sum_backward(tape, node); }

/* ---- maximum ------------------------------------------------------------------------------------------------ */

typedef struct max_saved { uint32_t axes; int32_t arg[]; } max_saved;   /* arg: index among the reduced elements */

typedef struct max_job {
    const kd__kernels *kernels;
    const float *x;
    float *y;
    int32_t *arg;
    size_t n;
} max_job;

static void max_task(size_t begin, size_t end, void *arg)
{
    const max_job *job = arg;
    job->kernels->row_max_f32(job->y + begin, job->arg ? job->arg + begin : NULL, job->x + begin * job->n, end - begin, job->n,
                              job->n);
}

/* x with its reduced axes last. */
static kd_tensor reduced_last(const kd_tensor *x, uint32_t axes, bool *moved)
{
    kd_tensor view = *x;
    size_t at = 0;
    *moved = false;
    for (uint32_t reduced = 0; reduced <= 1; reduced++)
        for (size_t i = 0; i < x->rank; i++) {
            if ((axes >> i & 1u) != reduced) continue;
            *moved |= at != i && x->shape[i] != 1;
            view.shape[at] = x->shape[i];
            view.stride[at++] = x->stride[i];
        }
    return view;
}

kd_tensor *kd_max(kd_tape *tape, kd_tensor *x, uint32_t axes, int32_t keep)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_max, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    reduce_shape s;
    if (!plan_reduction(&op, axes, keep, &s)) return kd__poison(tape);
    if (s.each == 0)
        return kd__op_fail(&op, KD_ERR_SHAPE, "x %S has an empty axis: nothing has no maximum", (size_t)x->rank, x->shape);
    if (s.each > INT32_MAX) return kd__op_fail(&op, KD_ERR_LIMIT, "%zu elements over the axes: at most 2^31 - 1", s.each);
    kd_tensor *y = kd__op_output(&op, s.rank, s.shape);
    if (!y) return kd__poison(tape);
    max_saved *saved = NULL;
    if (op.recording) {
        if (!(saved = kd__op_save(&op, sizeof *saved + y->count * sizeof *saved->arg))) return kd__poison(tape);
        saved->axes = s.axes;
    }
    bool moved;
    kd_tensor view = reduced_last(x, s.axes, &moved);
    float *copy = NULL;
    if (moved) {
        if (!(copy = kd__scratch_get(tape->ctx, x->count * sizeof *copy))) return kd__tape_fail(tape, KD_ERR_NOMEM);
        kd__tensor_gather(&view, copy);
    }
    max_job job = { .kernels = tape->ctx->kernels, .x = moved ? copy : x->data, .y = y->data, .arg = saved ? saved->arg : NULL,
                    .n = s.each };
    kd__parallel_range(tape->ctx, y->count, kd__row_grain(s.each), max_task, &job);
    kd__scratch_put(tape->ctx, copy);
    return kd__op_end(&op);
}

/* y = x[arg]: dx[arg] = dy, 0 elsewhere */
void kd__backward_max(kd_tape *tape, kd__node *node)
{
    const max_saved *saved = node->saved;
    kd_tensor *x = node->in[0], *y = node->out[0];
    const float *dy = kd__grad_out(tape, y);
    bool accumulate, moved;
    float *dx;
    if (!kd__wants_grad(tape, x) || !(dx = kd__grad_open(tape, x, &accumulate))) return;
    if (!accumulate && x->count) memset(dx, 0, x->count * sizeof *dx);
    kd_tensor view = reduced_last(x, saved->axes, &moved);
    size_t reduced = (size_t)__builtin_popcount(saved->axes), kept = x->rank - reduced;
    for (size_t o = 0; o < y->count; o++) {
        size_t at = 0, rest = (size_t)saved->arg[o];
        for (size_t i = x->rank; i-- > 0;) {
            if (i + 1 == kept) rest = o;   /* the kept axes follow */
            at += rest % view.shape[i] * (size_t)view.stride[i];
            rest /= view.shape[i];
        }
        dx[at] += dy[o];
    }
}
