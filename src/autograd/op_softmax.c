/* op_softmax.c - softmax and log-softmax over the last axis.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"
#include <math.h>

typedef struct softmax_job {
    const kd__kernels *kernels;
    size_t n;
    float t;
    int logarithm;
    const float *in, *y;
    float *out;
    bool accumulate;
} softmax_job;

static void softmax_task(size_t begin, size_t end, void *arg)
{
    const softmax_job *job = arg;
    size_t at = begin * job->n;
    job->kernels->softmax_f32(job->out + at, job->n, job->in + at, job->n, end - begin, job->n, job->t, job->logarithm);
}

static void softmax_backward_task(size_t begin, size_t end, void *arg)
{
    const softmax_job *job = arg;
    size_t at = begin * job->n;
    job->kernels->softmax_backward_f32(job->out + at, job->in + at, job->y + at, end - begin, job->n, job->t, job->logarithm,
                                       job->accumulate);
}

static kd_tensor *softmax(kd_tape *tape, kd__op_id id, kd_tensor *x, float t, int logarithm)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, id, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x is a scalar: want [.., classes]");
    size_t n = x->shape[x->rank - 1];
    if (n == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x %S has no classes", (size_t)x->rank, x->shape);
    if (!(t > 0.0f && isfinite(t))) return kd__op_fail(&op, KD_ERR_ARG, "temperature %g is not a number > 0", (double)t);
    kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    softmax_job job = { .kernels = tape->ctx->kernels, .n = n, .t = t, .logarithm = logarithm, .in = x->data, .out = y->data };
    kd__parallel_range(tape->ctx, x->count / n, kd__row_grain(n), softmax_task, &job);
    op.unread_in = 1;
    if (op.recording) {
        float *saved = kd__op_save(&op, sizeof *saved);
        if (!saved) return kd__poison(tape);
        *saved = t;
    }
    return kd__op_end(&op);
}

static void softmax_backward(kd_tape *tape, kd__node *node, int logarithm)
{
    kd_tensor *x = node->in[0], *y = node->out[0];
    softmax_job job = { .kernels = tape->ctx->kernels, .n = x->shape[x->rank - 1], .t = *(const float *)node->saved,
                        .logarithm = logarithm, .in = kd__grad_out(tape, y), .y = y->data };
    if (!kd__wants_grad(tape, x) || !(job.out = kd__grad_open(tape, x, &job.accumulate))) return;
    kd__parallel_range(tape->ctx, x->count / job.n, kd__row_grain(job.n), softmax_backward_task, &job);
}

kd_tensor *kd_softmax(kd_tape *tape, kd_tensor *x, float temperature) { return softmax(tape, KD__OP_softmax, x, temperature, 0); }
/* y = e^(x/T) / sum e^(x/T): dx = y (dy - sum dy y) / T */
void kd__backward_softmax(kd_tape *tape, kd__node *node) { softmax_backward(tape, node, 0); }

kd_tensor *kd_log_softmax(kd_tape *tape, kd_tensor *x, float temperature)
{
    return softmax(tape, KD__OP_log_softmax, x, temperature, 1);
}
/* y = x/T - log sum e^(x/T): dx = (dy - e^y sum dy) / T */
void kd__backward_log_softmax(kd_tape *tape, kd__node *node) { softmax_backward(tape, node, 1); }
