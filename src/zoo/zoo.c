/* zoo.c - what the named architectures share.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

kd_status kd__zoo_finish(kd_model **out, kd_model *model, uint64_t seed)
{
    kd_status status = kd_model_finish(model, seed);
    if (status == KD_OK) *out = model;
    else kd_model_free(model);
    return status;
}

kd_layer *kd__zoo_conv(kd_layer *parent, const char *name, size_t in, size_t out, size_t kernel, size_t stride)
{
    kd_conv_desc desc;
    kd_conv_desc_init(&desc, sizeof desc);
    for (size_t i = 0; i < 2; i++) {
        desc.stride[i] = (uint32_t)stride;
        desc.padding[i] = (uint32_t)(kernel / 2);
    }
    kd_layer *conv = kd_layer_conv2d(parent, name, in, out, kernel, kernel, 0, &desc);
    kd__layer_set_init(conv, "weight", KD_INIT_KAIMING_NORMAL, 0.0f, 1.0f);
    return conv;
}

kd_layer *kd__zoo_batch_norm(kd_layer *parent, const char *name, size_t channels)
{
    return kd_layer_batch_norm(parent, name, channels, 0.1f, 1e-5f);
}
