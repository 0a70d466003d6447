/* vgg.c - VGG with batch norm for 32x32 images (Simonyan, Zisserman 2015, arXiv 1409.1556), one linear layer at its end.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* 64x64 images get a pooling more than 32x32 ones: what is 8 high or more here is halved. */
static kd_tensor *pool_large(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)user;
    const uint32_t two[2] = { 2, 2 }, zero[2] = { 0, 0 };
    return kd_tensor_rank(x) == 4 && kd_tensor_size(x, 1) >= 8 ? kd_max_pool2d(tape, x, two, two, zero) : x;
}

/* a: depth 8, 11, 13, 16 or 19. */
void kd__zoo_vgg(kd_layer *root, size_t depth, size_t b, size_t classes)
{
    (void)b;
    size_t channels = 3;
    const size_t early = depth >= 13 ? 2 : 1, late = depth == 8 ? 1 : depth <= 13 ? 2 : depth == 16 ? 3 : 4;
    for (size_t i = 0; i < 5; i++) {
        kd_layer *block = kd__zoo_stage(root, "block", i);
        const size_t width = i < 3 ? (size_t)64 << i : 512, count = i < 2 ? early : late;
        char name[24];
        for (size_t j = 0; j < count; j++) {
            kd_conv_desc same;
            kd_conv_desc_init(&same, sizeof same);
            same.padding[0] = same.padding[1] = 1;
            kd_layer *conv = kd_layer_conv2d(block, NULL, channels, width, 3, 3, 1, &same);
            kd__layer_set_init(conv, "weight", KD_INIT_KAIMING_NORMAL, 0.0f, 1.0f);
            kd__layer_set_init(conv, "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
            kd__zoo_batch_norm(block, NULL, width);
            if (j + 1 < count) kd_layer_activation(block, NULL, KD_ACT_RELU);
            channels = width;
        }
        kd__format(name, sizeof name, "relu%zu", i);
        kd_layer_activation(root, name, KD_ACT_RELU);
        kd__format(name, sizeof name, "pool%zu", i);
        if (i < 3) kd_layer_max_pool2d(root, name, 2, 2, 0);
        else if (i == 3) kd__zoo_block(root, name, "pool_large", pool_large);
        else kd_layer_global_avg_pool(root, name);
    }
    kd_layer *classifier = kd_layer_linear(root, "classifier", channels, classes, 1);
    kd__layer_set_init(classifier, "weight", KD_INIT_NORMAL, 0.0f, 0.01f);
    kd__layer_set_init(classifier, "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
}
