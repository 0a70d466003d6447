/* op_norm_rows.c - layer and L2 normalisation: statistics along rows.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"
#include <math.h>

typedef struct rows_task {
    const kd__kernels *kernels;
    size_t c, chunk;                     /* rows of one task */
    size_t rows;
    const float *x, *y, *dy, *weight, *bias, *mean, *rstd;
    float *out, *mean_out, *rstd_out, *partial;
    float eps;
    bool accumulate, sum_weight, sum_bias;
} rows_task;



/* ---- layer norm -------------------------------------------------------------------------------------- */

static void layer_forward_task(size_t begin, size_t end, void *arg)
{
    const rows_task *t = arg;
    t->kernels->layer_norm_rows_f32(end - begin, t->c, t->x + begin * t->c, t->weight, t->bias, t->eps, t->out + begin * t->c,
                                t->mean_out + begin, t->rstd_out + begin);
}

kd_tensor *kd_layer_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, float eps)
{
    kd__op_scope op;
    if (!kd__op_begin_masks(&op, tape, KD__OP_layer_norm, (kd_tensor *[]){ x, weight, bias }, 3, 6u, 0)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x is a scalar: want [.., features]");
    size_t c = x->shape[x->rank - 1], rows = c ? x->count / c : 0;
    for (size_t i = 1; i <= 2; i++) {
        const kd_tensor *p = op.in[i];
        if (p && (p->rank != 1 || p->shape[0] != c))
            return kd__op_fail(&op, KD_ERR_SHAPE, "%s %S does not fit x %S: want [%zu]", i == 1 ? "weight" : "bias",
                               (size_t)p->rank, p->shape, (size_t)x->rank, x->shape, c);
    }
    if (!(eps >= 0.0f && eps <= 3e38f)) return kd__op_fail(&op, KD_ERR_ARG, "eps %g is not a number >= 0", (double)eps);
    kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    float *scratch = NULL, *stats;
    if (op.recording) stats = kd__op_save(&op, 2 * rows * sizeof(float));
    else stats = scratch = kd__scratch_get(tape->ctx, 2 * rows * sizeof(float));
    if (!stats) return op.recording ? kd__poison(tape) : kd__tape_fail(tape, KD_ERR_NOMEM);
    rows_task t = { .kernels = tape->ctx->kernels, .c = c, .x = x->data, .weight = op.in[1] ? op.in[1]->data : NULL,
                    .bias = op.in[2] ? op.in[2]->data : NULL, .out = y->data, .mean_out = stats, .rstd_out = stats + rows,
                    .eps = eps };
    kd__parallel_range(tape->ctx, rows, kd__row_grain(c), layer_forward_task, &t);
    op.unread_out = 1;
    kd__scratch_put(tape->ctx, scratch);
    return kd__op_end(&op);
}

/* A chunk of rows: dx, and this chunk's share of dweight and dbias. */
static void layer_backward_task(size_t task, void *arg)
{
    const rows_task *t = arg;
    size_t c = t->c, begin = task * t->chunk, n = KD_MIN(t->chunk, t->rows - begin);
    float *share = t->partial ? t->partial + 2 * task * c : NULL;
    if (share) memset(share, 0, 2 * c * sizeof *share);
    t->kernels->layer_norm_backward_rows_f32(n, c, t->dy + begin * c, t->x + begin * c, t->weight, t->mean + begin,
                                             t->rstd + begin, t->out ? t->out + begin * c : NULL, t->accumulate,
                                             t->sum_weight ? share : NULL,
                                             t->sum_bias ? share + c : NULL);
}

/* The chunks' shares added in double, in order. */
static void add_shares(kd_tape *tape, kd_tensor *p, const float *partial, size_t chunks, size_t c)
{
    bool accumulate;
    float *d = kd__grad_open(tape, p, &accumulate);
    if (!d) return;
    for (size_t j = 0; j < c; j++) {
        double sum = 0.0;
        for (size_t k = 0; k < chunks; k++) sum += (double)partial[2 * k * c + j];
        d[j] = (accumulate ? d[j] : 0.0f) + (float)sum;
    }
}

/* y = hat weight + bias, hat = (x - mean) rstd:
 * dx = rstd (g - mean g - hat mean(g hat)) with g = dy weight; dweight = sum dy hat; dbias = sum dy */
void kd__backward_layer_norm(kd_tape *tape, kd__node *node)
{
    kd_tensor *x = node->in[0], *weight = node->in[1], *bias = node->in[2];
    size_t c = x->shape[x->rank - 1], rows = c ? x->count / c : 0;
    size_t chunk = KD_MIN(KD_MAX(65536u / KD_MAX(c, 1u), 64u), 512u), chunks = rows / chunk + (rows % chunk != 0);
    rows_task t = { .kernels = tape->ctx->kernels, .c = c, .chunk = chunk, .rows = rows, .x = x->data,
                    .dy = kd__grad_out(tape, node->out[0]), .weight = weight ? weight->data : NULL, .mean = node->saved,
                    .rstd = (const float *)node->saved + rows, .sum_weight = kd__wants_grad(tape, weight),
                    .sum_bias = kd__wants_grad(tape, bias) };
    if (kd__wants_grad(tape, x) && (t.out = kd__grad_open(tape, x, &t.accumulate)) == NULL) return;
    if (t.sum_weight || t.sum_bias) {
        t.partial = kd__scratch_get(tape->ctx, 2 * chunks * c * sizeof(float));
        if (!t.partial) {
            kd__tape_fail(tape, KD_ERR_NOMEM);
            return;
        }
    }
    kd__parallel(tape->ctx, chunks, layer_backward_task, &t);
    if (t.sum_weight) add_shares(tape, weight, t.partial, chunks, c);
    if (t.sum_bias) add_shares(tape, bias, t.partial + c, chunks, c);
    kd__scratch_put(tape->ctx, t.partial);
}

/* ---- L2 ------------------------------------------------------------------------------------------------ */

static void l2_task(size_t begin, size_t end, void *arg)
{
    const rows_task *t = arg;
    t->kernels->l2_normalize_rows_f32(end - begin, t->c, t->x + begin * t->c, t->eps, t->out + begin * t->c, t->mean_out + begin);
}

/* Saved: eps, then the norm of each row. */
kd_tensor *kd_l2_normalize(kd_tape *tape, kd_tensor *x, float eps)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_l2_normalize, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x is a scalar: want [.., features]");
    if (!(eps > 0.0f && eps <= 3e38f)) return kd__op_fail(&op, KD_ERR_ARG, "eps %g is not a number > 0", (double)eps);
    kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    size_t c = x->shape[x->rank - 1], rows = c ? x->count / c : 0;
    float *scratch = NULL, *saved;
    if (op.recording) saved = kd__op_save(&op, (rows + 1) * sizeof(float));
    else saved = scratch = kd__scratch_get(tape->ctx, (rows + 1) * sizeof(float));
    if (!saved) return op.recording ? kd__poison(tape) : kd__tape_fail(tape, KD_ERR_NOMEM);
    saved[0] = eps;
    rows_task t = { .kernels = tape->ctx->kernels, .c = c, .x = x->data, .out = y->data, .mean_out = saved + 1, .eps = eps };
    kd__parallel_range(tape->ctx, rows, kd__row_grain(c), l2_task, &t);
    op.unread_in = 1;
    kd__scratch_put(tape->ctx, scratch);
    return kd__op_end(&op);
}

static void l2_backward_task(size_t begin, size_t end, void *arg)
{
    const rows_task *t = arg;
    size_t at = begin * t->c;
    t->kernels->l2_normalize_backward_rows_f32(end - begin, t->c, t->dy + at, t->y + at, t->mean + begin, t->eps, t->out + at,
                                           t->accumulate);
}

/* y = x / max(|x|, eps): dx = (dy - y (dy . y)) / |x|, or dy / eps below eps */
void kd__backward_l2_normalize(kd_tape *tape, kd__node *node)
{
    kd_tensor *x = node->in[0], *y = node->out[0];
    const float *saved = node->saved;
    size_t c = x->shape[x->rank - 1], rows = c ? x->count / c : 0;
    rows_task t = { .kernels = tape->ctx->kernels, .c = c, .y = y->data, .dy = kd__grad_out(tape, y), .mean = saved + 1,
                    .eps = saved[0] };
    if (!kd__wants_grad(tape, x) || (t.out = kd__grad_open(tape, x, &t.accumulate)) == NULL) return;
    kd__parallel_range(tape->ctx, rows, kd__row_grain(c), l2_backward_task, &t);
}
