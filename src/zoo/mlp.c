/* mlp.c - the multi-layer perceptron.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

kd_status kd_zoo_mlp(kd_model **out, kd_context *ctx, const size_t *sizes, size_t count, uint32_t activation, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(sizes);
    if (count < 2) return kd__fail(KD_ERR_ARG, "%s: count %zu: an input and an output size are needed", __func__, count);
    kd_model *model;
    KD_TRY(kd_model_create(&model, ctx));
    kd_layer *root = kd_model_root(model);
    kd_layer_flatten(root, "flatten");
    for (size_t i = 1; i < count; i++) {
        char name[32];
        kd__format(name, sizeof name, "fc%zu", i);
        kd_layer_linear(root, name, sizes[i - 1], sizes[i], 1);
        if (i + 1 == count || activation == KD_ACT_NONE) continue;
        kd__format(name, sizeof name, "act%zu", i);
        kd_layer_activation(root, name, activation);
    }
    return kd__zoo_finish(out, model, seed);
}
