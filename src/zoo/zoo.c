/* zoo.c - the table of names, and what the named architectures share.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"
#include <math.h>

static const struct { const char *name; kd__zoo_build *build; uint16_t a, b; } architectures[] = {
    { "resnet8", kd__zoo_resnet_cifar, 8, 1 },       { "resnet14", kd__zoo_resnet_cifar, 14, 1 },
    { "resnet20", kd__zoo_resnet_cifar, 20, 1 },     { "resnet32", kd__zoo_resnet_cifar, 32, 1 },
    { "resnet44", kd__zoo_resnet_cifar, 44, 1 },     { "resnet56", kd__zoo_resnet_cifar, 56, 1 },
    { "resnet110", kd__zoo_resnet_cifar, 110, 1 },   { "resnet8x4", kd__zoo_resnet_cifar, 8, 4 },
    { "resnet32x4", kd__zoo_resnet_cifar, 32, 4 },   { "resnet20_a", kd__zoo_resnet_cifar, 20, 0 },
    { "resnet32_a", kd__zoo_resnet_cifar, 32, 0 },   { "resnet44_a", kd__zoo_resnet_cifar, 44, 0 },
    { "resnet56_a", kd__zoo_resnet_cifar, 56, 0 },   { "resnet110_a", kd__zoo_resnet_cifar, 110, 0 },
    { "wrn_16_1", kd__zoo_wrn, 16, 1 },              { "wrn_16_2", kd__zoo_wrn, 16, 2 },
    { "wrn_40_1", kd__zoo_wrn, 40, 1 },              { "wrn_40_2", kd__zoo_wrn, 40, 2 },
    { "vgg8", kd__zoo_vgg, 8, 0 },                   { "vgg11", kd__zoo_vgg, 11, 0 },
    { "vgg13", kd__zoo_vgg, 13, 0 },                 { "vgg16", kd__zoo_vgg, 16, 0 },
    { "vgg19", kd__zoo_vgg, 19, 0 },                 { "mobilenetv2_half", kd__zoo_mobilenetv2, 1, 2 },
    { "mobilenetv2", kd__zoo_mobilenetv2, 1, 1 },    { "shufflenetv1", kd__zoo_shufflenetv1, 0, 0 },
    { "shufflenetv2", kd__zoo_shufflenetv2, 0, 0 },  { "resnet18", kd__zoo_resnet, 18, 0 },
    { "resnet34", kd__zoo_resnet, 34, 0 },           { "resnet50", kd__zoo_resnet, 50, 0 },
    { "resnet101", kd__zoo_resnet, 101, 0 },         { "resnet152", kd__zoo_resnet, 152, 0 },
};

size_t kd_zoo_count(void) { return KD_COUNT(architectures); }

const char *kd_zoo_name(size_t i) { return i < KD_COUNT(architectures) ? architectures[i].name : NULL; }

kd_status kd_zoo_create(kd_model **out, kd_context *ctx, const char *name, size_t classes, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(name);
    size_t nearest = 0, best = SIZE_MAX;
    for (size_t i = 0; i < KD_COUNT(architectures); i++) {
        size_t distance = kd__edit_distance(architectures[i].name, name);
        if (distance < best) {
            best = distance;
            nearest = i;
        }
    }
    if (strcmp(architectures[nearest].name, name))
        return kd__fail(KD_ERR_ARG, "%s: no architecture \"%s\" (the nearest is \"%s\"; kd_zoo_name lists them)", __func__, name,
                        architectures[nearest].name);
    return kd__zoo_make(out, ctx, architectures[nearest].build, architectures[nearest].a, architectures[nearest].b, classes,
                        seed);
}

kd_status kd__zoo_make(kd_model **out, kd_context *ctx, kd__zoo_build *build, size_t a, size_t b, size_t classes, uint64_t seed)
{
    kd_model *model;
    KD_TRY(kd_model_create(&model, ctx));
    build(kd_model_root(model), a, b, classes);
    return kd__zoo_finish(out, model, seed);
}

kd_status kd__zoo_finish(kd_model **out, kd_model *model, uint64_t seed)
{
    kd_status status = kd_model_finish(model, seed);
    if (status == KD_OK) *out = model;
    else kd_model_free(model);
    return status;
}

kd_layer *kd__zoo_conv(kd_layer *parent, const char *name, size_t in, size_t out, size_t kernel, size_t stride, size_t groups)
{
    kd_conv_desc desc;
    kd_conv_desc_init(&desc, sizeof desc);
    for (size_t i = 0; i < 2; i++) {
        desc.stride[i] = (uint32_t)stride;
        desc.padding[i] = (uint32_t)(kernel / 2);
    }
    desc.groups = (uint32_t)groups;
    kd_layer *conv = kd_layer_conv2d(parent, name, in, out, kernel, kernel, 0, &desc);
    /* Of a grouped convolution the field takes all outputs for the fan, KD_INIT_KAIMING_NORMAL those of a group. */
    if (groups == 1) kd__layer_set_init(conv, "weight", KD_INIT_KAIMING_NORMAL, 0.0f, 1.0f);
    else kd__layer_set_init(conv, "weight", KD_INIT_NORMAL, 0.0f, sqrtf(2.0f / (float)(kernel * kernel * out)));
    return conv;
}

kd_layer *kd__zoo_batch_norm(kd_layer *parent, const char *name, size_t channels)
{
    return kd_layer_batch_norm(parent, name, channels, 0.1f, 1e-5f);
}

kd_layer *kd__zoo_unit(kd_layer *parent, size_t i, size_t in, size_t out, size_t kernel, size_t stride, size_t groups, bool relu)
{
    char name[3][24];
    kd__format(name[0], sizeof *name, "conv%zu", i);
    kd__format(name[1], sizeof *name, "bn%zu", i);
    kd__format(name[2], sizeof *name, i == 1 ? "relu" : "relu%zu", i);
    kd_layer *conv = kd__zoo_conv(parent, i ? name[0] : NULL, in, out, kernel, stride, groups);
    kd__zoo_batch_norm(parent, i ? name[1] : NULL, out);
    if (relu) kd_layer_activation(parent, i ? name[2] : NULL, KD_ACT_RELU);
    return conv;
}

kd_layer *kd__zoo_stage(kd_layer *parent, const char *prefix, size_t i)
{
    char name[24];
    kd__format(name, sizeof name, "%s%zu", prefix, i);
    return kd_layer_sequence(parent, name);
}

kd_layer *kd__zoo_block(kd_layer *parent, const char *name, const char *type,
                        kd_tensor *(*forward)(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user))
{
    const kd_block_desc desc = { .struct_size = sizeof desc, .type = type, .forward = forward };
    return kd_layer_block(parent, name, &desc);
}

kd_tensor *kd__zoo_run(kd_layer *self, const char *first, const char *last, kd_tape *tape, kd_tensor *x)
{
    kd_layer *child = kd_layer_child(self, first), *end = kd_layer_child(self, last);
    kd_tensor *y = x;
    for (bool done = false; child && !done; child = child->next) {
        kd_tensor *next;
        kd_layer *chained = kd__chain_forward(child, tape, y, NULL, &next);
        if (chained) child = chained;
        else next = kd_layer_forward(child, tape, y);
        kd__release_unless(tape, y, x, next);
        y = next;
        done = child == end;
    }
    return y;
}
