/* resnet.c - residual networks (He, Zhang, Ren, Sun 2016): for 32x32 images (section 4.2) and for ImageNet (table 1).
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* Shortcut A: every second pixel, zeros for the channels that x lacks, half of them in front. */
static kd_tensor *pad_channels(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)user;
    const uint32_t window[2] = { 1, 1 }, stride[2] = { 2, 2 }, padding[2] = { 0, 0 };
    kd_tensor *y = kd_avg_pool2d(tape, x, window, stride, padding);
    const size_t half = kd_tensor_rank(x) == 4 ? kd_tensor_size(x, 3) / 2 : 0, zeros[4] = { 0, 0, 0, half };
    return kd_pad(tape, y, zeros, zeros, 0.0f);
}

/* Two 3x3 convolutions, or 1x1, 3x3 and 1x1 where `out` is not `width`, around which x goes directly; where its shape changes,
 * through a 1x1 projection or shortcut A. */
static void block(kd_layer *group, size_t in, size_t width, size_t out, size_t stride, bool project)
{
    kd_layer *b = kd_layer_residual(group, NULL, KD_ACT_RELU);
    if (width == out) {
        kd__zoo_unit(b, 1, in, width, 3, stride, 1, true);
        kd__zoo_unit(b, 2, width, out, 3, 1, 1, false);
    } else {
        kd__zoo_unit(b, 1, in, width, 1, 1, 1, true);
        kd__zoo_unit(b, 2, width, width, 3, stride, 1, true);
        kd__zoo_unit(b, 3, width, out, 1, 1, 1, false);
    }
    if (stride == 1 && in == out) return;
    kd_layer *shortcut = kd_layer_shortcut(b, project ? "downsample" : "shortcut");
    if (project) kd__zoo_unit(shortcut, 0, in, out, 1, stride, 1, false);
    else kd__zoo_block(shortcut, NULL, "pad_channels", pad_channels);
}

/* a: depth 6n + 2; b: how often as wide, 0: once, with shortcut A. */
void kd__zoo_resnet_cifar(kd_layer *root, size_t depth, size_t widen, size_t classes)
{
    size_t channels = widen <= 1 ? 16 : 32;   /* of the stem: 32 in every widened network of the field */
    kd__zoo_unit(root, 1, 3, channels, 3, 1, 1, true);
    for (size_t i = 0; i < 3; i++) {
        kd_layer *group = kd__zoo_stage(root, "layer", i + 1);
        const size_t width = (16u << i) * (widen ? widen : 1);
        for (size_t j = 0; j < (depth - 2) / 6; j++) {
            block(group, channels, width, width, i && !j ? 2 : 1, widen != 0);
            channels = width;
        }
    }
    kd_layer_global_avg_pool(root, "avgpool");
    kd_layer_linear(root, widen ? "fc" : "linear", channels, classes, 1);
}

/* a: depth. */
void kd__zoo_resnet(kd_layer *root, size_t depth, size_t b, size_t classes)
{
    (void)b;
    const size_t third = depth == 18 ? 2 : depth == 101 ? 23 : depth == 152 ? 36 : 6;
    const size_t blocks[4] = { depth == 18 ? 2 : 3, depth == 18 ? 2 : depth == 152 ? 8 : 4, third, depth == 18 ? 2 : 3 };
    const size_t expansion = depth >= 50 ? 4 : 1;
    size_t channels = 64;
    kd__zoo_unit(root, 1, 3, channels, 7, 2, 1, true);
    kd_layer_max_pool2d(root, "maxpool", 3, 2, 1);
    for (size_t i = 0; i < 4; i++) {
        kd_layer *group = kd__zoo_stage(root, "layer", i + 1);
        const size_t width = (size_t)64 << i;
        for (size_t j = 0; j < blocks[i]; j++) {
            block(group, channels, width, width * expansion, i && !j ? 2 : 1, true);
            channels = width * expansion;
        }
    }
    kd_layer_global_avg_pool(root, "avgpool");
    kd_layer_linear(root, "fc", channels, classes, 1);
}

kd_status kd_zoo_resnet_cifar(kd_model **out, kd_context *ctx, size_t depth, size_t widen, size_t classes, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    if (depth < 8 || depth > 1202 || (depth - 2) % 6)
        return kd__fail(KD_ERR_ARG, "%s: depth %zu is not 6n + 2 from 8 to 1202", __func__, depth);
    if (!widen || widen > 64) return kd__fail(KD_ERR_ARG, "%s: widen %zu is not in 1 to 64", __func__, widen);
    if (!classes) return kd__fail(KD_ERR_ARG, "%s: classes is 0", __func__);
    return kd__zoo_make(out, ctx, kd__zoo_resnet_cifar, depth, widen, classes, seed);
}
