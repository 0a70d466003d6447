/* optimizer_state.c - an optimizer's state for a checkpoint: steps, learning rate, moments.
 *
 *   u64 version (1), method, moments a weight, steps; f64 lr, last norm; u64 moments follow (0, 1); u64 models
 *   a model:  u64 steps, floats in its block, parameters; a parameter: u64 offset, elements
 *   then, if they follow, the moments: of each model the first, then the second
 *
 * What the descriptor and the groups say is not part of it: a run that resumes makes the same optimizer again.
 * SPDX-License-Identifier: MIT */
#include "base/state.h"
#include "optim/optim.h"
#include <math.h>

enum { VERSION = 1, HEAD = 8 * 8, MODEL_HEAD = 3 * 8, PARAM_HEAD = 2 * 8 };

static bool has_moments(const kd_optimizer *opt) { return opt->prepared && opt->steps && kd__optimizer_moments(opt); }

static size_t head_size(const kd_optimizer *opt)
{
    size_t bytes = HEAD;
    for (size_t i = 0; i < opt->member_count; i++)
        bytes += MODEL_HEAD + PARAM_HEAD * opt->members[i].model->parameter_count;
    return bytes;
}

/* The models' blocks are in memory several times over, so these sums fit. */
static size_t moments_size(const kd_optimizer *opt)
{
    size_t floats = 0;
    for (size_t i = 0; i < opt->member_count; i++) floats += opt->members[i].model->weight_floats;
    return floats * kd__optimizer_moments(opt) * sizeof(float);
}

size_t kd__optimizer_state_size(const kd_optimizer *opt)
{
    return head_size(opt) + (has_moments(opt) ? moments_size(opt) : 0);
}

void kd__optimizer_state_write(const kd_optimizer *opt, void *out)
{
    uint8_t *at = out;
    kd__state_put_u64(&at, VERSION);
    kd__state_put_u64(&at, opt->desc.method);
    kd__state_put_u64(&at, kd__optimizer_moments(opt));
    kd__state_put_u64(&at, opt->steps);
    kd__state_put_f64(&at, (double)opt->lr);
    kd__state_put_f64(&at, opt->grad_norm);
    kd__state_put_u64(&at, has_moments(opt));
    kd__state_put_u64(&at, opt->member_count);
    for (size_t i = 0; i < opt->member_count; i++) {
        const kd__member *member = &opt->members[i];
        kd__state_put_u64(&at, member->steps);
        kd__state_put_u64(&at, member->model->weight_floats);
        kd__state_put_u64(&at, member->model->parameter_count);
        for (size_t k = 0; k < member->model->parameter_count; k++) {
            kd__state_put_u64(&at, member->model->entries[k]->offset);
            kd__state_put_u64(&at, member->model->entries[k]->tensor.count);
        }
    }
    if (!has_moments(opt)) return;
    for (size_t i = 0; i < opt->member_count; i++)
        for (size_t k = 0; k < kd__optimizer_moments(opt); k++)
            kd__state_put_f32(&at, opt->members[i].moments[k], opt->members[i].model->weight_floats);
}

static kd_status check_model(const kd__member *member, size_t number, uint64_t steps, const uint8_t **at)
{
    const kd_model *model = member->model;
    if (kd__state_get_u64(at) > steps)
        return kd__fail(KD_ERR_FORMAT, "optimizer state: model %zu has taken more steps than the optimizer", number);
    uint64_t floats = kd__state_get_u64(at), parameters = kd__state_get_u64(at);
    if (parameters != model->parameter_count)
        return kd__fail(KD_ERR_SHAPE, "optimizer state: model %zu: %llu parameters in the state, %zu here", number,
                        (unsigned long long)parameters, model->parameter_count);
    for (size_t k = 0; k < model->parameter_count; k++) {
        const kd__param *param = model->entries[k];
        uint64_t offset = kd__state_get_u64(at), count = kd__state_get_u64(at);
        if (offset != param->offset || count != param->tensor.count)
            return kd__fail(KD_ERR_SHAPE, "optimizer state: %s: %llu numbers at %llu in the state, %zu at %zu here", param->path,
                            (unsigned long long)count, (unsigned long long)offset, param->tensor.count, param->offset);
    }
    if (floats != model->weight_floats)
        return kd__fail(KD_ERR_SHAPE, "optimizer state: model %zu: a block of %llu floats in the state, %zu here", number,
                        (unsigned long long)floats, model->weight_floats);
    return KD_OK;
}

kd_status kd__optimizer_state_check(kd_optimizer *opt, const void *in, size_t bytes)
{
    const uint8_t *at = in, *end = at + bytes;
    if (bytes < HEAD) return kd__fail(KD_ERR_TRUNCATED, "optimizer state: %zu bytes, the head alone has %d", bytes, HEAD);
    uint64_t version = kd__state_get_u64(&at), method = kd__state_get_u64(&at), moments = kd__state_get_u64(&at);
    uint64_t steps = kd__state_get_u64(&at);
    double lr = kd__state_get_f64(&at);
    kd__state_get_f64(&at);
    uint64_t follow = kd__state_get_u64(&at), models = kd__state_get_u64(&at);
    if (version > VERSION)
        return kd__fail(KD_ERR_VERSION, "optimizer state: version %llu, this libkd reads %d", (unsigned long long)version,
                        VERSION);
    if (version != VERSION || follow > 1 || !(lr >= 0 && (double)(float)lr == lr))
        return kd__fail(KD_ERR_FORMAT, "optimizer state: its head makes no sense");
    static const char *const names[] = { "?", "SGD", "ADAM", "ADAMW" };
    if (method != opt->desc.method)
        return kd__fail(KD_ERR_SHAPE, "optimizer state: method %s in the state, %s here",
                        method < KD_COUNT(names) ? names[method] : "?", names[opt->desc.method]);
    if (moments != kd__optimizer_moments(opt))
        return kd__fail(KD_ERR_SHAPE, "optimizer state: %llu moments a weight in the state, %zu here (momentum 0?)",
                        (unsigned long long)moments, kd__optimizer_moments(opt));
    if (models != opt->member_count)
        return kd__fail(KD_ERR_SHAPE, "optimizer state: %llu models in the state, %zu here", (unsigned long long)models,
                        opt->member_count);
    if (follow != (steps && moments))
        return kd__fail(KD_ERR_FORMAT, "optimizer state: %llu steps %s moments", (unsigned long long)steps,
                        follow ? "but" : "without");
    for (size_t i = 0; i < opt->member_count; i++) {
        const kd__member *member = &opt->members[i];
        size_t parameters = member->model->parameter_count;
        if ((size_t)(end - at) < MODEL_HEAD) return kd__fail(KD_ERR_TRUNCATED, "optimizer state: it ends before model %zu", i);
        const uint8_t *peek = at + 2 * 8;
        if (kd__state_get_u64(&peek) == parameters && (size_t)(end - at) < MODEL_HEAD + parameters * PARAM_HEAD)
            return kd__fail(KD_ERR_TRUNCATED, "optimizer state: it ends in the parameters of model %zu", i);
        KD_TRY(check_model(member, i, steps, &at));
    }
    size_t want = follow ? moments_size(opt) : 0, have = (size_t)(end - at);
    if (have != want)
        return kd__fail(have < want ? KD_ERR_TRUNCATED : KD_ERR_FORMAT, "optimizer state: %zu bytes of moments, %zu wanted", have,
                        want);
    return kd__optimizer_prepare(opt);
}

void kd__optimizer_state_read(kd_optimizer *opt, const void *in)
{
    const uint8_t *at = (const uint8_t *)in + 3 * 8;
    opt->steps = kd__state_get_u64(&at);
    opt->lr = (float)kd__state_get_f64(&at);
    opt->grad_norm = kd__state_get_f64(&at);
    bool follow = kd__state_get_u64(&at) != 0;
    at += 8;
    for (size_t i = 0; i < opt->member_count; i++) {
        opt->members[i].steps = kd__state_get_u64(&at);
        at += 2 * 8 + PARAM_HEAD * opt->members[i].model->parameter_count;
    }
    for (size_t i = 0; i < opt->member_count; i++)
        for (size_t k = 0; k < kd__optimizer_moments(opt); k++) {
            float *moment = opt->members[i].moments[k];
            size_t floats = opt->members[i].model->weight_floats;
            if (follow) kd__state_get_f32(&at, moment, floats);
            else memset(moment, 0, floats * sizeof *moment);
        }
}
