/* layer_chain.c - neighbours that run as one op: a convolution or linear layer, batch norm, the sum of a residual, ReLU.  One pass
 * over memory instead of one for each, with the same bits.
 *
 * Where nothing is recorded, all of them together.  Where a tape records, batch norm needs the statistics of its whole input first:
 * convolution or linear and ReLU, or batch norm, sum and ReLU.  GELU and the linear layer behind it are one op either way; where
 * nothing is recorded, with the linear layer in front of it too.  An output that somebody asked to see (a tap, a summary, the search
 * for numbers that are not finite) ends the chain.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"
#include "autograd/norm.h"
#include "nn/nn.h"

typedef struct chain {
    kd_layer *inner, *product, *norm, *last;   /* inner: a linear layer in front of the GELU in front of the product */
    bool      relu, gelu;   /* behind them; before the product */
} chain;

static bool is_product(const kd_layer *l)
{
    return l->type == KD__LAYER_conv2d || l->type == KD__LAYER_conv1d || l->type == KD__LAYER_linear;
}

/* What follows `l`, if l's own output is nobody else's to see. */
static kd_layer *follower(const kd_layer *l)
{
    kd_layer *next = l->next;
    while (next && next->is_shortcut) next = next->next;
    return l->tap_out ? NULL : next;
}

static size_t channels_of(const kd_layer *l)   /* the last axis of a weight */
{
    const kd_tensor *weight = &l->slot[0]->tensor;
    return weight->shape[weight->rank - 1];
}

static chain find(kd_layer *first, const kd_tape *tape)
{
    const bool infer = tape->mode == KD_TAPE_INFER;
    chain c = { .last = first };
    kd_layer *next = first;
    if (infer && first->type == KD__LAYER_linear && (next = follower(first)) && next->type == KD__LAYER_activation &&
        next->u.activation == KD_ACT_GELU && follower(next) && follower(next)->type == KD__LAYER_linear) {
        c.inner = first;
        first = next;
    }
    if (first->type == KD__LAYER_activation && first->u.activation == KD_ACT_GELU) {
        next = follower(first);
        if (next && next->type == KD__LAYER_linear) {
            c.gelu = true;
            c.last = first = next;
        }
    }
    if (is_product(first)) {
        c.product = first;
        next = follower(first);
        const bool fits = infer && next && next->type == KD__LAYER_batch_norm && channels_of(next) == channels_of(first);
        if (fits) c.norm = c.last = next;
    } else if (first->type == KD__LAYER_batch_norm && (infer || (tape->mode == KD_TAPE_TRAIN && !first->model->frozen))) {
        c.norm = first;
    }
    if (c.norm == next && next) next = follower(next);
    if ((c.product || c.norm) && next && next->type == KD__LAYER_activation && next->u.activation == KD_ACT_RELU) {
        c.last = next;
        c.relu = true;
    }
    return c;
}

/* The shape of a chain's result; false if its first op would refuse x. */
static bool result_shape(const chain *c, const kd_tensor *x, size_t *shape)
{
    memcpy(shape, x->shape, sizeof x->shape);
    if (!x->rank) return false;
    if (!c->product) return true;
    if (c->product->type != KD__LAYER_linear) {
        const kd_tensor *weight = &c->product->slot[0]->tensor;
        const kd_conv_desc *d = &c->product->u.conv;
        const size_t axes = weight->rank - 2u;
        if (x->rank != weight->rank) return false;
        for (size_t i = 0; i < axes; i++) {
            size_t size = x->shape[1 + i] + 2 * (size_t)d->padding[i], span = d->dilation[i] * (weight->shape[i] - 1) + 1;
            if (size < span) return false;
            shape[1 + i] = (size - span) / d->stride[i] + 1;
        }
    }
    shape[x->rank - 1] = channels_of(c->product);
    return true;
}

/* May the last op do the sum too?  Then *direct is the other side. */
static bool take_sum(const chain *c, kd_tape *tape, const kd_tensor *x, kd__join *join, kd_tensor **direct)
{
    size_t shape[KD_MAX_RANK];
    const kd_layer *residual = join->residual, *next = c->last->next;
    while (next && next->is_shortcut) next = next->next;
    if (next || c->relu || c->last->tap_out || residual->tap_pre || !(c->norm || tape->mode == KD_TAPE_INFER)) return false;
    if (residual->u.activation != KD_ACT_NONE && residual->u.activation != KD_ACT_RELU) return false;
    if (!result_shape(c, x, shape) || join->x->rank != x->rank) return false;
    /* A shortcut of other layers must be run to be known; what it gives can still be added by itself. */
    if (join->shortcut) return true;
    *direct = join->x;
    return (*direct)->dtype == KD_F32 && kd__tensor_contiguous(*direct) && !memcmp(shape, (*direct)->shape, x->rank * sizeof *shape);
}

/* May `inner` take x, and the product what it gives? */
static bool inner_fits(const chain *c, const kd_tensor *x)
{
    return x->dtype == KD_F32 && x->rank && x->shape[x->rank - 1] == c->inner->slot[0]->tensor.shape[0] &&
           channels_of(c->inner) == c->product->slot[0]->tensor.shape[0];
}

static kd_tensor *run_product(const chain *c, kd_tape *tape, kd_tensor *x, const kd__after *after)
{
    kd_layer *l = c->product;
    kd__after with = *after;
    kd__gemm_args inner;
    if (c->inner) {
        const kd_tensor *w = kd__slot(c->inner, 0), *b = kd__slot(c->inner, 1);
        inner = (kd__gemm_args){ .n = w->shape[1], .k = w->shape[0], .b = w->data, .b_stride = w->shape[1],
                                 .after = { .bias = b ? b->data : NULL } };
        kd__gemm_keep(tape->ctx, &inner, kd__layer_packed(c->inner, tape));
        with.inner = &inner;
        after = &with;
    }
    kd_tensor *weight = kd__slot(l, 0), *bias = kd__slot(l, 1);
    kd__packed *packed = kd__layer_packed(l, tape);
    if (l->type == KD__LAYER_conv2d) return kd__conv2d(tape, x, weight, bias, &l->u.conv, after, packed);
    if (l->type == KD__LAYER_conv1d) return kd__conv1d(tape, x, weight, bias, &l->u.conv, after, packed);
    return kd__linear(tape, x, weight, bias, after, packed);
}

static bool fold(void *arg, float *out)
{
    kd_layer *norm = arg;
    const size_t c = channels_of(norm);
    kd__batch_norm_fold(c, kd__slot(norm, 0)->data, kd__slot(norm, 1)->data, kd__slot(norm, 2)->data, kd__slot(norm, 3)->data,
                        norm->u.norm.eps, out, out + c);
    return true;
}

static kd_tensor *run(const chain *c, kd_tape *tape, kd_tensor *x, kd__after *after)
{
    kd_layer *norm = c->norm;
    if (!c->product)
        return kd__batch_norm(tape, x, kd__slot(norm, 0), kd__slot(norm, 1), kd__slot(norm, 2), kd__slot(norm, 3), norm->u.norm.momentum,
                              norm->u.norm.eps, norm->model->frozen, after);
    if (!norm) return run_product(c, tape, x, after);
    const size_t channels = channels_of(norm);
    kd__packed *packed = kd__layer_packed(norm, tape);
    const float *folded = packed ? kd__packed_get(tape->ctx, packed, KD__PACKED_NORM, 2 * channels, fold, norm) : NULL;
    float *own = NULL;
    if (!folded) {
        folded = own = kd__scratch_get(tape->ctx, 2 * channels * sizeof *own);
        if (!own) return kd__tape_fail(tape, KD_ERR_NOMEM);
        fold(norm, own);
    }
    after->scale = folded;
    after->shift = folded + channels;
    kd_tensor *y = run_product(c, tape, x, after);
    kd__scratch_put(tape->ctx, own);
    return y;
}

kd_layer *kd__chain_forward(kd_layer *first, kd_tape *tape, kd_tensor *x, kd__join *join, kd_tensor **y)
{
    if (!kd__tape_ok(tape) || tape->observer || tape->check_finite || !kd__tensor_alive(x)) return NULL;
    chain c = find(first, tape);
    if ((!c.product && !c.norm) || (c.inner && !inner_fits(&c, x))) return NULL;
    kd_tensor *direct = NULL;
    const bool sum = join && take_sum(&c, tape, x, join, &direct);
    if (c.last == first && !sum) return NULL;
    if (!kd__layer_may_run(first, tape, x)) {
        kd__tape_place_error(tape, first->path);
        *y = kd__poison(tape);
        return c.last;
    }
    const size_t mark = kd__tape_block_mark(tape);
    kd__after after = { .relu = c.relu, .gelu = c.gelu };
    bool fused = sum;
    if (sum) {
        size_t shape[KD_MAX_RANK];
        if (join->shortcut) {
            direct = kd_layer_forward(join->shortcut, tape, join->x);
            fused = kd__tape_ok(tape) && result_shape(&c, x, shape) && direct->rank == x->rank && direct->dtype == KD_F32 &&
                    kd__tensor_contiguous(direct) && !memcmp(shape, direct->shape, x->rank * sizeof *shape);
        }
        if (fused) {
            after.residual = direct;
            after.relu = join->residual->u.activation == KD_ACT_RELU;
        }
    }
    *y = kd__tape_ok(tape) ? run(&c, tape, x, &after) : kd__poison(tape);
    if (!kd__tape_ok(tape)) {
        kd__tape_place_error(tape, first->path);
        *y = kd__poison(tape);
    }
    if (sum) {
        if (!fused) *y = kd__activate(tape, join->residual->u.activation, kd_add(tape, *y, direct));
        join->done = true;
    }
    if (kd__tape_ok(tape)) {
        kd__tape_release_since(tape, mark, *y);
        if (!sum) kd__tap_store(tape, &c.last->tap_out, *y);
    }
    return c.last;
}
