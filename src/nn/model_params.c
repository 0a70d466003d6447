/* model_params.c - the parameters of a model: by index, by name, as blocks; freezing, copying, the input normalisation.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "nn/nn.h"
#include <math.h>

static bool not_ready(const kd_model *model, const char *function)
{
    if (!model) kd__fail(KD_ERR_ARG, "%s: model is NULL", function);
    else if (!model->finished) kd__fail(KD_ERR_STATE, "%s: the model is not finished", function);
    else return false;
    return true;
}

/* The same as a status. */
#define NEED_READY(model)                                                  \
    do {                                                                   \
        if (not_ready(model, __func__)) return model ? KD_ERR_STATE : KD_ERR_ARG; \
    } while (0)

size_t kd_model_parameter_count(const kd_model *model) { return not_ready(model, __func__) ? 0 : model->entry_count; }

static kd_status write_info(kd_param_info *out, kd__param *p, const char *function)
{
    char what[60];
    kd__format(what, sizeof what, "%s: out", function);
    KD_TRY(kd__info_check(out, sizeof *out, what));
    const kd_param_info info = {
        .name = p->path,
        .tensor = &p->tensor,
        .grad = p->tensor.grad,
        .kind = p->kind,
        .offset = p->offset,
    };
    kd__info_write(out, &info, sizeof info);
    return KD_OK;
}

kd_status kd_model_parameter_at(const kd_model *model, size_t i, kd_param_info *out)
{
    NEED_READY(model);
    KD_NEED(out);
    if (i >= model->entry_count) return kd__fail(KD_ERR_ARG, "%s: i %zu: the model has %zu", __func__, i, model->entry_count);
    return write_info(out, model->entries[i], __func__);
}

static kd__param *find(const kd_model *model, const char *name)
{
    for (size_t i = 0; i < model->entry_count; i++)
        if (!strcmp(model->entries[i]->path, name)) return model->entries[i];
    return NULL;
}

kd_status kd_model_find(const kd_model *model, const char *name, kd_param_info *out)
{
    NEED_READY(model);
    KD_NEED(name);
    KD_NEED(out);
    kd__param *p = find(model, name);
    if (p) return write_info(out, p, __func__);
    const kd__param *nearest = NULL;
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < model->entry_count; i++) {
        size_t distance = kd__edit_distance(model->entries[i]->path, name);
        if (distance < best) {
            best = distance;
            nearest = model->entries[i];
        }
    }
    if (!nearest) return kd__fail(KD_ERR_ARG, "%s: no \"%s\": the model has no parameters", __func__, name);
    return kd__fail(KD_ERR_ARG, "%s: no \"%s\" (the nearest is \"%s\")", __func__, name, nearest->path);
}

size_t kd_model_size(const kd_model *model) { return not_ready(model, __func__) ? 0 : model->size; }

float *kd_model_weights(kd_model *model, size_t *count)
{
    bool ready = !not_ready(model, __func__);
    if (count) *count = ready ? model->weight_floats : 0;
    return ready ? model->weights : NULL;
}

float *kd_model_grads(kd_model *model, size_t *count)
{
    bool ready = !not_ready(model, __func__);
    if (count) *count = ready ? model->weight_floats : 0;
    return ready ? model->grads : NULL;
}

float *kd_model_buffers(kd_model *model, size_t *count)
{
    bool ready = !not_ready(model, __func__);
    if (count) *count = ready ? model->buffer_floats : 0;
    return ready ? model->buffers : NULL;
}

const float *kd_model_grad(const kd_model *model, const char *name)
{
    if (not_ready(model, __func__)) return NULL;
    const kd__param *p = name ? find(model, name) : NULL;
    if (!p || !p->tensor.grad) {
        kd__fail(KD_ERR_ARG, "%s: no parameter \"%s\"", __func__, name ? name : "(NULL)");
        return NULL;
    }
    return p->tensor.grad;
}

uint64_t kd_model_hash(const kd_model *model)
{
    if (not_ready(model, __func__)) return 0;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < model->entry_count; i++) {
        const kd_tensor *t = &model->entries[i]->tensor;
        const float *x = t->data;
        for (size_t k = 0; k < t->count; k++) {
            uint32_t word;
            memcpy(&word, x + k, sizeof word);
            hash = (hash ^ word) * 0x100000001b3u;
        }
    }
    return hash;
}

void kd_model_zero_grads(kd_model *model)
{
    if (!not_ready(model, __func__)) memset(model->grads, 0, model->weight_floats * sizeof(float));
}

void kd__model_touch(kd_model *model) { model->version++; }

void kd_model_touch(kd_model *model)
{
    if (!not_ready(model, __func__)) kd__model_touch(model);
}

void kd_model_freeze(kd_model *model, int32_t frozen)
{
    if (not_ready(model, __func__)) return;
    if (model->frozen != (frozen != 0)) kd__model_touch(model);   /* batch norm may have moved meanwhile */
    model->frozen = frozen != 0;
    for (size_t i = 0; i < model->parameter_count; i++) model->entries[i]->tensor.requires_grad = !model->frozen;
}

kd_status kd_model_set_convolution(kd_model *model, uint32_t algorithm)
{
    NEED_READY(model);
    if (algorithm > KD_CONV_WINOGRAD4) return kd__fail(KD_ERR_ARG, "%s: algorithm %u is no KD_CONV_*", __func__, algorithm);
    for (kd_layer *l = model->root; l; l = kd__layer_next(model->root, l))
        if (l->type == KD__LAYER_conv2d) l->u.conv.algorithm = algorithm;
    return KD_OK;
}

int32_t kd_model_frozen(const kd_model *model) { return model && model->frozen; }

kd_status kd_model_initialize(kd_model *model, const char *pattern, uint32_t init, float a, float b, uint64_t seed)
{
    KD__FP_SCOPE;
    NEED_READY(model);
    KD_NEED(pattern);
    const kd__init how = { init, a, b };
    KD_TRY(kd__init_check(__func__, how));
    size_t matched = 0;
    for (size_t i = 0; i < model->parameter_count; i++)
        if (kd__glob_match(pattern, model->entries[i]->path)) {
            kd__init_fill(model->ctx, model->entries[i], how, seed);
            matched++;
        }
    if (!matched) return kd__fail(KD_ERR_ARG, "%s: pattern \"%s\" matches no parameter", __func__, pattern);
    kd__model_touch(model);
    return KD_OK;
}

kd_status kd_model_copy(kd_model *dst, const kd_model *src)
{
    NEED_READY(dst);
    NEED_READY(src);
    if (dst->entry_count != src->entry_count)
        return kd__fail(KD_ERR_SHAPE, "%s: dst has %zu parameters and buffers, src has %zu", __func__, dst->entry_count,
                        src->entry_count);
    /* Two passes, so that dst is unchanged on error.  The same architecture has the same order: look there first. */
    for (int copying = 0; copying < 2; copying++)
        for (size_t i = 0; i < dst->entry_count; i++) {
            kd__param *to = dst->entries[i];
            const kd__param *from = src->entries[i];
            if (strcmp(to->path, from->path)) from = find(src, to->path);
            if (!from) return kd__fail(KD_ERR_SHAPE, "%s: src has no \"%s\"", __func__, to->path);
            if ((to->kind & KD_PARAM_BUFFER) != (from->kind & KD_PARAM_BUFFER))
                return kd__fail(KD_ERR_SHAPE, "%s: \"%s\" is a parameter on one side and a buffer on the other", __func__,
                                to->path);
            if (!kd__shape_equal(&to->tensor, &from->tensor))
                return kd__fail(KD_ERR_SHAPE, "%s: \"%s\": dst %S, src %S", __func__, to->path, (size_t)to->tensor.rank,
                                to->tensor.shape, (size_t)from->tensor.rank, from->tensor.shape);
            if (copying && to != from) memcpy(to->tensor.data, from->tensor.data, to->tensor.count * sizeof(float));
        }
    kd__model_touch(dst);
    return KD_OK;
}

kd_status kd_model_set_input_norm(kd_model *model, size_t channels, const float *mean, const float *std)
{
    KD_NEED(model);
    float *norm = NULL;
    if (channels) {
        KD_NEED(mean);
        KD_NEED(std);
        for (size_t c = 0; c < channels; c++)
            if (!isfinite(mean[c]) || !isfinite(std[c]) || !(std[c] > 0.0f))
                return kd__fail(KD_ERR_ARG, "%s: channel %zu: mean %g, std %g: must be finite, std above 0", __func__, c,
                                (double)mean[c], (double)std[c]);
        size_t floats;
        if (!kd__mul(channels, 2, &floats)) return kd__fail(KD_ERR_OVERFLOW, "%s: channels %zu", __func__, channels);
        norm = kd__alloc_array(model->ctx, floats, sizeof(float));
        if (!norm) return KD_ERR_NOMEM;
        memcpy(norm, mean, channels * sizeof(float));
        memcpy(norm + channels, std, channels * sizeof(float));
    }
    kd__free(model->ctx, model->norm);
    model->norm = norm;
    kd__tensor_init(&model->norm_mean, __func__, KD_F32, 1, &channels, norm);
    kd__tensor_init(&model->norm_std, __func__, KD_F32, 1, &channels, norm ? norm + channels : NULL);
    model->norm_mean.owner = model->norm_std.owner = KD__OWNER_MODEL;
    model->norm_channels = channels;
    kd__model_touch(model);
    return KD_OK;
}

bool kd__model_input_norm(const kd_model *model, size_t *channels, const float **mean, const float **std)
{
    *channels = model->norm_channels;
    *mean = model->norm;
    *std = model->norm ? model->norm + model->norm_channels : NULL;
    return model->norm_channels != 0;
}
