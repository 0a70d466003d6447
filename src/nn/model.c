/* model.c - kd_model: create, finish, run, clone, free.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "nn/nn.h"

kd_status kd_model_create(kd_model **out, kd_context *ctx)
{
    KD_NEED(out);
    *out = NULL;
    ctx = kd__context_retain(ctx);
    kd_model *model = kd__alloc(ctx, sizeof *model);
    if (!model) {
        kd__context_release(ctx);
        return KD_ERR_NOMEM;
    }
    model->ctx = ctx;
    kd__arena_init(&model->arena, ctx);
    model->poison = (kd_layer){ .model = model, .name = "", .path = "", .type = KD__LAYER_COUNT };
    kd_layer *root = kd__model_alloc(model, sizeof *root);
    if (!root) {
        kd_model_free(model);
        return KD_ERR_NOMEM;
    }
    root->model = model;
    root->name = root->path = "";
    root->type = KD__LAYER_sequence;
    model->root = root;
    model->layer_count = 1;
    *out = model;
    return KD_OK;
}

void kd_model_free(kd_model *model)
{
    if (!model) return;
    kd_context *ctx = model->ctx;
    for (kd_layer *l = model->root; l; l = kd__layer_next(model->root, l)) {
        if (l->type == KD__LAYER_block) kd__user_block_release(ctx, l->u.block);
        kd__free(ctx, l->packed.data);
    }
    kd__monitor_free(model->lock);
    kd__free(ctx, model->weights);
    kd__free(ctx, model->grads);
    kd__free(ctx, model->buffers);
    kd__free(ctx, model->norm);
    kd__arena_free(&model->arena);
    kd__free(ctx, model);
    kd__context_release(ctx);
}

/* ---- finish: lay out the blocks ---------------------------------------------------------------------------------- */

enum { ALIGN_FLOATS = KD_ALIGN / sizeof(float) };

/* Append the parameters (or the buffers) of the whole tree to the entries, at multiples of 16 floats of their block. */
static kd_status lay_out(kd_model *model, uint32_t buffer, size_t *block_floats)
{
    size_t at = 0;
    for (kd_layer *l = model->root; l; l = kd__layer_next(model->root, l))
        for (kd__param *p = l->first_param; p; p = p->next) {
            if ((p->kind & KD_PARAM_BUFFER) != buffer) continue;
            p->offset = at;
            if (!kd__add(at, p->tensor.count, &at) || !kd__round_up(at, ALIGN_FLOATS, &at))
                return kd__fail(KD_ERR_OVERFLOW, "kd_model_finish: %s: the parameters do not fit in memory", p->path);
            if (!buffer) model->size += p->tensor.count;
            model->entries[model->entry_count++] = p;
        }
    *block_floats = at;
    return KD_OK;
}

static void unfinish(kd_model *model)
{
    kd__free(model->ctx, model->weights);
    kd__free(model->ctx, model->grads);
    kd__free(model->ctx, model->buffers);
    kd__monitor_free(model->lock);
    model->lock = NULL;
    model->weights = model->grads = model->buffers = NULL;
    model->size = model->entry_count = model->parameter_count = 0;
}

/* Everything of kd_model_finish but the initial values (the blocks are zero).  On failure nothing is kept. */
static kd_status allocate(kd_model *model)
{
    size_t count = 0;
    for (kd_layer *l = model->root; l; l = kd__layer_next(model->root, l)) {
        if (l->type == KD__LAYER_parallel && !l->first)
            return kd__fail(KD_ERR_ARG, "%s: kd_layer_parallel: it has no children", l->path);
        for (kd__param *p = l->first_param; p; p = p->next) count++;
    }
    size_t bytes;
    if (!kd__mul(count, sizeof *model->entries, &bytes)) return kd__fail(KD_ERR_OVERFLOW, "kd_model_finish: too many parameters");
    model->entries = kd__arena_push(&model->arena, bytes);
    if (!model->entries) return KD_ERR_NOMEM;
    KD_TRY(lay_out(model, 0, &model->weight_floats));
    model->parameter_count = model->entry_count;
    KD_TRY(lay_out(model, KD_PARAM_BUFFER, &model->buffer_floats));
    model->weights = kd__alloc_array(model->ctx, model->weight_floats, sizeof(float));
    model->grads = kd__alloc_array(model->ctx, model->weight_floats, sizeof(float));
    model->buffers = kd__alloc_array(model->ctx, model->buffer_floats, sizeof(float));
    if (!model->weights || !model->grads || !model->buffers) return KD_ERR_NOMEM;
    KD_TRY(kd__monitor_create(model->ctx, &model->lock));
    for (kd_layer *l = model->root; l; l = kd__layer_next(model->root, l)) {
        l->packed.lock = model->lock;
        l->packed.version = &model->version;
    }
    for (size_t i = 0; i < model->entry_count; i++) {
        kd__param *p = model->entries[i];
        bool trained = i < model->parameter_count;
        p->tensor.data = (trained ? model->weights : model->buffers) + p->offset;
        p->tensor.grad = trained ? model->grads + p->offset : NULL;
        p->tensor.is_parameter = trained;
        p->tensor.requires_grad = trained;
    }
    return KD_OK;
}

static kd_status finish(kd_model *model)
{
    kd_status status = allocate(model);
    if (status != KD_OK) unfinish(model);
    else model->finished = true;
    return status;
}

kd_status kd_model_finish(kd_model *model, uint64_t seed)
{
    KD__FP_SCOPE;
    KD_NEED(model);
    if (model->status != KD_OK) return kd__fail(model->status, "%s", model->text);
    if (model->finished) return kd__fail(KD_ERR_STATE, "%s: the model is finished already", __func__);
    KD_TRY(finish(model));
    for (size_t i = 0; i < model->entry_count; i++)
        kd__init_fill(model->ctx, model->entries[i], model->entries[i]->init, seed);
    return KD_OK;
}

/* ---- run ------------------------------------------------------------------------------------------------------------ */

/* x as the layers see it; poison on error. */
static kd_tensor *normalised(kd_model *model, kd_tape *tape, kd_tensor *x)
{
    if (!model->norm_channels) return x;
    if (!x->rank || x->shape[x->rank - 1] != model->norm_channels)
        return kd__tape_fail_in(tape, "kd_model_forward",
                                kd__fail(KD_ERR_SHAPE, "x %S: the input normalisation has %zu channels", (size_t)x->rank,
                                         x->shape, model->norm_channels));
    kd_tensor *centred = kd_sub(tape, x, &model->norm_mean);
    kd_tensor *scaled = kd_div(tape, centred, &model->norm_std);
    kd__release_unless(tape, centred, x, scaled);
    return scaled;
}

kd_tensor *kd_model_forward(kd_model *model, kd_tape *tape, kd_tensor *x)
{
    if (!tape) kd__fail(KD_ERR_ARG, "%s: tape is NULL", __func__);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    kd_status status = KD_OK;
    if (!model) status = kd__fail(KD_ERR_ARG, "model is NULL");
    else if (model->status != KD_OK) status = kd__fail(model->status, "%s", model->text);
    else if (!model->finished) status = kd__fail(KD_ERR_STATE, "the model is not finished");
    if (status != KD_OK) return kd__tape_fail_in(tape, __func__, status);
    if (!kd__tensor_alive(x)) {
        tape->op_name = __func__;
        tape->op_number = 0;
        return kd__input_fail(tape, x, __func__, "x");
    }
    kd_tensor *in = normalised(model, tape, x);
    kd_tensor *y = kd_layer_forward(model->root, tape, in);
    kd__release_unless(tape, in, x, y);
    return y;
}

/* ---- clone ----------------------------------------------------------------------------------------------------------- */

/* Repeat what was built below src under dst. */
static void clone_children(kd_layer *dst, const kd_layer *src)
{
    for (const kd__param *p = src->first_param; p; p = p->next)
        kd__layer_param(dst, p->name, p->tensor.rank, p->tensor.shape, p->kind, p->init, p->fan_in, p->fan_out);
    for (const kd_layer *from = src->first; from; from = from->next) {
        kd_layer *to = kd__layer_new(dst, from->name, from->type, "kd_model_clone");
        if (kd__layer_is_poison(to)) return;
        to->u = from->u;
        if (from->type == KD__LAYER_block) atomic_fetch_add_explicit(&from->u.block->references, 1, memory_order_relaxed);
        to->is_shortcut = from->is_shortcut;
        to->tap_out = from->tap_out;
        to->tap_pre = from->tap_pre;
        clone_children(to, from);
    }
    dst->children = src->children;
}

kd_status kd_model_clone(kd_model **out, const kd_model *model)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(model);
    if (!model->finished) return kd__fail(KD_ERR_STATE, "%s: the model is not finished", __func__);
    kd_model *copy;
    KD_TRY(kd_model_create(&copy, model->ctx));
    copy->root->type = model->root->type;
    copy->root->u = model->root->u;
    copy->root->tap_out = model->root->tap_out;
    copy->root->tap_pre = model->root->tap_pre;
    clone_children(copy->root, model->root);
    kd_status status = copy->status;
    if (status == KD_OK) status = finish(copy);
    if (status == KD_OK && model->norm_channels)
        status = kd_model_set_input_norm(copy, model->norm_channels, model->norm, model->norm + model->norm_channels);
    if (status != KD_OK) {
        kd_model_free(copy);
        return status;
    }
    memcpy(copy->weights, model->weights, model->weight_floats * sizeof(float));
    memcpy(copy->buffers, model->buffers, model->buffer_floats * sizeof(float));
    *out = copy;
    return KD_OK;
}
