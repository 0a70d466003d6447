/* layer_dropout.c - dropout; what it does follows the tape's mode.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

kd_layer *kd_layer_dropout(kd_layer *parent, const char *name, float p)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_dropout, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!(p >= 0.0f && p < 1.0f)) return kd__layer_fail(self, KD_ERR_ARG, "%s: p %g: must be in [0, 1)", __func__, (double)p);
    self->u.p = p;
    return self;
}

kd_tensor *kd__layer_run_dropout(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd_dropout(tape, x, self->u.p);
}
