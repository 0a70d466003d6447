/* schedule.c - the learning rate as a function of the step.  In double, from basic operations only: the same
 * bits on every machine.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "optim/optim.h"
#include <math.h>

static const kd_schedule_desc defaults = { .struct_size = sizeof(kd_schedule_desc), .kind = KD_SCHEDULE_CONSTANT, .gamma = 0.1f };

void kd_schedule_desc_init(kd_schedule_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &defaults, sizeof defaults);
}

static bool not_negative(float x) { return x >= 0 && isfinite(x); }

kd_status kd__schedule_read(kd__schedule *out, const kd_schedule_desc *desc, const char *function)
{
    kd_schedule_desc d = defaults;
    KD_TRY(kd__desc_read(&d, sizeof d, desc, "kd_schedule_desc"));
    if (d.kind < KD_SCHEDULE_CONSTANT || d.kind > KD_SCHEDULE_LINEAR)
        return kd__fail(KD_ERR_ARG, "%s: kind: %u is no KD_SCHEDULE_*", function, d.kind);
    if (!not_negative(d.gamma))
        return kd__fail(KD_ERR_ARG, "%s: gamma: %g is not a finite number >= 0", function, (double)d.gamma);
    if (!not_negative(d.final_factor))
        return kd__fail(KD_ERR_ARG, "%s: final_factor: %g is not a finite number >= 0", function, (double)d.final_factor);
    if (!not_negative(d.warmup_start))
        return kd__fail(KD_ERR_ARG, "%s: warmup_start: %g is not a finite number >= 0", function, (double)d.warmup_start);
    if (d.kind == KD_SCHEDULE_STEP && !d.period) return kd__fail(KD_ERR_ARG, "%s: period: 0, STEP needs at least 1", function);
    if ((d.kind == KD_SCHEDULE_COSINE || d.kind == KD_SCHEDULE_LINEAR) && !d.total_steps)
        return kd__fail(KD_ERR_ARG, "%s: total_steps: 0, %s needs at least 1", function,
                        d.kind == KD_SCHEDULE_COSINE ? "COSINE" : "LINEAR");
    if (d.milestone_count > KD__MAX_MILESTONES)
        return kd__fail(KD_ERR_LIMIT, "%s: milestone_count: %zu, at most %u", function, d.milestone_count, KD__MAX_MILESTONES);
    if (d.milestone_count && !d.milestones) return kd__fail(KD_ERR_ARG, "%s: milestones is NULL", function);
    for (size_t i = 1; i < d.milestone_count; i++)
        if (d.milestones[i] < d.milestones[i - 1])
            return kd__fail(KD_ERR_ARG, "%s: milestones: number %zu, %llu, is before number %zu, %llu", function, i,
                            (unsigned long long)d.milestones[i], i - 1, (unsigned long long)d.milestones[i - 1]);
    out->desc = d;
    out->desc.milestones = NULL;
    if (d.milestone_count) memcpy(out->milestones, d.milestones, d.milestone_count * sizeof *d.milestones);
    return KD_OK;
}

double kd__schedule_factor(const kd__schedule *schedule, uint64_t step)
{
    const kd_schedule_desc *d = &schedule->desc;
    if (step < d->warmup_steps) {
        double start = (double)d->warmup_start;
        return start + (1 - start) * ((double)step / (double)d->warmup_steps);
    }
    uint64_t s = step - d->warmup_steps;
    double final = (double)d->final_factor, part = d->total_steps ? (double)s / (double)d->total_steps : 0;
    switch (d->kind) {
    case KD_SCHEDULE_STEP: return kd__fixed_pow((double)d->gamma, s / d->period);
    case KD_SCHEDULE_MULTI_STEP: {
        size_t passed = 0;
        while (passed < d->milestone_count && schedule->milestones[passed] <= s) passed++;
        return kd__fixed_pow((double)d->gamma, passed);
    }
    case KD_SCHEDULE_COSINE: return s >= d->total_steps ? final : final + (1 - final) * ((1 + kd__fixed_cos_pi(part)) / 2);
    case KD_SCHEDULE_LINEAR: return s >= d->total_steps ? final : 1 - (1 - final) * part;
    default: return 1;
    }
}

double kd_schedule_factor(const kd_schedule_desc *desc, uint64_t step)
{
    KD__FP_SCOPE;
    kd__schedule schedule;
    if (!desc) {
        kd__fail(KD_ERR_ARG, "%s: desc is NULL", __func__);
        return NAN;
    }
    return kd__schedule_read(&schedule, desc, __func__) == KD_OK ? kd__schedule_factor(&schedule, step) : NAN;
}
