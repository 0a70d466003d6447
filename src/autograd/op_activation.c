/* op_activation.c - activation functions.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"
#include <math.h>

kd_tensor *kd_relu(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_relu, KD_UNARY_RELU, x); }
/* y = max(0, x) */
void kd__backward_relu(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_RELU); }

kd_tensor *kd_leaky_relu(kd_tape *tape, kd_tensor *x, float slope)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_leaky_relu, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    if (!isfinite(slope)) return kd__op_fail(&op, KD_ERR_ARG, "slope %g is not finite", (double)slope);
    return kd__unary_run(&op, KD_UNARY_LEAKY_RELU, slope, 0);
}
/* y = x > 0 ? x : slope x */
void kd__backward_leaky_relu(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_LEAKY_RELU); }

kd_tensor *kd_gelu(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_gelu, KD_UNARY_GELU_ERF, x); }
/* y = x/2 (1 + erf(x / sqrt 2)) */
void kd__backward_gelu(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_GELU_ERF); }

kd_tensor *kd_gelu_tanh(kd_tape *tape, kd_tensor *x)
{
    return kd__unary(tape, KD__OP_gelu_tanh, KD_UNARY_GELU_TANH, x);
}
/* y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
void kd__backward_gelu_tanh(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_GELU_TANH); }

kd_tensor *kd_silu(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_silu, KD_UNARY_SILU, x); }
/* y = x sigmoid(x) */
void kd__backward_silu(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_SILU); }

kd_tensor *kd_sigmoid(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_sigmoid, KD_UNARY_SIGMOID, x); }
/* y = 1 / (1 + e^-x) */
void kd__backward_sigmoid(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_SIGMOID); }

kd_tensor *kd_tanh(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_tanh, KD_UNARY_TANH, x); }
/* y = tanh(x) */
void kd__backward_tanh(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_TANH); }

kd_tensor *kd_softplus(kd_tape *tape, kd_tensor *x) { return kd__unary(tape, KD__OP_softplus, KD_UNARY_SOFTPLUS, x); }
/* y = log(1 + e^x) */
void kd__backward_softplus(kd_tape *tape, kd__node *node) { kd__unary_backward(tape, node, KD_UNARY_SOFTPLUS); }
