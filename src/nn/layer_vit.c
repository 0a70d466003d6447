/* layer_vit.c - how a vision transformer runs; zoo/vit.c builds it.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

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
