/* zoo.c - the table of names, and what the named architectures share.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"
#include <math.h>

/* Without pointers in its rows the table needs nothing of the loader. */
enum { ZOO_RESNET_CIFAR, ZOO_WRN, ZOO_VGG, ZOO_MOBILENETV2, ZOO_SHUFFLENETV1, ZOO_SHUFFLENETV2, ZOO_RESNET, ZOO_REGNETY };
static kd__zoo_build *const builds[] = {
    kd__zoo_resnet_cifar, kd__zoo_wrn, kd__zoo_vgg, kd__zoo_mobilenetv2, kd__zoo_shufflenetv1,
    kd__zoo_shufflenetv2, kd__zoo_resnet, kd__zoo_regnety,
};
static const struct { char name[17]; uint8_t build, a, b; } architectures[] = {
    { "resnet8", ZOO_RESNET_CIFAR, 8, 1 },            { "resnet14", ZOO_RESNET_CIFAR, 14, 1 },
    { "resnet20", ZOO_RESNET_CIFAR, 20, 1 },          { "resnet32", ZOO_RESNET_CIFAR, 32, 1 },
    { "resnet44", ZOO_RESNET_CIFAR, 44, 1 },          { "resnet56", ZOO_RESNET_CIFAR, 56, 1 },
    { "resnet110", ZOO_RESNET_CIFAR, 110, 1 },        { "resnet8x4", ZOO_RESNET_CIFAR, 8, 4 },
    { "resnet32x4", ZOO_RESNET_CIFAR, 32, 4 },        { "resnet20_a", ZOO_RESNET_CIFAR, 20, 0 },
    { "resnet32_a", ZOO_RESNET_CIFAR, 32, 0 },        { "resnet44_a", ZOO_RESNET_CIFAR, 44, 0 },
    { "resnet56_a", ZOO_RESNET_CIFAR, 56, 0 },        { "resnet110_a", ZOO_RESNET_CIFAR, 110, 0 },
    { "wrn_16_1", ZOO_WRN, 16, 1 },                   { "wrn_16_2", ZOO_WRN, 16, 2 },
    { "wrn_40_1", ZOO_WRN, 40, 1 },                   { "wrn_40_2", ZOO_WRN, 40, 2 },
    { "vgg8", ZOO_VGG, 8, 0 },                        { "vgg11", ZOO_VGG, 11, 0 },
    { "vgg13", ZOO_VGG, 13, 0 },                      { "vgg16", ZOO_VGG, 16, 0 },
    { "vgg19", ZOO_VGG, 19, 0 },                      { "mobilenetv2_half", ZOO_MOBILENETV2, 1, 2 },
    { "mobilenetv2", ZOO_MOBILENETV2, 1, 1 },         { "shufflenetv1", ZOO_SHUFFLENETV1, 0, 0 },
    { "shufflenetv2", ZOO_SHUFFLENETV2, 0, 0 },       { "resnet18", ZOO_RESNET, 18, 0 },
    { "resnet34", ZOO_RESNET, 34, 0 },                { "resnet50", ZOO_RESNET, 50, 0 },
    { "resnet101", ZOO_RESNET, 101, 0 },              { "resnet152", ZOO_RESNET, 152, 0 },
    { "regnety_002", ZOO_REGNETY, 0, 8 },             { "regnety_004", ZOO_REGNETY, 1, 8 },
    { "regnety_006", ZOO_REGNETY, 2, 16 },            { "regnety_008", ZOO_REGNETY, 3, 16 },
};

size_t kd_zoo_count(void) { return KD_COUNT(architectures); }

const char *kd_zoo_name(size_t i) { return i < KD_COUNT(architectures) ? architectures[i].name : NULL; }

kd_status kd_zoo_create(kd_model **out, kd_context *ctx, const char *name, size_t classes, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(name);
    kd_vit_desc vit;
    if (kd__zoo_vit_named(&vit, name)) {
        vit.classes = classes;
        return kd_zoo_vit(out, ctx, &vit, seed);
    }
    size_t nearest = 0, best = SIZE_MAX;
    for (size_t i = 0; i < KD_COUNT(architectures); i++) {
        size_t distance = kd__edit_distance(architectures[i].name, name);
        if (distance < best) {
            best = distance;
            nearest = i;
        }
    }
    if (strcmp(architectures[nearest].name, name))
        return kd__fail(KD_ERR_ARG,
                        "%s: no architecture \"%s\" (the nearest is \"%s\"; kd_zoo_name lists them; transformers are named as "
                        "vit_tiny_patch16_224)", __func__, name, architectures[nearest].name);
    return kd__zoo_make(out, ctx, builds[architectures[nearest].build], architectures[nearest].a, architectures[nearest].b, classes,
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
