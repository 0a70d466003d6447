/* feature.c - kd_loss_feature: its descriptor, how it is made, its state.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"
#include "base/state.h"
#include <math.h>

static const struct { const char *name; const kd__feature_method *method; } features[] = {
#define DISTILL(id, name, source)
#define FEATURE(id, name, source) [KD_FEATURE_##id] = { name, &kd__feature_##id },
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
};

const kd__feature_method *kd__feature_find(uint32_t method, const char **name)
{
    if (method >= KD_COUNT(features) || !features[method].method) return NULL;
    if (name) *name = features[method].name;
    return features[method].method;
}

static kd_loss_feature_desc defaults_of(uint32_t method, const kd__feature_method *m)
{
    kd_loss_feature_desc d = { .struct_size = sizeof d, .method = method, .weight = 1, .temperature = 1 };
    if (m->defaults) m->defaults(&d);
    return d;
}

kd_status kd_loss_feature_desc_for(kd_loss_feature_desc *desc, size_t struct_size, uint32_t method)
{
    KD_NEED(desc);
    const kd__feature_method *m = kd__feature_find(method, NULL);
    kd_loss_feature_desc d = { .struct_size = sizeof d };
    if (m) d = defaults_of(method, m);
    kd__desc_write(desc, struct_size, &d, sizeof d);
    return m ? KD_OK : kd__fail(KD_ERR_ARG, "%s: method %u is not a KD_FEATURE_*", __func__, (unsigned)method);
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

size_t kd__feature_size(const kd_feature_shape *shape)
{
    size_t n = 1;
    for (size_t a = 0; a < shape->rank; a++) n *= shape->size[a];
    return n;
}

bool kd__feature_shape_same(const kd_feature_shape *a, const kd_feature_shape *b)
{
    return a->rank == b->rank && memcmp(a->size, b->size, a->rank * sizeof *a->size) == 0;
}

kd_status kd__feature_misfit(const kd_loss_feature_desc *d, size_t i, const char *text)
{
    return kd__fail(KD_ERR_SHAPE, "student tap %zu %S and teacher tap %zu %S: %s", i, d->student[i].rank, d->student[i].size, i,
                    d->teacher[i].rank, d->teacher[i].size, text);
}

kd_status kd__feature_pairs(const kd_loss_feature_desc *d, size_t least, uint32_t ranks)
{
    if (d->student_count != d->teacher_count || d->student_count < least)
        return kd__fail(KD_ERR_ARG, "%zu student and %zu teacher taps: it takes %zu or more, as many of each", d->student_count,
                        d->teacher_count, least);
    for (size_t i = 0; i < d->student_count; i++)
        if (!(ranks >> d->student[i].rank & ranks >> d->teacher[i].rank & 1))
            return kd__feature_misfit(d, i, "taps of this rank are not for this method");
    return KD_OK;
}

kd_status kd__feature_equal_pairs(const kd_loss_feature_desc *d, size_t least, uint32_t ranks)
{
    KD_TRY(kd__feature_pairs(d, least, ranks));
    for (size_t i = 0; i < d->student_count; i++)
        if (!kd__feature_shape_same(&d->student[i], &d->teacher[i])) return kd__feature_misfit(d, i, "they must be the same");
    return KD_OK;
}

static kd_status check_shapes(const char *side, const kd_feature_shape *shapes, size_t count)
{
    if (count && !shapes) return kd__fail(KD_ERR_ARG, "%s is NULL and %s_count %zu", side, side, count);
    for (size_t i = 0; i < count; i++) {
        const kd_feature_shape *s = &shapes[i];
        if (s->rank < 1 || s->rank > 4) return kd__fail(KD_ERR_ARG, "%s tap %zu: rank %zu is not 1 to 4", side, i, s->rank);
        size_t n = sizeof(float);
        for (size_t a = 0; a < s->rank; a++)
            if (!s->size[a] || !kd__mul(n, s->size[a], &n))
                return kd__fail(KD_ERR_SHAPE, "%s tap %zu %S: sizes must be at least 1 and fit in memory", side, i,
                                s->rank, s->size);
    }
    return KD_OK;
}

static kd_status check(kd_loss_feature_desc *d, const kd__feature_method *m)
{
    if (!(d->weight >= 0 && isfinite(d->weight)))
        return kd__fail(KD_ERR_ARG, "weight %g is not a finite number >= 0", (double)d->weight);
    if (!(d->temperature >= 0x1p-100f && isfinite(d->temperature)))
        return kd__fail(KD_ERR_ARG, "temperature %g is not a positive, finite number", (double)d->temperature);
    if (!isfinite(d->alpha) || !isfinite(d->beta) || !isfinite(d->gamma))
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g, gamma %g: all must be finite", (double)d->alpha, (double)d->beta,
                        (double)d->gamma);
    if (d->form >= KD_MAX(m->forms, 1u))
        return kd__fail(KD_ERR_ARG, "form %u: it has %u", (unsigned)d->form, (unsigned)KD_MAX(m->forms, 1u));
    KD_TRY(check_shapes("student", d->student, d->student_count));
    KD_TRY(check_shapes("teacher", d->teacher, d->teacher_count));
    if (d->teacher_weight && (!d->classes || !d->teacher_count))
        return kd__fail(KD_ERR_ARG, "teacher_weight is given, and %s", d->classes ? "no teacher tap" : "classes is 0");
    return m->check(d);
}

/* ---- made and freed ------------------------------------------------------------------------------------------------ */

static const void *copy(kd_loss_feature *loss, const void *from, size_t count, size_t each)
{
    size_t bytes;
    void *to = kd__mul(count, each, &bytes) ? kd__arena_push(&loss->memory, bytes) : NULL;
    return to && bytes ? memcpy(to, from, bytes) : to;
}

static const float *const *copy_each(kd_loss_feature *loss, const float *const *from)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const float **to = kd__arena_push(&loss->memory, d->teacher_count * sizeof *to);
    for (size_t i = 0; to && i < d->teacher_count; i++) {
        const kd_feature_shape *s = &d->teacher[i];
        to[i] = from[i] ? copy(loss, from[i], s->size[s->rank - 1], sizeof(float)) : NULL;
        if (from[i] && !to[i]) return NULL;
    }
    return to;
}

/* The descriptor's arrays become the loss's. */
static kd_status own_arrays(kd_loss_feature *loss)
{
    kd_loss_feature_desc *d = &loss->desc;
    d->student = copy(loss, d->student, d->student_count, sizeof *d->student);
    d->teacher = copy(loss, d->teacher, d->teacher_count, sizeof *d->teacher);
    bool ok = d->student && d->teacher;
    if (ok && d->teacher_weight) {
        const kd_feature_shape *last = &d->teacher[d->teacher_count - 1];
        size_t n;
        ok = kd__mul(last->size[last->rank - 1], d->classes, &n) &&
             (d->teacher_weight = copy(loss, d->teacher_weight, n, sizeof(float))) != NULL;
    }
    if (ok && d->teacher_bias) ok = (d->teacher_bias = copy(loss, d->teacher_bias, d->classes, sizeof(float))) != NULL;
    if (ok && d->teacher_bn_weight) ok = (d->teacher_bn_weight = copy_each(loss, d->teacher_bn_weight)) != NULL;
    if (ok && d->teacher_bn_bias) ok = (d->teacher_bn_bias = copy_each(loss, d->teacher_bn_bias)) != NULL;
    return ok ? KD_OK : kd__fail(KD_ERR_NOMEM, "out of memory");
}

static kd_status build(kd_loss_feature *loss)
{
    const kd__feature_method *m = loss->method;
    KD_TRY(own_arrays(loss));
    KD_TRY(kd__monitor_create(loss->ctx, &loss->lock));
    if (m->adapters) {
        KD_TRY(kd_model_create(&loss->adapters, loss->ctx));
        m->adapters(&loss->desc, kd_model_root(loss->adapters));
        KD_TRY(kd_model_finish(loss->adapters, loss->desc.seed));
    }
    loss->state_floats = m->state_floats ? m->state_floats(&loss->desc) : 0;
    loss->state = kd__alloc_array(loss->ctx, loss->state_floats, sizeof(float));
    loss->counter = kd__alloc_array(loss->ctx, 4, sizeof *loss->counter);
    if (!loss->state || !loss->counter) return kd__fail(KD_ERR_NOMEM, "out of memory");
    return m->begin ? m->begin(loss) : KD_OK;
}

kd_status kd_loss_feature_create(kd_loss_feature **out, kd_context *ctx, const kd_loss_feature_desc *desc)
{
    KD__FP_SCOPE;
    KD_NEED(out);
    *out = NULL;
    KD_NEED(desc);
    kd_loss_feature_desc own = { 0 };
    const char *name = NULL;
    KD_TRY(kd__desc_read(&own, sizeof own, desc, __func__));
    const kd__feature_method *method = kd__feature_find(own.method, &name);
    if (!method) return kd__fail(KD_ERR_ARG, "%s: method %u is not a KD_FEATURE_*", __func__, (unsigned)own.method);
    kd_status status = check(&own, method);
    if (status != KD_OK) return kd__fail_prefix(status, "%s: %s: ", __func__, name);
    ctx = kd__context_retain(ctx);
    kd_loss_feature *loss = kd__alloc(ctx, sizeof *loss);
    if (!loss) {
        kd__context_release(ctx);
        return kd__fail(KD_ERR_NOMEM, "%s: out of memory", __func__);
    }
    *loss = (kd_loss_feature){ .ctx = ctx, .desc = own, .method = method, .name = name };
    kd__arena_init(&loss->memory, ctx);
    status = build(loss);
    if (status != KD_OK) {
        kd_loss_feature_free(loss);
        return kd__fail_prefix(status, "%s: %s: ", __func__, name);
    }
    *out = loss;
    return KD_OK;
}

void kd_loss_feature_free(kd_loss_feature *loss)
{
    if (!loss) return;
    kd_context *ctx = loss->ctx;
    kd_tape_free(loss->tape);
    kd_model_free(loss->adapters);
    kd__monitor_free(loss->lock);
    kd__free(ctx, loss->state);
    kd__free(ctx, loss->counter);
    kd__arena_free(&loss->memory);
    kd__free(ctx, loss);
    kd__context_release(ctx);
}

kd_model *kd_loss_feature_adapters(kd_loss_feature *loss)
{
    return loss && loss->adapters && loss->adapters->entry_count ? loss->adapters : NULL;
}

/* ---- curricula ------------------------------------------------------------------------------------------------------ */

kd_status kd_loss_feature_set_weight(kd_loss_feature *loss, float weight)
{
    KD_NEED(loss);
    if (!(weight >= 0 && isfinite(weight)))
        return kd__fail(KD_ERR_ARG, "%s: weight %g is not a finite number >= 0", __func__, (double)weight);
    loss->desc.weight = weight;
    return KD_OK;
}

kd_status kd_loss_feature_advance(kd_loss_feature *loss)
{
    KD_NEED(loss);
    loss->advances += loss->advances < UINT64_MAX;
    return KD_OK;
}

double kd__feature_factor(const kd_loss_feature *loss)
{
    double weight = (double)loss->desc.weight, warmup = (double)loss->desc.warmup, passed = (double)loss->advances + 1;
    return passed < warmup ? weight * (passed / warmup) : weight;
}

/* ---- state: u64 method, advances, counter[4]; f32 the method's own; f32 weights and buffers, as the model has them ---- */

size_t kd__feature_state_size(const kd_loss_feature *loss)
{
    const kd_model *m = loss->adapters;
    return 6 * 8 + (loss->state_floats + (m ? m->weight_floats + m->buffer_floats : 0)) * sizeof(float);
}

void kd__feature_state_write(const kd_loss_feature *loss, uint8_t *at)
{
    const kd_model *m = loss->adapters;
    kd__state_put_u64(&at, loss->desc.method);
    kd__state_put_u64(&at, loss->advances);
    for (size_t i = 0; i < 4; i++) kd__state_put_u64(&at, loss->counter[i]);
    kd__state_put_f32(&at, loss->state, loss->state_floats);
    if (!m) return;
    kd__state_put_f32(&at, m->weights, m->weight_floats);
    kd__state_put_f32(&at, m->buffers, m->buffer_floats);
}

kd_status kd__feature_state_check(const kd_loss_feature *loss, const uint8_t *at)
{
    const char *name = "unknown";
    uint64_t method = kd__state_get_u64(&at);
    if (method == loss->desc.method) return KD_OK;
    (void)kd__feature_find(method > UINT32_MAX ? 0 : (uint32_t)method, &name);
    return kd__fail(KD_ERR_SHAPE, "the file has a loss of method %s, %s was added", name, loss->name);
}

void kd__feature_state_read(kd_loss_feature *loss, const uint8_t *at)
{
    kd_model *m = loss->adapters;
    (void)kd__state_get_u64(&at);
    loss->advances = kd__state_get_u64(&at);
    for (size_t i = 0; i < 4; i++) loss->counter[i] = kd__state_get_u64(&at);
    kd__state_get_f32(&at, loss->state, loss->state_floats);
    if (!m) return;
    kd__state_get_f32(&at, m->weights, m->weight_floats);
    kd__state_get_f32(&at, m->buffers, m->buffer_floats);
    kd_model_touch(m);
}
