/* resnet_cifar.c - residual networks for 32x32 images (He, Zhang, Ren, Sun 2016, section 4.2).
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* Two 3x3 convolutions around which x goes directly, through a 1x1 projection where its shape changes. */
static void block(kd_layer *group, size_t in, size_t out, size_t stride)
{
    kd_layer *b = kd_layer_residual(group, NULL, KD_ACT_RELU);
    kd__zoo_conv(b, "conv1", in, out, 3, stride);
    kd__zoo_batch_norm(b, "bn1", out);
    kd_layer_activation(b, "relu", KD_ACT_RELU);
    kd__zoo_conv(b, "conv2", out, out, 3, 1);
    kd__zoo_batch_norm(b, "bn2", out);
    if (stride == 1 && in == out) return;
    kd_layer *shortcut = kd_layer_shortcut(b, "downsample");
    kd__zoo_conv(shortcut, NULL, in, out, 1, stride);
    kd__zoo_batch_norm(shortcut, NULL, out);
}

kd_status kd_zoo_resnet_cifar(kd_model **out, kd_context *ctx, size_t depth, size_t widen, size_t classes, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    if (depth < 8 || depth > 1202 || (depth - 2) % 6)
        return kd__fail(KD_ERR_ARG, "%s: depth %zu is not 6n + 2 from 8 to 1202", __func__, depth);
    if (!widen || widen > 64) return kd__fail(KD_ERR_ARG, "%s: widen %zu is not in 1 to 64", __func__, widen);
    if (!classes) return kd__fail(KD_ERR_ARG, "%s: classes is 0", __func__);
    kd_model *model;
    KD_TRY(kd_model_create(&model, ctx));
    kd_layer *root = kd_model_root(model);
    size_t channels = widen == 1 ? 16 : 32;   /* of the stem: 32 in every widened network of the field */
    kd__zoo_conv(root, "conv1", 3, channels, 3, 1);
    kd__zoo_batch_norm(root, "bn1", channels);
    kd_layer_activation(root, "relu", KD_ACT_RELU);
    for (size_t i = 0; i < 3; i++) {
        char name[16];
        kd__format(name, sizeof name, "layer%zu", i + 1);
        kd_layer *group = kd_layer_sequence(root, name);
        const size_t width = (16u << i) * widen;
        for (size_t j = 0; j < (depth - 2) / 6; j++) {
            block(group, channels, width, i && !j ? 2 : 1);
            channels = width;
        }
    }
    kd_layer_global_avg_pool(root, "avgpool");
    kd_layer_linear(root, "fc", channels, classes, 1);
    return kd__zoo_finish(out, model, seed);
}
