/* op_difference.c - losses of a difference: mse, smooth_l1; and cosine similarity.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"
#include <math.h>

/* ---- mse, smooth L1 ------------------------------------------------------------------------------------ */

typedef struct difference {
    const kd__kernels *kernels;
    float beta, scale;                   /* beta 0: squares */
    const float *a, *b, *dy;
    float *out;
    double *sums;
    size_t count;
    bool accumulate;
} difference;

/* What backward needs: beta, and what one unit of the loss weighs. */
typedef struct difference_saved { float beta, scale; bool each; } difference_saved;

static void each_task(size_t begin, size_t end, void *arg)
{
    const difference *t = arg;
    t->kernels->difference_f32(t->beta, t->a + begin, t->b + begin, end - begin, t->out + begin);
}

static void sum_task(size_t i, void *arg)
{
    const difference *t = arg;
    size_t begin = i * KD__GRAIN;
    t->kernels->difference_sum_f32(t->beta, t->a + begin, t->b + begin, KD_MIN(KD__GRAIN, t->count - begin), &t->sums[i]);
}

static void gradient_task(size_t begin, size_t end, void *arg)
{
    const difference *t = arg;
    t->kernels->difference_backward_f32(t->beta, t->scale, t->dy ? t->dy + begin : NULL, t->a + begin, t->b + begin, end - begin,
                                        t->out + begin, t->accumulate);
}

/* What the sum is divided by; false: not a reduction. */
static bool divisor(uint32_t reduction, const kd_tensor *x, double *out)
{
    switch (reduction) {
    case KD_REDUCE_MEAN_ROWS: *out = x->rank ? (double)x->shape[0] : 1.0; return true;
    case KD_REDUCE_SUM: *out = 1.0; return true;
    case KD_REDUCE_NONE: *out = 1.0; return true;
    case KD_REDUCE_MEAN_ELEMENTS: *out = (double)x->count; return true;
    default: return false;
    }
}

static kd_tensor *difference_loss(kd__op_scope *op, float beta, uint32_t reduction)
{
    const kd_tensor *a = op->in[0], *b = op->in[1];
    kd_context *ctx = op->tape->ctx;
    double by;
    if (!kd__shape_equal(a, b))
        return kd__op_fail(op, KD_ERR_SHAPE, "a %S and b %S differ", (size_t)a->rank, a->shape, (size_t)b->rank, b->shape);
    if (!divisor(reduction, a, &by)) return kd__op_fail(op, KD_ERR_ARG, "reduction %u is not a KD_REDUCE_*", reduction);
    bool each = reduction == KD_REDUCE_NONE;
    kd_tensor *y = kd__op_output(op, each ? a->rank : 0, each ? a->shape : NULL);
    if (!y) return kd__poison(op->tape);
    difference t = { .kernels = ctx->kernels, .beta = beta, .a = a->data, .b = b->data, .out = y->data, .count = a->count };
    if (each) {
        kd__parallel_range(ctx, t.count, KD__GRAIN, each_task, &t);
    } else {
        size_t pieces = t.count / KD__GRAIN + (t.count % KD__GRAIN != 0);
        double total = 0.0;
        t.sums = kd__scratch_get(ctx, pieces * sizeof *t.sums);
        if (!t.sums) return kd__tape_fail(op->tape, KD_ERR_NOMEM);
        kd__parallel(ctx, pieces, sum_task, &t);
        for (size_t i = 0; i < pieces; i++) total += t.sums[i];
        kd__scratch_put(ctx, t.sums);
        *t.out = t.count ? (float)(total / by) : 0.0f;
    }
    if (op->recording) {
        difference_saved *saved = kd__op_save(op, sizeof *saved);
        if (!saved) return kd__poison(op->tape);
        *saved = (difference_saved){ beta, t.count ? (float)(1.0 / by) : 0.0f, each };
    }
    return kd__op_end(op);
}

/* loss = sum f(a - b) / by: da = f'(a - b) dy / by, db = -da, and -f'(d) = f'(-d) */
static void difference_backward(kd_tape *tape, kd__node *node)
{
    const difference_saved *saved = node->saved;
    const float *dy = kd__grad_out(tape, node->out[0]);
    for (int i = 0; i < 2; i++) {
        kd_tensor *x = node->in[i];
        if (!kd__wants_grad(tape, x)) continue;
        difference t = { .kernels = tape->ctx->kernels, .beta = saved->beta, .scale = saved->scale, .a = x->data,
                         .b = node->in[1 - i]->data, .dy = saved->each ? dy : NULL };
        if (!saved->each) t.scale *= dy[0];
        if ((t.out = kd__grad_open(tape, x, &t.accumulate)) == NULL) return;
        kd__parallel_range(tape->ctx, x->count, KD__GRAIN, gradient_task, &t);
    }
}

kd_tensor *kd_mse(kd_tape *tape, kd_tensor *a, kd_tensor *b, uint32_t reduction)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_mse, (kd_tensor *[]){ a, b }, 2)) return kd__poison(tape);
    return difference_loss(&op, 0.0f, reduction);
}
/* f(d) = d^2 */
void kd__backward_mse(kd_tape *tape, kd__node *node) { difference_backward(tape, node); }

kd_tensor *kd_smooth_l1(kd_tape *tape, kd_tensor *a, kd_tensor *b, float beta, uint32_t reduction)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_smooth_l1, (kd_tensor *[]){ a, b }, 2)) return kd__poison(tape);
    if (!(beta > 0.0f && isfinite(beta))) return kd__op_fail(&op, KD_ERR_ARG, "beta %g is not a number > 0", (double)beta);
    return difference_loss(&op, beta, reduction);
}
/* f(d) = |d| < beta ? d^2 / (2 beta) : |d| - beta / 2 */
void kd__backward_smooth_l1(kd_tape *tape, kd__node *node) { difference_backward(tape, node); }

/* ---- cosine similarity ------------------------------------------------------------------------------------ */

typedef struct cosine {
    const kd__kernels *kernels;
    size_t c;
    const float *a, *b, *y, *dy;
    float eps, *out, *a_norm, *b_norm;   /* norms of each row */
    bool accumulate;
} cosine;

static void cosine_task(size_t begin, size_t end, void *arg)
{
    const cosine *t = arg;
    size_t at = begin * t->c;
    t->kernels->cosine_rows_f32(end - begin, t->c, t->a + at, t->b + at, t->eps, t->out + begin, t->a_norm + begin,
                                t->b_norm + begin);
}

static void cosine_backward_task(size_t begin, size_t end, void *arg)
{
    const cosine *t = arg;
    size_t at = begin * t->c;
    t->kernels->cosine_backward_rows_f32(end - begin, t->c, t->dy + begin, t->a + at, t->b + at, t->y + begin,
                                         t->a_norm + begin, t->b_norm + begin, t->eps, t->out + at, t->accumulate);
}

/* Saved: eps, |a| of each row, |b| of each row. */
kd_tensor *kd_cosine_similarity(kd_tape *tape, kd_tensor *a, kd_tensor *b, float eps)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_cosine_similarity, (kd_tensor *[]){ a, b }, 2)) return kd__poison(tape);
    a = op.in[0];
    b = op.in[1];
    if (a->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "a is a scalar: want [.., features]");
    if (!kd__shape_equal(a, b))
        return kd__op_fail(&op, KD_ERR_SHAPE, "a %S and b %S differ", (size_t)a->rank, a->shape, (size_t)b->rank, b->shape);
    if (!(eps > 0.0f && isfinite(eps))) return kd__op_fail(&op, KD_ERR_ARG, "eps %g is not a number > 0", (double)eps);
    kd_tensor *y = kd__op_output(&op, (size_t)a->rank - 1, a->shape);
    if (!y) return kd__poison(tape);
    size_t bytes = (2 * y->count + 1) * sizeof(float);
    float *scratch = NULL, *saved;
    if (op.recording) saved = kd__op_save(&op, bytes);
    else saved = scratch = kd__scratch_get(tape->ctx, bytes);
    if (!saved) return op.recording ? kd__poison(tape) : kd__tape_fail(tape, KD_ERR_NOMEM);
    saved[0] = eps;
    cosine t = { .kernels = tape->ctx->kernels, .c = a->shape[a->rank - 1], .a = a->data, .b = b->data, .eps = eps,
                 .out = y->data, .a_norm = saved + 1, .b_norm = saved + 1 + y->count };
    kd__parallel_range(tape->ctx, y->count, kd__row_grain(t.c), cosine_task, &t);
    kd__scratch_put(tape->ctx, scratch);
    return kd__op_end(&op);
}

/* y = a . b / max(|a| |b|, eps): da = dy (b / |b| - y a / |a|) / |a|, or dy b / eps below eps; db likewise */
void kd__backward_cosine_similarity(kd_tape *tape, kd__node *node)
{
    kd_tensor *y = node->out[0];
    float *saved = node->saved;
    for (int i = 0; i < 2; i++) {
        kd_tensor *x = node->in[i];
        if (!kd__wants_grad(tape, x)) continue;
        cosine t = { .kernels = tape->ctx->kernels, .c = x->shape[x->rank - 1], .a = x->data, .b = node->in[1 - i]->data,
                     .y = y->data, .dy = kd__grad_out(tape, y), .eps = saved[0] };
        t.a_norm = saved + 1 + (i == 0 ? 0 : y->count);
        t.b_norm = saved + 1 + (i == 0 ? y->count : 0);
        if ((t.out = kd__grad_open(tape, x, &t.accumulate)) == NULL) return;
        kd__parallel_range(tape->ctx, y->count, kd__row_grain(t.c), cosine_backward_task, &t);
    }
}
