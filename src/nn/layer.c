/* layer.c - the tree: names, paths, sticky errors of the builders, and running one layer.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"
#include <stdarg.h>

static const struct layer_kind {
    const char *name;
    bool        takes_children;
    kd_tensor *(*run)(kd_layer *self, kd_tape *tape, kd_tensor *x);
} layer_kinds[] = {
#define LAYER(name, takes_children) { #name, takes_children, kd__layer_run_##name },
#include "nn/layers.def"
#undef LAYER
};

/* What builders return when there is no model to hold the error.  Never written. */
static kd_layer orphan = { .name = "", .path = "", .type = KD__LAYER_COUNT };

kd_layer *kd_model_root(kd_model *model)
{
    if (!model) kd__fail(KD_ERR_ARG, "%s: model is NULL", __func__);
    return model ? model->root : &orphan;
}

void *kd__model_alloc(kd_model *model, size_t bytes)
{
    void *ptr = kd__arena_push(&model->arena, bytes);
    if (ptr) memset(ptr, 0, bytes);
    else kd__layer_fail(model->root ? model->root : &model->poison, KD_ERR_NOMEM, "%s", kd_last_error());
    return ptr;
}

kd_layer *kd__layer_fail(kd_layer *layer, kd_status status, const char *format, ...)
{
    kd_model *model = layer->model;
    if (model->status == KD_OK) {
        va_list args;
        va_start(args, format);
        kd__vfail(status, format, args);
        va_end(args);
        if (*layer->path) kd__fail_prefix(status, "%s: ", layer->path);
        if (!model->finished) {
            model->status = status;
            kd__format(model->text, sizeof model->text, "%s", kd_last_error());
        }
    }
    return &model->poison;
}

kd_layer *kd__layer_done(kd_layer *layer) { return layer->model->status == KD_OK ? layer : &layer->model->poison; }

/* Letters, digits, '_' and '-': no dot, no colon (taps), nothing a glob or a file format minds. */
static bool name_valid(const char *name)
{
    size_t n = 0;
    for (; name[n]; n++) {
        char c = name[n];
        if (n == KD__MAX_NAME) return false;
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-')) return false;
    }
    return n > 0;
}

static bool name_taken(const kd_layer *layer, const char *name)
{
    for (const kd_layer *c = layer->first; c; c = c->next)
        if (!strcmp(c->name, name)) return true;
    for (const kd__param *p = layer->first_param; p; p = p->next)
        if (!strcmp(p->name, name)) return true;
    return false;
}

/* "parent.name", in the model's memory; *own is set to the part after the dot. */
static const char *path_join(kd_model *model, const kd_layer *parent, const char *name, const char **own)
{
    size_t before = strlen(parent->path), n = strlen(name), dot = before ? 1 : 0;
    char *path = kd__model_alloc(model, before + dot + n + 1);
    if (!path) return NULL;
    memcpy(path, parent->path, before);
    if (dot) path[before] = '.';
    memcpy(path + before + dot, name, n + 1);
    *own = path + before + dot;
    return path;
}

/* May something be added to `layer`?  False: the error is set, `*out` is what the builder returns. */
static bool may_add(kd_layer *layer, const char *what, const char *function, kd_layer **out)
{
    if (!layer) {
        kd__fail(KD_ERR_ARG, "%s: %s is NULL", function, what);
        *out = &orphan;
        return false;
    }
    if (!layer->model) {
        *out = layer;
        return false;
    }
    *out = &layer->model->poison;
    if (layer->model->status != KD_OK) return false;
    if (layer->model->finished) {   /* not sticky: the model is good as it is */
        kd__fail(KD_ERR_STATE, "%s: the model is finished: nothing can be added", function);
        return false;
    }
    if (kd__layer_is_poison(layer)) {
        kd__layer_fail(layer, KD_ERR_ARG, "%s: %s is a layer of a failed call", function, what);
        return false;
    }
    return true;
}

kd_layer *kd__layer_new(kd_layer *parent, const char *name, kd__layer_type type, const char *function)
{
    kd_layer *out;
    if (!may_add(parent, "parent", function, &out)) return out;
    kd_model *model = parent->model;
    if (!layer_kinds[parent->type].takes_children)
        return kd__layer_fail(parent, KD_ERR_ARG, "%s: parent: a %s layer takes no children", function,
                              layer_kinds[parent->type].name);
    if (parent->type == KD__LAYER_parallel && parent->children == KD__MAX_PARALLEL)
        return kd__layer_fail(parent, KD_ERR_LIMIT, "%s: parent: a parallel takes at most %u children", function,
                              KD__MAX_PARALLEL);
    if (parent->depth + 1 > KD__MAX_DEPTH)
        return kd__layer_fail(parent, KD_ERR_LIMIT, "%s: parent: deeper than %u levels", function, KD__MAX_DEPTH);
    char position[24];
    if (!name) {
        kd__format(position, sizeof position, "%zu", parent->children);
        name = position;
    }
    if (!name_valid(name))
        return kd__layer_fail(parent, KD_ERR_ARG, "%s: name \"%s\": must be 1 to %u letters, digits, '_' or '-'", function, name,
                              KD__MAX_NAME);
    if (name_taken(parent, name))
        return kd__layer_fail(parent, KD_ERR_ARG, "%s: name \"%s\" is taken", function, name);

    kd_layer *layer = kd__model_alloc(model, sizeof *layer);
    if (!layer || !(layer->path = path_join(model, parent, name, &layer->name))) return &model->poison;
    layer->model = model;
    layer->parent = parent;
    layer->type = type;
    layer->depth = parent->depth + 1;
    layer->index = model->layer_count++;
    if (parent->last) parent->last->next = layer;
    else parent->first = layer;
    parent->last = layer;
    parent->children++;
    return layer;
}

void kd__layer_param(kd_layer *layer, const char *name, size_t rank, const size_t *shape, uint32_t kind, kd__init init,
                     size_t fan_in, size_t fan_out)
{
    kd_model *model = layer->model;
    if (model->status != KD_OK) return;
    kd__param *param = kd__model_alloc(model, sizeof *param);
    if (!param || !(param->path = path_join(model, layer, name, &param->name))) return;
    kd_status status = kd__tensor_init(&param->tensor, name, KD_F32, rank, shape, NULL);
    if (status != KD_OK) {
        kd__layer_fail(layer, status, "%s", kd_last_error());
        return;
    }
    param->tensor.owner = KD__OWNER_MODEL;
    param->layer = layer;
    param->kind = kind;
    param->init = init;
    param->fan_in = fan_in;
    param->fan_out = fan_out;
    for (size_t i = 0; i < KD_COUNT(layer->slot); i++)
        if (!layer->slot[i]) {
            layer->slot[i] = param;
            break;
        }
    if (layer->last_param) layer->last_param->next = param;
    else layer->first_param = param;
    layer->last_param = param;
}

void kd__layer_set_init(kd_layer *layer, const char *name, uint32_t kind, float a, float b)
{
    if (kd__layer_is_poison(layer)) return;
    for (kd__param *p = layer->first_param; p; p = p->next)
        if (!strcmp(p->name, name)) p->init = (kd__init){ kind, a, b };
}

/* A parameter or buffer of a user-defined block. */
static void block_param(kd_layer *layer, const char *name, size_t rank, const size_t *shape, uint32_t kind, kd__init init,
                        const char *function)
{
    kd_layer *out;
    if (!may_add(layer, "layer", function, &out)) return;
    if (layer->type != KD__LAYER_block) {
        kd__layer_fail(layer, KD_ERR_ARG, "%s: layer: a %s is not a block", function, kd__layer_type_name(layer));
        return;
    }
    if (!name || !name_valid(name)) {
        kd__layer_fail(layer, KD_ERR_ARG, "%s: name \"%s\": must be 1 to %u letters, digits, '_' or '-'", function,
                       name ? name : "(NULL)", KD__MAX_NAME);
        return;
    }
    if (name_taken(layer, name)) {
        kd__layer_fail(layer, KD_ERR_ARG, "%s: name \"%s\" is taken", function, name);
        return;
    }
    if (!rank || rank > KD_MAX_RANK || !shape) {
        kd__layer_fail(layer, KD_ERR_ARG, "%s: %s: rank %zu with a shape, of 1 to %u, is needed", function, name, rank,
                       KD_MAX_RANK);
        return;
    }
    if (kd__init_check(function, init) != KD_OK) {
        kd__layer_fail(layer, KD_ERR_ARG, "%s", kd_last_error());
        return;
    }
    /* [.., in, out]: everything before the last two is the receptive field. */
    size_t field = 1, all = 1;
    for (size_t i = 0; i < rank; i++) {
        if (!shape[i]) {
            kd__layer_fail(layer, KD_ERR_ARG, "%s: %s: shape %S: a size is 0", function, name, rank, shape);
            return;
        }
        if (!kd__mul(all, shape[i], &all)) {
            kd__layer_fail(layer, KD_ERR_OVERFLOW, "%s: %s: shape %S is too large", function, name, rank, shape);
            return;
        }
        if (i + 2 < rank) field *= shape[i];
    }
    size_t fan_in = rank == 1 ? all : all / shape[rank - 1];
    size_t fan_out = rank == 1 ? all : field * shape[rank - 1];
    kd__layer_param(layer, name, rank, shape, kind, init, fan_in, fan_out);
}

void kd_layer_add_parameter(kd_layer *layer, const char *name, size_t rank, const size_t *shape, uint32_t init, float a, float b)
{
    block_param(layer, name, rank, shape, KD_PARAM_PLAIN, (kd__init){ init, a, b }, __func__);
}

void kd_layer_add_buffer(kd_layer *layer, const char *name, size_t rank, const size_t *shape, float value)
{
    block_param(layer, name, rank, shape, KD_PARAM_PLAIN | KD_PARAM_BUFFER, (kd__init){ KD_INIT_CONSTANT, value, 0.0f },
                __func__);
}

kd_tensor *kd_layer_parameter(kd_layer *layer, const char *name)
{
    if (!layer || !name) {
        kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, layer ? "name" : "layer");
        return NULL;
    }
    if (!layer->model || !layer->model->finished) {
        kd__fail(KD_ERR_STATE, "%s: \"%s\": the model is not finished", __func__, name);
        return NULL;
    }
    for (kd__param *p = layer->first_param; p; p = p->next)
        if (!strcmp(p->name, name)) return &p->tensor;
    kd__fail(KD_ERR_ARG, "%s: \"%s\" has no parameter \"%s\"", __func__, layer->path, name);
    return NULL;
}

kd_layer *kd__layer_at(kd_layer *layer, const char *path, size_t length)
{
    while (length) {
        const char *dot = memchr(path, '.', length);
        size_t n = dot ? (size_t)(dot - path) : length;
        kd_layer *child = layer->first;
        while (child && (strncmp(child->name, path, n) || child->name[n])) child = child->next;
        if (!child || (dot && n + 1 == length)) return NULL;
        layer = child;
        path += n;
        length -= n;
        if (dot) {
            path++;
            length--;
        }
    }
    return layer;
}

kd_layer *kd_layer_child(kd_layer *layer, const char *path)
{
    if (!layer || !path) {
        kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, layer ? "path" : "layer");
        return NULL;
    }
    kd_layer *child = *path ? kd__layer_at(layer, path, strlen(path)) : NULL;
    if (!child) kd__fail(KD_ERR_ARG, "%s: \"%s\" has no layer \"%s\"", __func__, layer->path, path);
    return child;
}

kd_layer *kd__layer_next(const kd_layer *top, kd_layer *layer)
{
    if (layer->first) return layer->first;
    while (layer != top && !layer->next) layer = layer->parent;
    return layer == top ? NULL : layer->next;
}

const char *kd_layer_path(const kd_layer *layer) { return layer ? layer->path : ""; }

const char *kd__layer_type_name(const kd_layer *layer)
{
    if (layer->type == KD__LAYER_block) return layer->u.block->type;
    if (layer->type == KD__LAYER_activation) return kd__activation_name(layer->u.activation);
    return kd__layer_is_poison(layer) ? "poison" : layer_kinds[layer->type].name;
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

void kd__release_unless(kd_tape *tape, kd_tensor *x, const kd_tensor *stays, const kd_tensor *stays_too)
{
    if (kd__tape_ok(tape) && x != stays && x != stays_too && x->tape == tape)
        kd__tape_release(tape, x);
}

void kd__tap_store(kd_tape *tape, const bool *flag, kd_tensor *y)
{
    if (!*flag || !kd__tape_ok(tape)) return;
    kd__tape_keep(tape, y);
    kd__tape_set_tag(tape, flag, y);
}

kd_tensor *kd__forward_children(kd_layer *self, kd_tape *tape, kd_tensor *x, kd__join *join)
{
    kd_tensor *y = x;
    for (kd_layer *child = self->first; child; child = child->next) {
        if (child->is_shortcut) continue;
        kd_tensor *next;
        kd_layer *last = kd__chain_forward(child, tape, y, join, &next);
        if (last) child = last;
        else next = kd_layer_forward(child, tape, y);
        kd__release_unless(tape, y, x, next);
        y = next;
    }
    return y;
}

bool kd__layer_may_run(const kd_layer *layer, kd_tape *tape, const kd_tensor *x)
{
    static const char function[] = "kd_layer_forward";
    kd_status status = KD_OK;
    if (!layer) status = kd__fail(KD_ERR_ARG, "%s: layer is NULL", function);
    else if (kd__layer_is_poison(layer)) status = kd__fail(KD_ERR_ARG, "%s: layer: made by a call that failed", function);
    else if (!layer->model->finished) status = kd__fail(KD_ERR_STATE, "%s: the model is not finished", function);
    else if (kd_context_cancelled(tape->ctx)) status = kd__fail(KD_ERR_CANCELLED, "%s: cancelled", function);
    if (status != KD_OK) {
        kd__tape_fail_in(tape, function, status);
        return false;
    }
    if (kd__tensor_alive(x)) return true;
    tape->op_name = function;
    tape->op_number = 0;
    kd__input_fail(tape, x, function, "x");
    return false;
}

kd_tensor *kd_layer_forward(kd_layer *layer, kd_tape *tape, kd_tensor *x)
{
    if (!tape) kd__fail(KD_ERR_ARG, "%s: tape is NULL", __func__);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    if (kd__layer_may_run(layer, tape, x)) {
        const size_t mark = kd__tape_block_mark(tape);
        const uint64_t before = tape->multiply_adds;
        kd_tensor *y = layer_kinds[layer->type].run(layer, tape, x);
        if (kd__tape_ok(tape) && !kd__tensor_alive(y)) {
            tape->op_name = kd__layer_type_name(layer);
            tape->op_number = 0;
            kd__input_fail(tape, y, tape->op_name, "the result");
        }
        if (kd__tape_ok(tape)) {
            kd__tape_release_since(tape, mark, y);
            kd__tap_store(tape, &layer->tap_out, y);
            kd__tape_observe(tape, layer, y, tape->multiply_adds - before);
        }
        if (kd__tape_ok(tape)) return y;
    }
    if (layer && *layer->path) kd__tape_place_error(tape, layer->path);
    return kd__poison(tape);
}
