/* cnn.c - a small convolutional network for small images.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

static const kd_cnn_desc defaults = {
    .struct_size = sizeof defaults, .height = 28, .width = 28, .channels = 1,
    .conv1 = 32, .conv2 = 64, .hidden = 128, .classes = 10
};

void kd_cnn_desc_init(kd_cnn_desc *desc, size_t struct_size) { kd__desc_write(desc, struct_size, &defaults, sizeof defaults); }

/* conv i, batch norm if wanted, relu, max pool 2. */
static void stage(kd_layer *root, size_t i, size_t in, size_t out, bool batch_norm)
{
    kd_conv_desc same;
    kd_conv_desc_init(&same, sizeof same);
    same.padding[0] = same.padding[1] = 1;
    char name[16];
    kd__format(name, sizeof name, "conv%zu", i);
    kd_layer_conv2d(root, name, in, out, 3, 3, 1, &same);
    if (batch_norm) {
        kd__format(name, sizeof name, "bn%zu", i);
        kd__zoo_batch_norm(root, name, out);
    }
    kd__format(name, sizeof name, "relu%zu", i);
    kd_layer_activation(root, name, KD_ACT_RELU);
    kd__format(name, sizeof name, "pool%zu", i);
    kd_layer_max_pool2d(root, name, 2, 2, 0);
}

kd_status kd_zoo_cnn(kd_model **out, kd_context *ctx, const kd_cnn_desc *desc, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    kd_cnn_desc d = defaults;
    KD_TRY(kd__desc_read(&d, sizeof d, desc, "kd_cnn_desc"));
    if (d.height < 4 || d.width < 4)
        return kd__fail(KD_ERR_ARG, "%s: height %zu, width %zu: two poolings by 2 need at least 4", __func__, d.height, d.width);
    size_t features;
    if (!kd__mul(d.height / 4, d.width / 4, &features) || !kd__mul(features, d.conv2, &features))
        return kd__fail(KD_ERR_OVERFLOW, "%s: height %zu, width %zu, conv2 %zu", __func__, d.height, d.width, d.conv2);
    kd_model *model;
    KD_TRY(kd_model_create(&model, ctx));
    kd_layer *root = kd_model_root(model);
    stage(root, 1, d.channels, d.conv1, d.batch_norm != 0);
    stage(root, 2, d.conv1, d.conv2, d.batch_norm != 0);
    kd_layer_flatten(root, "flatten");
    kd_layer_linear(root, "fc1", features, d.hidden, 1);
    kd_layer_activation(root, "relu3", KD_ACT_RELU);
    if (d.dropout != 0.0f) kd_layer_dropout(root, "dropout", d.dropout);
    kd_layer_linear(root, "fc2", d.hidden, d.classes, 1);
    return kd__zoo_finish(out, model, seed);
}
