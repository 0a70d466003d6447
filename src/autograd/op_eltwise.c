/* op_eltwise.c - elementwise arithmetic.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"
#include "autograd/eltwise.h"
#include <math.h>

/* ---- one operand ---------------------------------------------------------------------------------------- */

typedef struct unary_job {
    const kd__kernels *kernels;
    uint32_t f;
    float a, b;
    const float *in, *dy;
    float *out;
    bool accumulate;
} unary_job;

static void unary_task(size_t begin, size_t end, void *arg)
{
    const unary_job *job = arg;
    job->kernels->unary_f32(job->f, job->out + begin, job->in + begin, end - begin, job->a, job->b);
}

static void unary_backward_task(size_t begin, size_t end, void *arg)
{
    const unary_job *job = arg;
    job->kernels->unary_backward_f32(job->f, job->out + begin, job->dy + begin, job->in ? job->in + begin : NULL, end - begin,
                                     job->a, job->b, job->accumulate);
}

kd_tensor *kd__unary(kd_tape *tape, kd__op_id id, uint32_t f, kd_tensor *x)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, id, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    return kd__unary_run(&op, f, 0.0f, 0.0f);
}

kd_tensor *kd__unary_run(kd__op_scope *op, uint32_t f, float a, float b)
{
    const kd_tensor *x = op->in[0];
    kd_tensor *y = kd__op_output(op, x->rank, x->shape);
    if (!y) return kd__poison(op->tape);
    unary_job job = { .kernels = op->tape->ctx->kernels, .f = f, .a = a, .b = b, .in = x->data, .out = y->data };
    kd__parallel_range(op->tape->ctx, x->count, KD__GRAIN, unary_task, &job);
    const uint32_t needs = kd__unary_saves(f);
    op->unread_in = needs != KD_UNARY_SAVES_IN;
    op->unread_out = needs != KD_UNARY_SAVES_OUT;
    if (op->recording && (a != 0.0f || b != 0.0f)) {
        float *saved = kd__op_save(op, 2 * sizeof *saved);
        if (!saved) return kd__poison(op->tape);
        saved[0] = a;
        saved[1] = b;
    }
    return kd__op_end(op);
}

void kd__unary_backward(kd_tape *tape, kd__node *node, uint32_t f)
{
    static const float none[2] = { 0.0f, 0.0f };
    const float *saved = node->saved ? node->saved : none;
    kd_tensor *x = node->in[0], *y = node->out[0];
    uint32_t needs = kd__unary_saves(f);
    unary_job job = { .kernels = tape->ctx->kernels, .f = f, .a = saved[0], .b = saved[1], .dy = kd__grad_out(tape, y),
                      .in = needs == KD_UNARY_SAVES_IN ? x->data : needs == KD_UNARY_SAVES_OUT ? y->data : NULL };
    job.out = kd__grad_take(tape, x, y);
    if (job.out) job.dy = job.out;
    else if (!(job.out = kd__grad_open(tape, x, &job.accumulate))) return;
    kd__parallel_range(tape->ctx, x->count, KD__GRAIN, unary_backward_task, &job);
}

/* y = max(0, .) */
const float *kd__relu_undo(kd_tape *tape, kd_tensor *y)
{
    float *g = kd__grad_own(tape, y);
    unary_job job = { .kernels = tape->ctx->kernels, .f = KD_UNARY_RELU, .dy = g, .in = y->data, .out = g };
    if (g) kd__parallel_range(tape->ctx, y->count, KD__GRAIN, unary_backward_task, &job);
    return g;
}

void kd__add_into(kd_tape *tape, kd_tensor *x, const float *g)
{
    unary_job job = { .kernels = tape->ctx->kernels, .f = KD_UNARY_SCALE_ADD, .a = 1.0f, .dy = g };
    if ((job.out = kd__grad_open(tape, x, &job.accumulate)) != NULL)
        kd__parallel_range(tape->ctx, x->count, KD__GRAIN, unary_backward_task, &job);
}

kd_tensor *kd_scale(kd_tape *tape, kd_tensor *x, float scale, float shift)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_scale, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    if (!isfinite(scale) || !isfinite(shift))
        return kd__op_fail(&op, KD_ERR_ARG, "scale %g, shift %g: want finite numbers", (double)scale, (double)shift);
    return kd__unary_run(&op, KD_UNARY_SCALE_ADD, scale, shift);
}
/* y = scale x + shift */
void kd__backward_scale(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_SCALE_ADD); }

kd_tensor *kd_neg(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_neg, KD_UNARY_NEG, x); }
/* y = -x */
void kd__backward_neg(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_NEG); }

kd_tensor *kd_exp(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_exp, KD_UNARY_EXP, x); }
/* y = e^x */
void kd__backward_exp(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_EXP); }

kd_tensor *kd_log(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_log, KD_UNARY_LOG, x); }
/* y = log x */
void kd__backward_log(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_LOG); }

kd_tensor *kd_sqrt(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_sqrt, KD_UNARY_SQRT, x); }
/* y = sqrt x */
void kd__backward_sqrt(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_SQRT); }

kd_tensor *kd_square(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_square, KD_UNARY_SQUARE, x); }
/* y = x^2 */
void kd__backward_square(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_SQUARE); }

kd_tensor *kd_abs(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_abs, KD_UNARY_ABS, x); }
/* y = |x| */
void kd__backward_abs(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_ABS); }

kd_tensor *kd_clamp(kd_tape *tape, kd_tensor *x, float lo, float hi)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_clamp, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    if (!(lo <= hi)) return kd__op_fail(&op, KD_ERR_ARG, "lo %g, hi %g: want lo <= hi", (double)lo, (double)hi);
    return kd__unary_run(&op, KD_UNARY_CLAMP, lo, hi);
}
/* y = min(max(x, lo), hi) */
void kd__backward_clamp(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_CLAMP); }

/* ---- two operands ------------------------------------------------------------------------------------------ */

static kd_tensor *binary(kd_tape *tape, kd__op_id id, uint32_t f, kd_tensor *a, kd_tensor *b)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, id, (kd_tensor *[]){ a, b }, 2)) return kd__poison(tape);
    a = op.in[0];
    b = op.in[1];
    kd__broadcast plan;
    size_t rank, shape[KD_MAX_RANK];
    if (!kd__broadcast_plan(&plan, a, b, &rank, shape))
        return kd__op_fail(&op, KD_ERR_SHAPE, "a %S and b %S do not broadcast", (size_t)a->rank, a->shape, (size_t)b->rank,
                           b->shape);
    kd_tensor *y = kd__op_output(&op, rank, shape);
    if (!y) return kd__poison(tape);
    if (op.recording) {
        kd__broadcast *saved = kd__op_save(&op, sizeof plan);
        if (!saved) return kd__poison(tape);
        *saved = plan;
    }
    kd__binary(tape->ctx, &plan, f, a->data, b->data, y->data);
    op.unread_in = f == KD_BINARY_ADD || f == KD_BINARY_SUB ? 3 : 0;
    op.unread_out = 1;
    return kd__op_end(&op);
}

static void binary_backward(kd_tape *tape, kd__node *node, uint32_t f)
{
    const kd__broadcast *plan = node->saved;
    const kd_tensor *a = node->in[0], *b = node->in[1];
    for (int which = 0; which < 2; which++) {
        kd_tensor *x = node->in[which], *y = node->out[0];
        const bool last = which == 1 || !kd__wants_grad(tape, b);
        if (f == KD_BINARY_ADD && last && x->count == y->count && kd__grad_take(tape, x, y)) continue;   /* dx is dy */
        bool accumulate;
        float *grad;
        if (!kd__wants_grad(tape, x) || !(grad = kd__grad_open(tape, x, &accumulate))) continue;
        if (plan->count == 0) {
            if (!accumulate && x->count) memset(grad, 0, x->count * sizeof *grad);
            continue;
        }
        const float *dy = kd__grad_out(tape, y);
        /* a sum's operands may be given back by now: the kernel loads what it does not use, so it gets what is as large */
        const bool sum = f == KD_BINARY_ADD || f == KD_BINARY_SUB;
        kd_status status = kd__binary_backward(tape->ctx, plan, f, which, dy, sum ? dy : a->data, sum ? dy : b->data, grad, accumulate);
        if (status != KD_OK) kd__tape_fail(tape, status);
    }
}

kd_tensor *kd_add(kd_tape *tape, kd_tensor *a, kd_tensor *b) { return binary(tape, KD__OP_add, KD_BINARY_ADD, a, b); }
/* y = a + b */
void kd__backward_add(kd_tape *tape, kd__node *node) { binary_backward(tape, node, KD_BINARY_ADD); }

kd_tensor *kd_sub(kd_tape *tape, kd_tensor *a, kd_tensor *b) { return binary(tape, KD__OP_sub, KD_BINARY_SUB, a, b); }
/* y = a - b */
void kd__backward_sub(kd_tape *tape, kd__node *node) { binary_backward(tape, node, KD_BINARY_SUB); }

kd_tensor *kd_mul(kd_tape *tape, kd_tensor *a, kd_tensor *b) { return binary(tape, KD__OP_mul, KD_BINARY_MUL, a, b); }
/* y = a b */
void kd__backward_mul(kd_tape *tape, kd__node *node) { binary_backward(tape, node, KD_BINARY_MUL); }

kd_tensor *kd_div(kd_tape *tape, kd_tensor *a, kd_tensor *b) { return binary(tape, KD__OP_div, KD_BINARY_DIV, a, b); }
/* y = a / b */
void kd__backward_div(kd_tape *tape, kd__node *node) { binary_backward(tape, node, KD_BINARY_DIV); }
