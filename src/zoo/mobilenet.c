/* mobilenet.c - MobileNetV2 for 32x32 images (Sandler et al. 2018, arXiv 1801.04381; strides as in distillation for CIFAR).
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* Widths are a / b of the paper's. */
void kd__zoo_mobilenetv2(kd_layer *root, size_t a, size_t b, size_t classes)
{
    static const uint16_t stages[][4] = {   /* expansion, channels, blocks, stride */
        { 1, 16, 1, 1 }, { 6, 24, 2, 1 }, { 6, 32, 3, 2 }, { 6, 64, 4, 2 }, { 6, 96, 3, 1 }, { 6, 160, 3, 2 }, { 6, 320, 1, 1 },
    };
    size_t in = 32 * a / b;
    const size_t last = a > b ? 1280 * a / b : 1280;
    kd__zoo_unit(kd_layer_sequence(root, "conv1"), 0, 3, in, 3, 2, 1, true);
    kd_layer *blocks = kd_layer_sequence(root, "blocks");
    for (size_t i = 0; i < KD_COUNT(stages); i++) {
        kd_layer *group = kd_layer_sequence(blocks, NULL);
        const size_t out = stages[i][1] * a / b;
        for (size_t j = 0; j < stages[i][2]; j++) {
            const size_t stride = j ? 1 : stages[i][3], inner = in * stages[i][0];
            const bool direct = stride == 1 && in == out;
            kd_layer *block = direct ? kd_layer_residual(group, NULL, KD_ACT_NONE) : kd_layer_sequence(group, NULL);
            kd_layer *conv = kd_layer_sequence(block, "conv");
            kd__zoo_unit(conv, 0, in, inner, 1, 1, 1, true);
            kd__zoo_unit(conv, 0, inner, inner, 3, stride, inner, true);
            kd__zoo_unit(conv, 0, inner, out, 1, 1, 1, false);
            in = out;
        }
    }
    kd__zoo_unit(kd_layer_sequence(root, "conv2"), 0, in, last, 1, 1, 1, true);
    kd_layer_global_avg_pool(root, "avgpool");
    kd_layer *classifier = kd_layer_linear(kd_layer_sequence(root, "classifier"), NULL, last, classes, 1);
    kd__layer_set_init(classifier, "weight", KD_INIT_NORMAL, 0.0f, 0.01f);
    kd__layer_set_init(classifier, "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
}
