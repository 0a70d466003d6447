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

/* ---- running ------------------------------------------------------------------------------------------------------ */

/* Each sample's branch dropped with probability p, the others larger by as much. */
static kd_tensor *drop_path(kd_tape *tape, kd_tensor *x, float p)
{
    if (tape->mode != KD_TAPE_TRAIN || p == 0.0f || !kd__tape_ok(tape)) return x;
    size_t shape[KD_MAX_RANK];
    for (size_t i = 0; i < x->rank; i++) shape[i] = i ? 1 : x->shape[0];
    kd_tensor *kept = kd__tape_new(tape, KD_F32, x->rank, shape);
    if (!kept) return kd__poison(tape);
    tape->ctx->kernels->fill_f32(kept->data, kept->count, 1.0f);
    return kd_mul(tape, x, kd_dropout(tape, kept, p));
}

/* x + body(norm(x)) */
static kd_tensor *add_branch(kd_layer *self, kd_tape *tape, kd_tensor *x, kd_layer *norm, kd_layer *body)
{
    kd_tensor *h = kd_layer_forward(norm, tape, x), *b = kd_layer_forward(body, tape, h);
    kd__release_unless(tape, h, x, b);
    kd_tensor *kept = drop_path(tape, b, self->u.vit.drop_path), *y = kd_add(tape, x, kept);
    kd__release_unless(tape, b, y, kept);
    kd__release_unless(tape, kept, y, x);
    return y;
}

kd_tensor *kd__layer_run_vit_block(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    kd_layer *norm1 = self->first, *attn = norm1->next, *norm2 = attn->next;
    kd_tensor *half = add_branch(self, tape, x, norm1, attn), *y = add_branch(self, tape, half, norm2, norm2->next);
    kd__release_unless(tape, half, x, y);
    return y;
}

kd_tensor *kd__layer_run_vit_attention(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    kd_layer *proj = self->first->next;
    kd_tensor *qkv = kd_layer_forward(self->first, tape, x);
    kd_tensor *y = kd_attention(tape, qkv, NULL, NULL, self->u.vit.heads, 0.0f, 0, NULL);
    kd__release_unless(tape, qkv, x, y);
    kd_tensor *out = kd_layer_forward(proj, tape, y);
    kd__release_unless(tape, y, x, out);
    return kd_dropout(tape, out, self->u.vit.dropout);
}

/* The tokens of the model, one of each for every sample: [n, 1, d], a sum with zeros that carries their gradient back. */
static kd_tensor *token(kd_tape *tape, kd_tensor *parameter, size_t n)
{
    const size_t shape[] = { n, 1, parameter->shape[2] };
    kd_tensor *zeros = kd__tape_new(tape, KD_F32, 3, shape);
    if (!zeros) return kd__poison(tape);
    if (zeros->count) memset(zeros->data, 0, zeros->count * sizeof(float));
    return kd_add(tape, zeros, parameter);
}

/* One token of every sample through a head. */
static kd_tensor *head_of(kd_tape *tape, kd_tensor *x, size_t at, kd_layer *head)
{
    const size_t shape[] = { x->shape[0], x->rank == 3 ? x->shape[2] : 0 };
    return kd_layer_forward(head, tape, kd_reshape(tape, kd_slice(tape, x, 1, at, at + 1), 2, shape));
}

kd_tensor *kd__layer_run_vit(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    kd_layer *patch_embed = self->first, *blocks = patch_embed->next, *norm = blocks->next, *head = norm->next;
    kd_layer *head_dist = head->next;
    const size_t special = head_dist ? 2 : 1;
    kd_tensor *position = kd__slot(self, 1);
    kd_tensor *patches = kd_layer_forward(patch_embed, tape, x);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    const size_t shape[] = { patches->shape[0], patches->shape[1] * patches->shape[2], patches->shape[3] };
    if (shape[1] + special != position->shape[1]) {
        const kd_status status = kd__fail(KD_ERR_SHAPE, "vit: x %S gives %zu patches: the model has positions for %zu", (size_t)x->rank,
                                          x->shape, shape[1], position->shape[1] - special);
        return kd__tape_fail_in(tape, "vit", status);
    }
    kd_tensor *parts[3];
    for (size_t i = 0; i < special; i++) parts[i] = token(tape, kd__slot(self, 2 * i), shape[0]);
    parts[special] = kd_reshape(tape, patches, 3, shape);
    kd_tensor *tokens = kd_concat(tape, parts, special + 1, 1), *placed = kd_add(tape, tokens, position);
    kd__release_unless(tape, tokens, placed, x);
    kd__release_unless(tape, parts[special], placed, x);
    kd_tensor *h = kd_dropout(tape, placed, self->u.vit.dropout), *last = kd_layer_forward(blocks, tape, h);
    kd__release_unless(tape, h, x, last);
    kd_tensor *y = kd_layer_forward(norm, tape, last);
    kd__release_unless(tape, last, x, y);
    kd_tensor *logits = head_of(tape, y, 0, head);
    if (!head_dist) return logits;
    kd_tensor *second = head_of(tape, y, 1, head_dist);
    if (tape->mode == KD_TAPE_TRAIN) return logits;
    return kd_scale(tape, kd_add(tape, logits, second), 0.5f, 0.0f);
}

/* ---- building ------------------------------------------------------------------------------------------------------ */

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
