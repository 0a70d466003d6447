/* layer_linear.c - y = x weight + bias.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"
#include "nn/nn.h"

kd_layer *kd_layer_linear(kd_layer *parent, const char *name, size_t in, size_t out, int32_t bias)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_linear, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!in || !out) return kd__layer_fail(self, KD_ERR_ARG, "%s: in %zu, out %zu: both must be at least 1", __func__, in, out);
    const kd__init init = { KD_INIT_FAN_IN_UNIFORM, 1.0f, 0.0f };
    kd__layer_param(self, "weight", 2, (size_t[]){ in, out }, KD_PARAM_LINEAR, init, in, out);
    if (bias) kd__layer_param(self, "bias", 1, &out, KD_PARAM_PLAIN, init, in, out);
    return kd__layer_done(self);
}

kd_tensor *kd__layer_run_linear(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd__linear(tape, x, kd__slot(self, 0), kd__slot(self, 1), NULL, kd__layer_packed(self, tape));
}
