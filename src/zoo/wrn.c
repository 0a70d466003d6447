/* wrn.c - wide residual networks for 32x32 images (Zagoruyko, Komodakis 2016, arXiv 1605.07146).
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* Where the width changes, the projection reads what the first norm and ReLU made of x, not x. */
static kd_tensor *projected(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)user;
    kd_tensor *h = kd__zoo_run(self, "bn1", "relu1", tape, x);
    kd_tensor *branch = kd__zoo_run(self, "conv1", "conv2", tape, h);
    return kd_add(tape, branch, kd__zoo_run(self, "convShortcut", "convShortcut", tape, h));
}

static void block(kd_layer *group, size_t in, size_t out, size_t stride)
{
    kd_layer *b = in == out ? kd_layer_residual(group, NULL, KD_ACT_NONE) : kd__zoo_block(group, NULL, "wide_block", projected);
    kd__zoo_batch_norm(b, "bn1", in);
    kd_layer_activation(b, "relu1", KD_ACT_RELU);
    kd__zoo_conv(b, "conv1", in, out, 3, stride, 1);
    kd__zoo_batch_norm(b, "bn2", out);
    kd_layer_activation(b, "relu2", KD_ACT_RELU);
    kd__zoo_conv(b, "conv2", out, out, 3, 1, 1);
    if (in != out) kd__zoo_conv(b, "convShortcut", in, out, 1, stride, 1);
}

/* a: depth 6n + 4; b: how often as wide as 16, 32, 64. */
void kd__zoo_wrn(kd_layer *root, size_t depth, size_t widen, size_t classes)
{
    size_t channels = 16;
    kd__zoo_conv(root, "conv1", 3, channels, 3, 1, 1);
    for (size_t i = 0; i < 3; i++) {
        kd_layer *group = kd_layer_sequence(kd__zoo_stage(root, "block", i + 1), "layer");
        const size_t width = (16u << i) * widen;
        for (size_t j = 0; j < (depth - 4) / 6; j++) {
            block(group, channels, width, i && !j ? 2 : 1);
            channels = width;
        }
    }
    kd__zoo_batch_norm(root, "bn1", channels);
    kd_layer_activation(root, "relu", KD_ACT_RELU);
    kd_layer_global_avg_pool(root, "avgpool");
    kd__layer_set_init(kd_layer_linear(root, "fc", channels, classes, 1), "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
}

kd_status kd_zoo_wrn(kd_model **out, kd_context *ctx, size_t depth, size_t widen, size_t classes, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    if (depth < 10 || depth > 1204 || (depth - 4) % 6)
        return kd__fail(KD_ERR_ARG, "%s: depth %zu is not 6n + 4 from 10 to 1204", __func__, depth);
    if (!widen || widen > 64) return kd__fail(KD_ERR_ARG, "%s: widen %zu is not in 1 to 64", __func__, widen);
    return kd__zoo_make(out, ctx, kd__zoo_wrn, depth, widen, classes, seed);
}
