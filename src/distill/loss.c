/* loss.c - kd_loss_distill: its descriptor, and how it is made.
 * SPDX-License-Identifier: MIT */
#include "distill/loss.h"

static const struct { const char *name; const kd__method *method; } methods[] = {
#define DISTILL(id, name, source) [KD_DISTILL_##id] = { name, &kd__method_##id },
#define FEATURE(id, name, source)
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
};

const kd__method *kd__distill_method(uint32_t id, const char **name)
{
    if (id >= KD_COUNT(methods)) return NULL;
    if (name) *name = methods[id].name;
    return methods[id].method;
}

static const kd_loss_distill_desc defaults = {
    .struct_size = sizeof defaults,
    .method = KD_DISTILL_KD,
    .temperature = 4,
    .hard_weight = 0.1f,
    .soft_weight = 0.9f,
    .direction = KD_DIRECTION_FORWARD,
    .js_beta = 0.5f,
    .temperature_squared = 1,
    .reduction = KD_REDUCE_MEAN_ROWS,
    .teacher_form = KD_TEACHER_LOGITS,
    .ignore_index = -100,
    .unlabelled_index = KD_LABEL_OFF,
    .teachers = KD_TEACHERS_MEAN_PROBS,
};

void kd_loss_distill_desc_init(kd_loss_distill_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &defaults, sizeof defaults);
}

kd_status kd_loss_distill_desc_for(kd_loss_distill_desc *desc, size_t struct_size, uint32_t id)
{
    kd_loss_distill_desc d = defaults;
    const kd__method *method = kd__distill_method(id, NULL);
    KD_NEED(desc);
    if (method) d.method = id;
    if (method && method->defaults) method->defaults(&d);
    kd__desc_write(desc, struct_size, &d, sizeof d);
    return method ? KD_OK : kd__fail(KD_ERR_ARG, "%s: method %u is not a KD_DISTILL_* of this library", __func__, (unsigned)id);
}

/* Finite, and not below `low`; NaN is refused. */
static bool in_range(float x, float low) { return x >= low && x <= 0x1.fffffep127f; }

kd_status kd__number_check(const char *name, float x, float low)
{
    if (in_range(x, low)) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: %s %g is not a finite number >= %g", name, (double)x, (double)low);
}

double kd__squared(const kd_loss_distill *loss, size_t classes)
{
    (void)classes;
    double t = (double)loss->desc.temperature;
    return loss->desc.temperature_squared ? t * t : 1;
}

double kd__unscaled(const kd_loss_distill *loss, size_t classes)
{
    (void)loss, (void)classes;
    return 1;
}

/* The smallest temperature keeps 2 log2(e) / T a finite float. */
static kd_status check_temperature(const char *function, float t)
{
    if (in_range(t, 0x1p-100f)) return KD_OK;
    return kd__fail(KD_ERR_ARG, "%s: temperature %g is not a positive, finite number", function, (double)t);
}

static kd_status check_weights(const char *function, float hard, float soft)
{
    if (!in_range(hard, 0)) return kd__fail(KD_ERR_ARG, "%s: hard_weight %g is not a finite number >= 0", function, (double)hard);
    if (!in_range(soft, 0)) return kd__fail(KD_ERR_ARG, "%s: soft_weight %g is not a finite number >= 0", function, (double)soft);
    return KD_OK;
}

static kd_status check_array(const char *function, const char *name, const float *x, size_t count)
{
    if (!x != !count) return kd__fail(KD_ERR_ARG, "%s: %ss is %s and %s_count %zu", function, name, x ? "given" : "NULL", name, count);
    for (size_t i = 0; i < count; i++)
        if (!in_range(x[i], 0))
            return kd__fail(KD_ERR_ARG, "%s: %ss[%zu] = %g is not a finite number >= 0", function, name, i, (double)x[i]);
    return KD_OK;
}

static kd_status check_teachers(const kd_loss_distill_desc *d, const char *function, const char *name, const kd__method *m)
{
    if (d->teacher_form < KD_TEACHER_LOGITS || d->teacher_form > KD_TEACHER_PROBS)
        return kd__fail(KD_ERR_ARG, "%s: teacher_form %u is not KD_TEACHER_LOGITS, _LOG_PROBS or _PROBS", function,
                        (unsigned)d->teacher_form);
    if (d->teachers < KD_TEACHERS_MEAN_LOGITS || d->teachers > KD_TEACHERS_BEST)
        return kd__fail(KD_ERR_ARG, "%s: teachers %u is not KD_TEACHERS_MEAN_LOGITS, _MEAN_PROBS or _BEST", function,
                        (unsigned)d->teachers);
    if (m->needs & KD__RAW && (d->standardize || d->teacher_form != KD_TEACHER_LOGITS))
        return kd__fail(KD_ERR_ARG, "%s: method %s compares logits as they are: %s cannot be", function, name,
                        d->standardize ? "standardize" : "teacher_form");
    KD_TRY(check_array(function, "teacher_weight", d->teacher_weights, d->teacher_weight_count));
    double sum = 0;
    for (size_t i = 0; i < d->teacher_weight_count; i++) sum += (double)d->teacher_weights[i];
    if (d->teacher_weight_count && !(sum > 0)) return kd__fail(KD_ERR_ARG, "%s: teacher_weights are all 0", function);
    return KD_OK;
}

kd_status kd__loss_check(const kd_loss_distill_desc *d, const char *function, const kd__method **method)
{
    const char *name = NULL;
    const kd__method *m = kd__distill_method(d->method, &name);
    if (!m) return kd__fail(KD_ERR_ARG, "%s: method %u is not a KD_DISTILL_*", function, (unsigned)d->method);
    KD_TRY(check_temperature(function, d->temperature));
    KD_TRY(check_weights(function, d->hard_weight, d->soft_weight));
    if (d->reduction < KD_REDUCE_MEAN_ROWS || d->reduction > KD_REDUCE_MEAN_ELEMENTS)
        return kd__fail(KD_ERR_ARG, "%s: reduction %u is not a KD_REDUCE_*", function, (unsigned)d->reduction);
    if (!(d->label_smoothing >= 0 && d->label_smoothing < 1))
        return kd__fail(KD_ERR_ARG, "%s: label_smoothing %g is not in [0, 1)", function, (double)d->label_smoothing);
    if (d->unlabelled_index == d->ignore_index && d->ignore_index != KD_LABEL_OFF)
        return kd__fail(KD_ERR_ARG, "%s: unlabelled_index and ignore_index are both %lld", function, (long long)d->ignore_index);
    KD_TRY(check_array(function, "class_weight", d->class_weights, d->class_weight_count));
    if (d->form >= KD_MAX(m->forms, 1u))
        return kd__fail(KD_ERR_ARG, "%s: form %u, but method %s has %u of them", function, (unsigned)d->form, name,
                        (unsigned)KD_MAX(m->forms, 1u));
    if (m->needs & KD__DIRECTIONS) {
        if (d->direction < KD_DIRECTION_FORWARD || d->direction > KD_DIRECTION_JS)
            return kd__fail(KD_ERR_ARG, "%s: direction %u is not KD_DIRECTION_FORWARD, _REVERSE or _JS", function,
                            (unsigned)d->direction);
        if (d->direction == KD_DIRECTION_JS && !(d->js_beta > 0 && d->js_beta < 1))
            return kd__fail(KD_ERR_ARG, "%s: js_beta %g is not in (0, 1)", function, (double)d->js_beta);
    }
    KD_TRY(check_teachers(d, function, name, m));
    *method = m;
    return m->check ? m->check(d) : KD_OK;
}

/* ---- its life -------------------------------------------------------------------------------------------------------- */
kd_status kd_loss_distill_create(kd_loss_distill **out, kd_context *ctx, const kd_loss_distill_desc *desc)
{
    kd_loss_distill_desc own = defaults;
    const kd__method *method = NULL;
    KD_NEED(out);
    *out = NULL;
    KD_TRY(kd__desc_read(&own, sizeof own, desc, "kd_loss_distill_desc"));
    KD_TRY(kd__loss_check(&own, __func__, &method));

    ctx = kd__context_retain(ctx);
    kd_loss_distill *loss = kd__alloc(ctx, sizeof *loss);
    size_t floats = own.class_weight_count + own.teacher_weight_count;
    float *arrays = floats ? kd__alloc_array(ctx, floats, sizeof *arrays) : NULL;
    double *state = method->state ? kd__alloc_array(ctx, method->state, sizeof *state) : NULL;
    if (!loss || (floats && !arrays) || (method->state && !state)) {
        kd__free(ctx, state);
        kd__free(ctx, arrays);
        kd__free(ctx, loss);
        kd__context_release(ctx);
        return kd__fail(KD_ERR_NOMEM, "%s: out of memory", __func__);
    }
    if (own.class_weights) own.class_weights = memcpy(arrays, own.class_weights, own.class_weight_count * sizeof *arrays);
    if (own.teacher_weights)
        own.teacher_weights = memcpy(arrays + own.class_weight_count, own.teacher_weights, own.teacher_weight_count * sizeof *arrays);
    *loss = (kd_loss_distill){ .ctx = ctx, .desc = own, .arrays = arrays, .method = method, .state = state };
    kd_status status = method->begin ? method->begin(loss) : KD_OK;
    if (status == KD_OK && loss->adapters && own.reduction == KD_REDUCE_NONE)
        status = kd__fail(KD_ERR_ARG, "%s: reduction NONE has no single gradient for what the method trains itself", __func__);
    if (status != KD_OK) kd_loss_distill_free(loss);
    else *out = loss;
    return status;
}

void kd_loss_distill_free(kd_loss_distill *loss)
{
    if (!loss) return;
    kd_context *ctx = loss->ctx;
    kd_model_free(loss->adapters);
    kd__free(ctx, loss->state);
    kd__free(ctx, loss->arrays);
    kd__free(ctx, loss);
    kd__context_release(ctx);
}

kd_model *kd_loss_distill_adapters(kd_loss_distill *loss) { return loss ? loss->adapters : NULL; }

/* ---- curricula ------------------------------------------------------------------------------------------------------- */
kd_status kd_loss_distill_set_weights(kd_loss_distill *loss, float hard_weight, float soft_weight)
{
    KD_NEED(loss);
    KD_TRY(check_weights(__func__, hard_weight, soft_weight));
    loss->desc.hard_weight = hard_weight;
    loss->desc.soft_weight = soft_weight;
    return KD_OK;
}

kd_status kd_loss_distill_set_temperature(kd_loss_distill *loss, float temperature)
{
    KD_NEED(loss);
    KD_TRY(check_temperature(__func__, temperature));
    loss->desc.temperature = temperature;
    return KD_OK;
}

kd_status kd_loss_distill_advance(kd_loss_distill *loss)
{
    KD_NEED(loss);
    loss->advances++;
    if (loss->method->advance) loss->method->advance(loss);
    return KD_OK;
}

double kd__loss_ramp(const kd_loss_distill *loss)
{
    uint64_t warmup = loss->desc.warmup;
    return loss->advances + 1 < warmup ? (double)(loss->advances + 1) / (double)warmup : 1;
}

/* ---- checkpoints ----------------------------------------------------------------------------------------------------- */
size_t kd__loss_state_size(const kd_loss_distill *loss)
{
    const kd__method *m = loss->method;
    return loss->desc.warmup || m->state || m->advance || m->needs & KD__SCHEDULED ? 8 + 8 * m->state : 0;
}
