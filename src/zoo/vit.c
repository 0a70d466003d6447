/* vit.c - vision transformers (Dosovitskiy et al. 2021), with DeiT's distillation token on request (Touvron et al. 2021).
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

static const kd_vit_desc vit_defaults = {
    .struct_size = sizeof vit_defaults, .image = 224, .patch = 16, .channels = 3, .width = 192, .depth = 12, .heads = 3,
    .mlp_ratio = 4, .classes = 1000
};

void kd_vit_desc_init(kd_vit_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &vit_defaults, sizeof vit_defaults);
}

/* A linear layer as timm begins it. */
static kd_layer *vit_linear(kd_layer *parent, const char *name, size_t in, size_t out)
{
    kd_layer *linear = kd_layer_linear(parent, name, in, out, 1);
    kd__layer_set_init(linear, "weight", KD_INIT_TRUNC_NORMAL, 0.0f, 0.02f);
    kd__layer_set_init(linear, "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
    return linear;
}

/* A layer of one of this file's kinds. */
static kd_layer *vit_layer(kd_layer *parent, const char *name, kd__layer_type type, const kd_vit_desc *d, float drop)
{
    kd_layer *self = kd__layer_new(parent, name, type, "kd_zoo_vit");
    if (kd__layer_is_poison(self)) return self;
    self->u.vit.heads = d->heads;
    self->u.vit.dropout = d->dropout;
    self->u.vit.drop_path = drop;
    return self;
}

static void vit_block(kd_layer *blocks, const kd_vit_desc *d, size_t hidden, float drop)
{
    kd_layer *block = vit_layer(blocks, NULL, KD__LAYER_vit_block, d, drop);
    kd_layer_layer_norm(block, "norm1", d->width, 1e-6f);
    kd_layer *attn = vit_layer(block, "attn", KD__LAYER_vit_attention, d, 0.0f);
    vit_linear(attn, "qkv", d->width, 3 * d->width);
    vit_linear(attn, "proj", d->width, d->width);
    kd_layer_layer_norm(block, "norm2", d->width, 1e-6f);
    kd_layer *mlp = kd_layer_sequence(block, "mlp");
    vit_linear(mlp, "fc1", d->width, hidden);
    kd_layer_activation(mlp, "act", KD_ACT_GELU);
    if (d->dropout > 0.0f) kd_layer_dropout(mlp, "drop1", d->dropout);
    vit_linear(mlp, "fc2", hidden, d->width);
    if (d->dropout > 0.0f) kd_layer_dropout(mlp, "drop2", d->dropout);
}

static kd_status vit_check(const kd_vit_desc *d, size_t *tokens, size_t *hidden)
{
    if (!d->patch || d->patch > d->image || d->image % d->patch || d->image / d->patch > 4096)
        return kd__fail(KD_ERR_ARG, "kd_zoo_vit: image %zu is not 1 to 4096 times patch %zu", d->image, d->patch);
    if (!d->heads || !d->width || d->width % d->heads)
        return kd__fail(KD_ERR_ARG, "kd_zoo_vit: heads %zu do not divide width %zu", d->heads, d->width);
    if (!d->depth || d->depth > 1000 || !d->channels || !d->classes || !d->mlp_ratio)
        return kd__fail(KD_ERR_ARG, "kd_zoo_vit: depth %zu (1 to 1000), channels %zu, classes %zu, mlp_ratio %zu: none may be 0", d->depth,
                        d->channels, d->classes, d->mlp_ratio);
    if (!(d->drop_path >= 0.0f && d->drop_path < 1.0f && d->dropout >= 0.0f && d->dropout < 1.0f))
        return kd__fail(KD_ERR_ARG, "kd_zoo_vit: drop_path %g, dropout %g: must be in [0, 1)", (double)d->drop_path, (double)d->dropout);
    size_t more;
    if (!kd__mul(d->width, d->mlp_ratio, hidden) || !kd__mul(d->width, 3, &more))
        return kd__fail(KD_ERR_OVERFLOW, "kd_zoo_vit: width %zu, mlp_ratio %zu", d->width, d->mlp_ratio);
    *tokens = (d->image / d->patch) * (d->image / d->patch) + (d->distilled ? 2 : 1);
    return KD_OK;
}

kd_status kd_zoo_vit(kd_model **out, kd_context *ctx, const kd_vit_desc *desc, uint64_t seed)
{
    KD_NEED(out);
    *out = NULL;
    kd_vit_desc d = vit_defaults;
    size_t tokens = 0, hidden = 0;
    KD_TRY(kd__desc_read(&d, sizeof d, desc, "kd_vit_desc"));
    KD_TRY(vit_check(&d, &tokens, &hidden));
    kd_model *model;
    KD_TRY(kd_model_create(&model, ctx));
    kd_layer *root = kd_model_root(model);
    root->type = KD__LAYER_vit;
    root->u.vit.dropout = d.dropout;
    const size_t one[] = { 1, 1, d.width }, positions[] = { 1, tokens, d.width };
    const kd__init token_init = { KD_INIT_NORMAL, 0.0f, 1e-6f }, spread = { KD_INIT_TRUNC_NORMAL, 0.0f, 0.02f };
    kd__layer_param(root, "cls_token", 3, one, KD_PARAM_PLAIN, token_init, d.width, d.width);
    kd__layer_param(root, "pos_embed", 3, positions, KD_PARAM_PLAIN, spread, d.width, d.width);
    if (d.distilled) kd__layer_param(root, "dist_token", 3, one, KD_PARAM_PLAIN, spread, d.width, d.width);
    kd_conv_desc conv;
    kd_conv_desc_init(&conv, sizeof conv);
    conv.stride[0] = conv.stride[1] = (uint32_t)d.patch;
    kd_layer_conv2d(kd_layer_sequence(root, "patch_embed"), "proj", d.channels, d.width, d.patch, d.patch, 1, &conv);
    kd_layer *blocks = kd_layer_sequence(root, "blocks");
    for (size_t i = 0; i < d.depth; i++)   /* dropped more and more often */
        vit_block(blocks, &d, hidden, d.depth > 1 ? d.drop_path * (float)i / (float)(d.depth - 1) : 0.0f);
    kd_layer_layer_norm(root, "norm", d.width, 1e-6f);
    vit_linear(root, "head", d.width, d.classes);
    if (d.distilled) {
        kd_layer *head = vit_linear(root, "head_dist", d.width, d.classes);
        if (!kd__layer_is_poison(head)) head->tap_out = true;
    }
    return kd__zoo_finish(out, model, seed);
}

bool kd__zoo_vit_named(kd_vit_desc *d, const char *name)
{
    *d = vit_defaults;
    for (size_t i = 0; i < 9; i++) {
        static const char sizes[3][8] = { "tiny", "small", "base" };
        char head[32];
        const size_t n = kd__format(head, sizeof head, "%s_%s%s_patch", i < 3 ? "vit" : "deit", sizes[i % 3], i < 6 ? "" : "_distilled");
        if (strncmp(name, head, n)) continue;
        uint64_t patch, image;
        const char *second = strchr(name + n, '_');
        if (!second || !kd__parse_u64(name + n, second, &patch) || !kd__parse_u64(second + 1, strchr(second, 0), &image) ||
            (patch | image) > UINT32_MAX) return false;
        d->patch = (size_t)patch;
        d->image = (size_t)image;
        d->width <<= i % 3;
        d->heads <<= i % 3;
        d->distilled = i >= 6;
        return true;
    }
    return false;
}
