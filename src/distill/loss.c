/* loss.c - kd_loss_distill: its descriptor, and how it is made.
 * SPDX-License-Identifier: MIT */
#include "distill/loss.h"

static const struct { const char *name; const kd__method *method; } methods[] = {
#define FEATURE(id, name, source)
#define METHOD(id, name, source) [KD_DISTILL_##id] = { name, &kd__method_##id },
#include "distill/methods.def"
#undef METHOD
#undef FEATURE
};

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
};

void kd_loss_distill_desc_init(kd_loss_distill_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &defaults, sizeof defaults);
}

/* Finite, and not below `low`; NaN is refused. */
static bool in_range(float x, float low) { return x >= low && x <= 0x1.fffffep127f; }

kd_status kd__loss_check(const kd_loss_distill_desc *d, const char *function, const kd__method **method)
{
    if (d->method >= KD_COUNT(methods) || !methods[d->method].method)
        return kd__fail(KD_ERR_ARG, "%s: method %u is not a KD_DISTILL_*", function, (unsigned)d->method);
    /* The smallest temperature keeps 2 log2(e) / T a finite float. */
    if (!in_range(d->temperature, 0x1p-100f))
        return kd__fail(KD_ERR_ARG, "%s: temperature %g is not a positive, finite number", function, (double)d->temperature);
    if (!in_range(d->hard_weight, 0))
        return kd__fail(KD_ERR_ARG, "%s: hard_weight %g is not a finite number >= 0", function, (double)d->hard_weight);
    if (!in_range(d->soft_weight, 0))
        return kd__fail(KD_ERR_ARG, "%s: soft_weight %g is not a finite number >= 0", function, (double)d->soft_weight);
    if (d->reduction < KD_REDUCE_MEAN_ROWS || d->reduction > KD_REDUCE_MEAN_ELEMENTS)
        return kd__fail(KD_ERR_ARG, "%s: reduction %u is not a KD_REDUCE_*", function, (unsigned)d->reduction);
    if (!(d->label_smoothing >= 0 && d->label_smoothing < 1))
        return kd__fail(KD_ERR_ARG, "%s: label_smoothing %g is not in [0, 1)", function, (double)d->label_smoothing);
    if (d->unlabelled_index == d->ignore_index && d->ignore_index != KD_LABEL_OFF)
        return kd__fail(KD_ERR_ARG, "%s: unlabelled_index and ignore_index are both %lld", function, (long long)d->ignore_index);
    if (!d->class_weights != !d->class_weight_count)
        return kd__fail(KD_ERR_ARG, "%s: class_weights is %s and class_weight_count %zu", function,
                        d->class_weights ? "given" : "NULL", d->class_weight_count);
    for (size_t c = 0; c < d->class_weight_count; c++)
        if (!in_range(d->class_weights[c], 0))
            return kd__fail(KD_ERR_ARG, "%s: class_weights[%zu] = %g is not a finite number >= 0", function, c,
                            (double)d->class_weights[c]);
    *method = methods[d->method].method;
    return (*method)->check(d);
}

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
    float *weights = own.class_weight_count ? kd__alloc_array(ctx, own.class_weight_count, sizeof *weights) : NULL;
    if (!loss || (own.class_weight_count && !weights)) {
        kd__free(ctx, weights);
        kd__free(ctx, loss);
        kd__context_release(ctx);
        return kd__fail(KD_ERR_NOMEM, "%s: out of memory", __func__);
    }
    if (weights) memcpy(weights, own.class_weights, own.class_weight_count * sizeof *weights);
    own.class_weights = weights;
    *loss = (kd_loss_distill){ .ctx = ctx, .desc = own, .class_weights = weights, .method = method };
    *out = loss;
    return KD_OK;
}

void kd_loss_distill_free(kd_loss_distill *loss)
{
    if (!loss) return;
    kd_context *ctx = loss->ctx;
    kd__free(ctx, loss->class_weights);
    kd__free(ctx, loss);
    kd__context_release(ctx);
}
