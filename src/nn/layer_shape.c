/* layer_shape.c - layers that only look at the same numbers in another shape.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

kd_layer *kd_layer_flatten(kd_layer *parent, const char *name)
{
    return kd__layer_new(parent, name, KD__LAYER_flatten, __func__);
}

kd_tensor *kd__layer_run_flatten(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    (void)self;
    return kd_flatten(tape, x);
}
