/* shufflenet.c - ShuffleNet V1 (Zhang et al. 2018, arXiv 1707.01083; groups 3) and V2 (Ma et al. 2018, arXiv 1807.11164; 1x) for
 * 32x32 images, as distillation for CIFAR has them: a 1x1 stem, no pooling behind it.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* Channel g of group c of `groups` becomes channel c of group g. */
static kd_tensor *shuffle(kd_tape *tape, kd_tensor *x, size_t groups)
{
    if (kd_tensor_rank(x) != 4) return kd_reshape(tape, x, 0, NULL);   /* poison, or an error */
    const size_t n = kd_tensor_size(x, 0), h = kd_tensor_size(x, 1), w = kd_tensor_size(x, 2), c = kd_tensor_size(x, 3);
    kd_tensor *y = kd_permute(tape, kd_reshape(tape, x, 3, (size_t[]){ n * h * w, groups, c / groups }), (size_t[]){ 0, 2, 1 });
    return kd_reshape(tape, y, 4, (size_t[]){ n, h, w, c });
}

static kd_tensor *shuffle3(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)user;
    return shuffle(tape, x, 3);
}

static kd_tensor *join(kd_tape *tape, kd_tensor *a, kd_tensor *b) { return kd_concat(tape, (kd_tensor *[]){ a, b }, 2, 3); }

/* A unit of V1 with stride 2: beside the branch goes the average of x, pixels around the image counted as zeros. */
static kd_tensor *halve_v1(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)user;
    const uint32_t window[2] = { 3, 3 }, stride[2] = { 2, 2 }, none[2] = { 0, 0 };
    const size_t one[4] = { 0, 1, 1, 0 };
    kd_tensor *branch = kd__zoo_run(self, "conv1", "bn3", tape, x);
    return kd_relu(tape, join(tape, branch, kd_avg_pool2d(tape, kd_pad(tape, x, one, one, 0.0f), window, stride, none)));
}

/* A unit of V2: half of the channels stay, half go through the branch. */
static kd_tensor *split_v2(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)user;
    const size_t c = kd_tensor_rank(x) == 4 ? kd_tensor_size(x, 3) : 0;
    kd_tensor *half = kd_slice(tape, x, 3, c / 2, c);
    kd_tensor *branch = kd__zoo_run(self, "conv1", "relu3", tape, half);
    return shuffle(tape, join(tape, kd_slice(tape, x, 3, 0, c / 2), branch), 2);
}

/* A unit of V2 with stride 2: two branches of all channels. */
static kd_tensor *halve_v2(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)user;
    kd_tensor *left = kd__zoo_run(self, "conv1", "relu2", tape, x);
    return shuffle(tape, join(tape, left, kd__zoo_run(self, "conv3", "relu5", tape, x)), 2);
}

/* As kd__zoo_unit, with PyTorch's own initialisation. */
static void unit(kd_layer *parent, size_t i, size_t in, size_t out, size_t kernel, size_t stride, size_t groups, bool relu)
{
    kd_layer *conv = kd__zoo_unit(parent, i, in, out, kernel, stride, groups, relu);
    kd__layer_set_init(conv, "weight", KD_INIT_FAN_IN_UNIFORM, 1.0f, 0.0f);
}

void kd__zoo_shufflenetv1(kd_layer *root, size_t a, size_t b, size_t classes)
{
    (void)a;
    (void)b;
    size_t in = 24;
    unit(root, 1, 3, in, 1, 1, 1, true);
    for (size_t i = 0; i < 3; i++) {
        kd_layer *group = kd__zoo_stage(root, "layer", i + 1);
        const size_t width = (size_t)240 << i;
        for (size_t j = 0; j < (i == 1 ? 8 : 4); j++) {
            /* With x beside it the branch makes what lacks to the width. */
            const size_t out = j ? width : width - in, inner = out / 4;
            kd_layer *block = j ? kd_layer_residual(group, NULL, KD_ACT_RELU)
                                : kd__zoo_block(group, NULL, "shuffle_unit", halve_v1);
            const bool first = in == 24;
            unit(block, 1, in, inner, 1, 1, first ? 1 : 3, true);
            if (!first) kd__zoo_block(block, "shuffle1", "shuffle", shuffle3);
            unit(block, 2, inner, inner, 3, j ? 1 : 2, inner, true);
            unit(block, 3, inner, out, 1, 1, 3, false);
            in = width;
        }
    }
    kd_layer_global_avg_pool(root, "avgpool");
    kd_layer_linear(root, "linear", in, classes, 1);
}

void kd__zoo_shufflenetv2(kd_layer *root, size_t a, size_t b, size_t classes)
{
    (void)a;
    (void)b;
    size_t in = 24;
    unit(root, 1, 3, in, 1, 1, 1, true);
    for (size_t i = 0; i < 3; i++) {
        kd_layer *group = kd__zoo_stage(root, "layer", i + 1);
        const size_t width = (size_t)116 << i, half = width / 2;
        kd_layer *block = kd__zoo_block(group, NULL, "shuffle_unit", halve_v2);
        unit(block, 1, in, in, 3, 2, in, false);
        unit(block, 2, in, half, 1, 1, 1, true);
        unit(block, 3, in, half, 1, 1, 1, true);
        unit(block, 4, half, half, 3, 2, half, false);
        unit(block, 5, half, half, 1, 1, 1, true);
        for (size_t j = 0; j < (i == 1 ? 7 : 3); j++) {
            block = kd__zoo_block(group, NULL, "shuffle_unit", split_v2);
            unit(block, 1, half, half, 1, 1, 1, true);
            unit(block, 2, half, half, 3, 1, half, false);
            unit(block, 3, half, half, 1, 1, 1, true);
        }
        in = width;
    }
    unit(root, 2, in, 1024, 1, 1, 1, true);
    kd_layer_global_avg_pool(root, "avgpool");
    kd_layer_linear(root, "linear", 1024, classes, 1);
}
