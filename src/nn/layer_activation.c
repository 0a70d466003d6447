/* layer_activation.c - the nonlinear functions by number.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

const char *kd__activation_name(uint32_t activation)
{
    static const char *const names[] = { "identity", "relu",    "leaky_relu", "gelu",    "gelu_tanh",
                                         "silu",     "sigmoid", "tanh",       "softplus" };
    return activation < KD_COUNT(names) ? names[activation] : NULL;
}

kd_tensor *kd__activate(kd_tape *tape, uint32_t activation, kd_tensor *x)
{
    switch (activation) {
    case KD_ACT_RELU: return kd_relu(tape, x);
    case KD_ACT_LEAKY_RELU: return kd_leaky_relu(tape, x, 0.01f);
    case KD_ACT_GELU: return kd_gelu(tape, x);
    case KD_ACT_GELU_TANH: return kd_gelu_tanh(tape, x);
    case KD_ACT_SILU: return kd_silu(tape, x);
    case KD_ACT_SIGMOID: return kd_sigmoid(tape, x);
    case KD_ACT_TANH: return kd_tanh(tape, x);
    case KD_ACT_SOFTPLUS: return kd_softplus(tape, x);
    default: return x;
    }
}

kd_layer *kd_layer_activation(kd_layer *parent, const char *name, uint32_t activation)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_activation, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!kd__activation_name(activation))
        return kd__layer_fail(self, KD_ERR_ARG, "%s: activation %u is no KD_ACT_*", __func__, activation);
    self->u.activation = activation;
    return self;
}

kd_tensor *kd__layer_run_activation(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd__activate(tape, self->u.activation, x);
}
