/* layer_embedding.c - rows of a table by index.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

kd_layer *kd_layer_embedding(kd_layer *parent, const char *name, size_t count, size_t width)
{
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_embedding, __func__);
    if (kd__layer_is_poison(self)) return self;
    if (!count || !width)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: count %zu, width %zu: both must be at least 1", __func__, count, width);
    const kd__init init = { KD_INIT_NORMAL, 0.0f, 1.0f };
    kd__layer_param(self, "weight", 2, (size_t[]){ count, width }, KD_PARAM_PLAIN, init, count, width);
    return kd__layer_done(self);
}

kd_tensor *kd__layer_run_embedding(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd_embedding(tape, kd__slot(self, 0), x);
}
