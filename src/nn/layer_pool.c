/* layer_pool.c - pooling of images.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

static kd_layer *build(kd_layer *self, uint32_t window, uint32_t stride, uint32_t padding, const char *function)
{
    if (kd__layer_is_poison(self)) return self;
    if (!window || !stride || padding >= window)
        return kd__layer_fail(self, KD_ERR_ARG, "%s: window %u, stride %u, padding %u: window and stride at least 1, padding "
                              "below window", function, window, stride, padding);
    for (size_t i = 0; i < 2; i++) {
        self->u.pool.window[i] = window;
        self->u.pool.stride[i] = stride;
        self->u.pool.padding[i] = padding;
    }
    return self;
}

kd_layer *kd_layer_max_pool2d(kd_layer *parent, const char *name, uint32_t window, uint32_t stride, uint32_t padding)
{
    return build(kd__layer_new(parent, name, KD__LAYER_max_pool2d, __func__), window, stride, padding, __func__);
}

kd_tensor *kd__layer_run_max_pool2d(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd_max_pool2d(tape, x, self->u.pool.window, self->u.pool.stride, self->u.pool.padding);
}

kd_layer *kd_layer_avg_pool2d(kd_layer *parent, const char *name, uint32_t window, uint32_t stride, uint32_t padding)
{
    return build(kd__layer_new(parent, name, KD__LAYER_avg_pool2d, __func__), window, stride, padding, __func__);
}

kd_tensor *kd__layer_run_avg_pool2d(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    return kd_avg_pool2d(tape, x, self->u.pool.window, self->u.pool.stride, self->u.pool.padding);
}

kd_layer *kd_layer_global_avg_pool(kd_layer *parent, const char *name)
{
    return kd__layer_new(parent, name, KD__LAYER_global_avg_pool, __func__);
}

kd_tensor *kd__layer_run_global_avg_pool(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    (void)self;
    return kd_global_avg_pool(tape, x);
}
