/* ema.c - an exponential moving average of a model's weights and buffers.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "base/state.h"
#include "optim/optim.h"

#define GRAIN 16384u

kd_status kd_ema_create(kd_ema **out, kd_model *model, double decay)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(model);
    if (!(decay >= 0 && decay < 1)) return kd__fail(KD_ERR_ARG, "%s: decay: %g is not in [0, 1)", __func__, decay);
    if (!model->finished) return kd__fail(KD_ERR_STATE, "%s: model is not finished: kd_model_finish comes first", __func__);
    kd_context *ctx = model->ctx;
    kd_ema *ema = kd__alloc(ctx, sizeof *ema);
    if (!ema) return KD_ERR_NOMEM;
    *ema = (kd_ema){.model = model, .decay = decay, .weight_floats = model->weight_floats, .buffer_floats = model->buffer_floats};
    ema->ctx = kd__context_retain(ctx);
    ema->weights = kd__alloc_array(ctx, ema->weight_floats, sizeof(float));
    ema->buffers = kd__alloc_array(ctx, ema->buffer_floats, sizeof(float));
    if (!ema->weights || !ema->buffers) {
        kd_ema_free(ema);
        return KD_ERR_NOMEM;
    }
    if (ema->weight_floats) memcpy(ema->weights, model->weights, ema->weight_floats * sizeof(float));
    if (ema->buffer_floats) memcpy(ema->buffers, model->buffers, ema->buffer_floats * sizeof(float));
    *out = ema;
    return KD_OK;
}

typedef struct ema_job {
    const kd__kernels *kernels;
    float             *average, *model;
    float              share;
} ema_job;

static void approach(size_t begin, size_t end, void *arg)
{
    const ema_job *job = arg;
    job->kernels->approach_f32(job->average + begin, job->model + begin, end - begin, job->share);
}

kd_status kd_ema_update(kd_ema *ema)
{
    KD__FP_SCOPE;
    KD_NEED(ema);
    if (ema->swapped) return kd__fail(KD_ERR_STATE, "%s: the model holds the average: kd_ema_swap it back first", __func__);
    ema_job job = { ema->ctx->kernels, ema->weights, ema->model->weights, (float)(1 - ema->decay) };
    kd__parallel_range(ema->ctx, ema->weight_floats, GRAIN, approach, &job);
    job.average = ema->buffers;
    job.model = ema->model->buffers;
    kd__parallel_range(ema->ctx, ema->buffer_floats, GRAIN, approach, &job);
    return KD_OK;
}

static void exchange(size_t begin, size_t end, void *arg)
{
    const ema_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        float average = job->average[i];
        job->average[i] = job->model[i];
        job->model[i] = average;
    }
}

kd_status kd_ema_swap(kd_ema *ema)
{
    KD_NEED(ema);
    ema_job job = { .average = ema->weights, .model = ema->model->weights };
    kd__parallel_range(ema->ctx, ema->weight_floats, GRAIN, exchange, &job);
    job.average = ema->buffers;
    job.model = ema->model->buffers;
    kd__parallel_range(ema->ctx, ema->buffer_floats, GRAIN, exchange, &job);
    ema->swapped = !ema->swapped;
    kd_model_touch(ema->model);
    return KD_OK;
}

void kd_ema_free(kd_ema *ema)
{
    if (!ema) return;
    kd_context *ctx = ema->ctx;
    kd__free(ctx, ema->weights);
    kd__free(ctx, ema->buffers);
    kd__free(ctx, ema);
    kd__context_release(ctx);
}

/* ---- state: u64 version (1), swapped, floats of weights, of buffers; then both ----------------------------------- */

enum { VERSION = 1, HEAD = 4 * 8 };

size_t kd__ema_state_size(const kd_ema *ema) { return HEAD + (ema->weight_floats + ema->buffer_floats) * sizeof(float); }

void kd__ema_state_write(const kd_ema *ema, void *out)
{
    uint8_t *at = out;
    kd__state_put_u64(&at, VERSION);
    kd__state_put_u64(&at, ema->swapped);
    kd__state_put_u64(&at, ema->weight_floats);
    kd__state_put_u64(&at, ema->buffer_floats);
    kd__state_put_f32(&at, ema->weights, ema->weight_floats);
    kd__state_put_f32(&at, ema->buffers, ema->buffer_floats);
}

kd_status kd__ema_state_check(kd_ema *ema, const void *in, size_t bytes)
{
    const uint8_t *at = in;
    if (bytes < HEAD) return kd__fail(KD_ERR_TRUNCATED, "ema state: %zu bytes, the head alone has %d", bytes, HEAD);
    uint64_t version = kd__state_get_u64(&at), swapped = kd__state_get_u64(&at);
    uint64_t weights = kd__state_get_u64(&at), buffers = kd__state_get_u64(&at);
    if (version > VERSION)
        return kd__fail(KD_ERR_VERSION, "ema state: version %llu, this libkd reads %d", (unsigned long long)version, VERSION);
    if (version != VERSION || swapped > 1) return kd__fail(KD_ERR_FORMAT, "ema state: its head makes no sense");
    if (weights != ema->weight_floats || buffers != ema->buffer_floats)
        return kd__fail(KD_ERR_SHAPE, "ema state: %llu weights and %llu buffer numbers in the state, %zu and %zu here",
                        (unsigned long long)weights, (unsigned long long)buffers, ema->weight_floats, ema->buffer_floats);
    size_t want = kd__ema_state_size(ema);
    if (bytes != want)
        return kd__fail(bytes < want ? KD_ERR_TRUNCATED : KD_ERR_FORMAT, "ema state: %zu bytes, %zu wanted", bytes, want);
    return KD_OK;
}

void kd__ema_state_read(kd_ema *ema, const void *in)
{
    const uint8_t *at = (const uint8_t *)in + 8;
    ema->swapped = kd__state_get_u64(&at) != 0;
    at += 2 * 8;
    kd__state_get_f32(&at, ema->weights, ema->weight_floats);
    kd__state_get_f32(&at, ema->buffers, ema->buffer_floats);
}
