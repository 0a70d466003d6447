/* after.h - ops that do in their own pass what the layers behind them do to their result: batch norm by running statistics,
 * the sum with a residual, ReLU, in this order.  Values and gradients have the bits of the separate ops.
 * SPDX-License-Identifier: MIT */
#ifndef KD__AFTER_H
#define KD__AFTER_H
#include "autograd/tape_internal.h"

typedef struct kd__after {
    const float *scale, *shift;   /* [channels] or NULL: from kd__batch_norm_fold, constants */
    kd_tensor   *residual;        /* NULL, or shaped like the result */
    bool         relu;
    bool         gelu;            /* kd__linear: of its input, before the product; recorded too */
    const kd__gemm_args *inner;   /* and where nothing is recorded, its input is this product of x: n, k, b, epilogue */
} kd__after;

/* kd_conv2d, kd_conv1d, kd_linear.  `after` may be NULL.  What is recorded takes ReLU alone.  packed: the weight's kd__packed,
 * or NULL. */
kd_tensor *kd__conv2d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc,
                      const kd__after *after, kd__packed *packed);
kd_tensor *kd__conv1d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc,
                      const kd__after *after, kd__packed *packed);
kd_tensor *kd__linear(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd__after *after, kd__packed *packed);

/* The epilogue of an op with this bias. */
static inline kd__epilogue kd__after_epilogue(const kd__after *after, const kd_tensor *bias, size_t channels)
{
    kd__epilogue e = { .bias = bias ? bias->data : NULL };
    if (!after) return e;
    e.scale = after->scale;
    e.shift = after->shift;
    e.relu = after->relu;
    if (after->residual) {
        e.residual = after->residual->data;
        e.residual_row = channels;
    }
    return e;
}

/* ---- backward (backward.c, op_eltwise.c) ------------------------------------------------------------------ */
/* The gradient of y as memory to write over: its own, which dies with this node, or a copy when it is kept. NULL (poisoned):
 * out of memory. */
float     *kd__grad_own(kd_tape *tape, kd_tensor *y);
/* x's gradient (=, +=) g. */
void       kd__add_into(kd_tape *tape, kd_tensor *x, const float *g);
/* The gradient before the ReLU of which y is the result; NULL as kd__grad_own. */
const float *kd__relu_undo(kd_tape *tape, kd_tensor *y);
#endif
