/* optimizer.c - what is trained and how: models, groups of parameters, the step.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "optim/optim.h"
#include <math.h>

#define STEP_GRAIN 16384u   /* floats a task updates */

static const kd_optimizer_desc defaults = {
    .struct_size = sizeof(kd_optimizer_desc), .method = KD_OPT_SGD, .lr = 0.1f, .momentum = 0.9f,
    .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
};

void kd_optimizer_desc_init(kd_optimizer_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &defaults, sizeof defaults);
}

static bool not_negative(float x) { return x >= 0 && isfinite(x); }
static bool below_one(float x) { return x >= 0 && x < 1; }

static kd_status check_desc(const kd_optimizer_desc *d)
{
    const char *f = "kd_optimizer_create";
    if (d->method < KD_OPT_SGD || d->method > KD_OPT_ADAMW)
        return kd__fail(KD_ERR_ARG, "%s: method: %u is no KD_OPT_*", f, d->method);
    if (!not_negative(d->lr)) return kd__fail(KD_ERR_ARG, "%s: lr: %g is not a finite number >= 0", f, (double)d->lr);
    if (!not_negative(d->weight_decay))
        return kd__fail(KD_ERR_ARG, "%s: weight_decay: %g is not a finite number >= 0", f, (double)d->weight_decay);
    if (!(d->max_grad_norm >= 0))
        return kd__fail(KD_ERR_ARG, "%s: max_grad_norm: %g is not a number >= 0", f, (double)d->max_grad_norm);
    if (d->method == KD_OPT_SGD) {
        if (!below_one(d->momentum))
            return kd__fail(KD_ERR_ARG, "%s: momentum: %g is not in [0, 1)", f, (double)d->momentum);
        if (!(d->dampening >= 0 && d->dampening <= 1))
            return kd__fail(KD_ERR_ARG, "%s: dampening: %g is not in [0, 1]", f, (double)d->dampening);
        if (d->nesterov && (d->momentum == 0 || d->dampening != 0))
            return kd__fail(KD_ERR_ARG, "%s: nesterov needs momentum > 0 and dampening 0, not %g and %g", f,
                            (double)d->momentum, (double)d->dampening);
        return KD_OK;
    }
    if (!below_one(d->beta1)) return kd__fail(KD_ERR_ARG, "%s: beta1: %g is not in [0, 1)", f, (double)d->beta1);
    if (!below_one(d->beta2)) return kd__fail(KD_ERR_ARG, "%s: beta2: %g is not in [0, 1)", f, (double)d->beta2);
    if (!(d->eps > 0 && isfinite(d->eps)))   /* 0 / 0 for a weight that never had a gradient */
        return kd__fail(KD_ERR_ARG, "%s: eps: %g is not a finite number > 0", f, (double)d->eps);
    return KD_OK;
}

kd_status kd_optimizer_create(kd_optimizer **out, kd_context *ctx, const kd_optimizer_desc *desc)
{
    KD_NEED(out);
    *out = NULL;
    kd_optimizer_desc own = defaults;
    KD_TRY(kd__desc_read(&own, sizeof own, desc, "kd_optimizer_desc"));
    KD_TRY(check_desc(&own));
    kd_optimizer *opt = kd__alloc(ctx, sizeof *opt);
    if (!opt) return KD_ERR_NOMEM;
    opt->ctx = kd__context_retain(ctx);
    opt->desc = own;
    opt->lr = own.lr;
    opt->grad_norm = NAN;
    kd__schedule_read(&opt->schedule, NULL, __func__);
    *out = opt;
    return KD_OK;
}

/* ---- models and groups --------------------------------------------------------------------------------- */

size_t kd__optimizer_moments(const kd_optimizer *opt)
{
    if (opt->desc.method != KD_OPT_SGD) return 2;
    return opt->desc.momentum > 0;
}

static void unprepare(kd_optimizer *opt)
{
    for (size_t i = 0; i < opt->member_count; i++) {
        kd__member *member = &opt->members[i];
        kd__free(opt->ctx, member->segments);
        for (size_t k = 0; k < 2; k++) kd__free(opt->ctx, member->moments[k]);
        *member = (kd__member){ .model = member->model, .steps = member->steps };
    }
    kd__free(opt->ctx, opt->partial);
    opt->partial = NULL;
    opt->prepared = false;
}

kd_status kd_optimizer_add(kd_optimizer *opt, kd_model *model)
{
    KD_NEED(opt);
    KD_NEED(model);
    if (opt->steps)
        return kd__fail(KD_ERR_STATE, "%s: the optimizer has taken %llu steps", __func__, (unsigned long long)opt->steps);
    if (!model->finished) return kd__fail(KD_ERR_STATE, "%s: model is not finished: kd_model_finish comes first", __func__);
    for (size_t i = 0; i < opt->member_count; i++)
        if (opt->members[i].model == model) return kd__fail(KD_ERR_ARG, "%s: model was added before", __func__);
    KD_TRY(kd__grow(opt->ctx, &opt->members, &opt->member_capacity, opt->member_count + 1, sizeof *opt->members));
    unprepare(opt);
    opt->members[opt->member_count++] = (kd__member){ .model = model };
    model->held = true;
    return KD_OK;
}

kd_status kd_optimizer_group(kd_optimizer *opt, const char *pattern, float lr_scale, float weight_decay)
{
    KD_NEED(opt);
    KD_NEED(pattern);
    if (opt->steps)
        return kd__fail(KD_ERR_STATE, "%s: the optimizer has taken %llu steps", __func__, (unsigned long long)opt->steps);
    if (!not_negative(lr_scale))
        return kd__fail(KD_ERR_ARG, "%s: lr_scale: %g is not a finite number >= 0", __func__, (double)lr_scale);
    if (!not_negative(weight_decay))
        return kd__fail(KD_ERR_ARG, "%s: weight_decay: %g is not a finite number >= 0", __func__, (double)weight_decay);
    bool matches = false;
    for (size_t i = 0; i < opt->member_count; i++) {
        const kd_model *model = opt->members[i].model;
        for (size_t k = 0; k < model->parameter_count; k++) matches |= kd__glob_match(pattern, model->entries[k]->path);
    }
    if (!matches)
        return kd__fail(KD_ERR_ARG, "%s: pattern: no parameter of the models added so far matches \"%s\"", __func__, pattern);
    KD_TRY(kd__grow(opt->ctx, &opt->groups, &opt->group_capacity, opt->group_count + 1, sizeof *opt->groups));
    char *copy = kd__strdup(opt->ctx, pattern);
    if (!copy) return KD_ERR_NOMEM;
    unprepare(opt);
    opt->groups[opt->group_count++] = (kd__group){ copy, lr_scale, weight_decay };
    return KD_OK;
}

/* ---- before the first step ------------------------------------------------------------------------------ */

/* Parameters in block order; neighbours that are treated alike become one segment, the zeros between them included. */
static kd_status make_segments(const kd_optimizer *opt, kd__member *member)
{
    const kd_model *model = member->model;
    size_t capacity = 0;
    for (size_t k = 0; k < model->parameter_count; k++) {
        const kd__param *param = model->entries[k];
        float lr_scale = 1, decay = opt->desc.weight_decay;
        for (size_t g = opt->group_count; g-- > 0;)
            if (kd__glob_match(opt->groups[g].pattern, param->path)) {
                lr_scale = opt->groups[g].lr_scale;
                decay = opt->groups[g].weight_decay;
                break;
            }
        kd__segment *last = member->segment_count ? &member->segments[member->segment_count - 1] : NULL;
        size_t end = k + 1 < model->parameter_count ? model->entries[k + 1]->offset : model->weight_floats;
        if (last && last->lr_scale == lr_scale && last->weight_decay == decay) {
            last->end = end;
            continue;
        }
        KD_TRY(kd__grow(opt->ctx, &member->segments, &capacity, member->segment_count + 1, sizeof *last));
        member->segments[member->segment_count++] = (kd__segment){ param->offset, end, lr_scale, decay };
    }
    return KD_OK;
}

static kd_status allocate(kd_optimizer *opt)
{
    size_t chunks = 0;
    for (size_t i = 0; i < opt->member_count; i++) {
        kd__member *member = &opt->members[i];
        KD_TRY(make_segments(opt, member));
        for (size_t k = 0; k < kd__optimizer_moments(opt); k++) {
            member->moments[k] = kd__alloc_array(opt->ctx, member->model->weight_floats, sizeof(float));
            if (!member->moments[k]) return KD_ERR_NOMEM;
        }
        chunks = KD_MAX(chunks, kd__norm_chunks(member->model->weight_floats));
    }
    if (opt->desc.max_grad_norm > 0 && !(opt->partial = kd__alloc_array(opt->ctx, chunks, sizeof *opt->partial)))
        return KD_ERR_NOMEM;
    return KD_OK;
}

kd_status kd__optimizer_prepare(kd_optimizer *opt)
{
    if (opt->prepared) return KD_OK;
    kd_status status = allocate(opt);
    if (status == KD_OK) opt->prepared = true;
    else unprepare(opt);
    return status;
}

/* ---- the step --------------------------------------------------------------------------------------------- */

typedef struct step_job {
    const kd_optimizer *opt;
    const kd__member   *member;
    float               grad_scale;
    double              lr;                      /* of this step, before lr_scale */
    double              correction1, correction2;   /* Adam: 1 - beta^t */
} step_job;

static void step_sgd(const step_job *job, const kd__segment *segment, size_t begin, size_t n)
{
    const kd_optimizer_desc *d = &job->opt->desc;
    const kd__member *member = job->member;
    kd__sgd_step step = {
        .grad_scale = job->grad_scale,
        .weight_decay = segment->weight_decay,
        .lr = (float)(job->lr * (double)segment->lr_scale),
        .momentum = d->momentum,
        .grad_share = (float)(1 - (double)d->dampening),
        .flags = (member->steps ? 0 : KD_SGD_FIRST) | (d->nesterov ? KD_SGD_NESTEROV : 0),
    };
    job->opt->ctx->kernels->sgd_step_f32(member->model->weights + begin, member->model->grads + begin,
                                         member->moments[0] ? member->moments[0] + begin : NULL, n, &step);
}

static void step_adam(const step_job *job, const kd__segment *segment, size_t begin, size_t n)
{
    const kd_optimizer_desc *d = &job->opt->desc;
    const kd__member *member = job->member;
    double lr = job->lr * (double)segment->lr_scale;
    bool decoupled = d->method == KD_OPT_ADAMW;
    kd__adam_step step = {
        .grad_scale = job->grad_scale,
        .weight_decay = decoupled ? 0 : segment->weight_decay,
        .keep = decoupled ? (float)(1 - lr * (double)segment->weight_decay) : 1,
        .grad_share1 = (float)(1 - (double)d->beta1),
        .beta2 = d->beta2,
        .grad_share2 = (float)(1 - (double)d->beta2),
        .step_size = (float)(lr / job->correction1),
        .root_correction = (float)sqrt(job->correction2),
        .eps = d->eps,
    };
    job->opt->ctx->kernels->adam_step_f32(member->model->weights + begin, member->model->grads + begin,
                                          member->moments[0] + begin, member->moments[1] + begin, n, &step);
}

/* Floats [begin, end) of a model: the parts of the segments that lie there. */
static void step_range(size_t begin, size_t end, void *arg)
{
    const step_job *job = arg;
    const kd__segment *segments = job->member->segments;
    size_t low = 0, high = job->member->segment_count;   /* the last segment that begins at or before `begin` */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (segments[middle].begin <= begin) low = middle;
        else high = middle;
    }
    for (; low < job->member->segment_count && segments[low].begin < end; low++) {
        size_t from = KD_MAX(begin, segments[low].begin), to = KD_MIN(end, segments[low].end);
        if (from >= to) continue;
        if (job->opt->desc.method == KD_OPT_SGD) step_sgd(job, &segments[low], from, to - from);
        else step_adam(job, &segments[low], from, to - from);
    }
}

kd_status kd_optimizer_step(kd_optimizer *opt)
{
    KD__FP_SCOPE;
    KD_NEED(opt);
    if (!opt->member_count) return kd__fail(KD_ERR_STATE, "%s: no model: kd_optimizer_add comes first", __func__);
    if (kd_context_cancelled(opt->ctx)) return kd__fail(KD_ERR_CANCELLED, "%s: cancelled", __func__);
    KD_TRY(kd__optimizer_prepare(opt));

    float grad_scale = 1;
    double max_norm = (double)opt->desc.max_grad_norm;
    if (max_norm > 0) {
        double sum = 0;
        for (size_t i = 0; i < opt->member_count; i++) {
            const kd_model *model = opt->members[i].model;
            if (!model->frozen) kd__sum_squares(opt->ctx, model->grads, model->weight_floats, opt->partial, &sum);
        }
        opt->grad_norm = sqrt(sum);
        grad_scale = kd__clip_scale(opt->grad_norm, max_norm);
    }
    for (size_t i = 0; i < opt->member_count; i++) {
        kd__member *member = &opt->members[i];
        if (member->model->frozen) continue;
        step_job job = { .opt = opt, .member = member, .grad_scale = grad_scale, .lr = kd_optimizer_lr(opt) };
        if (opt->desc.method != KD_OPT_SGD) {
            job.correction1 = 1 - kd__fixed_pow((double)opt->desc.beta1, member->steps + 1);
            job.correction2 = 1 - kd__fixed_pow((double)opt->desc.beta2, member->steps + 1);
        }
        kd__parallel_range(opt->ctx, member->model->weight_floats, STEP_GRAIN, step_range, &job);
        member->steps++;
        kd_model_touch(member->model);
    }
    opt->steps++;
    return KD_OK;
}

void kd_optimizer_free(kd_optimizer *opt)
{
    if (!opt) return;
    unprepare(opt);
    for (size_t i = 0; i < opt->group_count; i++) kd__free(opt->ctx, opt->groups[i].pattern);
    kd__free(opt->ctx, opt->groups);
    kd__free(opt->ctx, opt->members);
    kd_context *ctx = opt->ctx;
    kd__free(ctx, opt);
    kd__context_release(ctx);
}

/* ---- what it is at ------------------------------------------------------------------------------------------ */

uint64_t kd_optimizer_steps(const kd_optimizer *opt) { return opt ? opt->steps : 0; }

double kd_optimizer_grad_norm(const kd_optimizer *opt) { return opt ? opt->grad_norm : NAN; }

double kd_optimizer_lr(const kd_optimizer *opt)
{
    KD__FP_SCOPE;
    return opt ? (double)opt->lr * kd__schedule_factor(&opt->schedule, opt->steps) : NAN;
}

kd_status kd_optimizer_set_lr(kd_optimizer *opt, float lr)
{
    KD_NEED(opt);
    if (!not_negative(lr)) return kd__fail(KD_ERR_ARG, "%s: lr: %g is not a finite number >= 0", __func__, (double)lr);
    opt->lr = lr;
    return KD_OK;
}

kd_status kd_optimizer_set_schedule(kd_optimizer *opt, const kd_schedule_desc *desc)
{
    KD_NEED(opt);
    return kd__schedule_read(&opt->schedule, desc, __func__);
}
