/* op_fused.c - ops that compute their gradient together with their value, as a loss does: backward only scales it.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

typedef struct fused { float *grad[16]; } fused;   /* d out / d in[i]; NULL where not wanted */

float *kd__fused_grad(kd__op_scope *op, size_t i)
{
    if (!op->recording || !kd__wants_grad(op->tape, op->in[i])) return NULL;
    fused *f = op->saved ? op->saved : kd__op_save(op, sizeof *f);
    return f ? f->grad[i] = kd__tape_alloc(op->tape, op->in[i]->count * sizeof(float)) : NULL;
}

/* in_grad (=|+=) factor * grad */
static void scaled(const kd_tape *tape, float *in_grad, const float *grad, size_t n, float factor, bool accumulate)
{
    const kd__kernels *k = tape->ctx->kernels;
    if (accumulate) k->axpy_f32(in_grad, grad, n, factor);
    else k->unary_f32(KD_UNARY_SCALE_ADD, in_grad, grad, n, factor, -0.0f);   /* a zero keeps its sign: the bits of kd__grad_give */
}

/* out has one element, or one for each leading row of the input. */
void kd__backward_fused(kd_tape *tape, kd__node *node)
{
    const fused *f = node->saved;
    const kd_tensor *y = node->out[0];
    const float *upstream = kd__grad_out(tape, y);
    for (size_t i = 0; f && i < node->in_count; i++) {
        kd_tensor *x = node->in[i];
        bool accumulate;
        if (!f->grad[i]) continue;
        if (y->count == 1 && upstream[0] == 1.0f && kd__grad_give(tape, x, f->grad[i])) continue;
        float *in_grad = kd__grad_open(tape, x, &accumulate);
        if (!in_grad || !y->count) continue;
        size_t row = x->count / y->count;
        for (size_t r = 0; r < y->count; r++) scaled(tape, in_grad + r * row, f->grad[i] + r * row, row, upstream[r], accumulate);
    }
}
