/* clip.c - the global norm of gradients, and scaling by it.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "optim/optim.h"
#include <math.h>

size_t kd__norm_chunks(size_t n) { return n / KD__NORM_CHUNK + (n % KD__NORM_CHUNK != 0); }

typedef struct sum_job {
    const kd__kernels *kernels;
    const float       *x;
    double            *partial;
} sum_job;

static void sum_chunk(size_t begin, size_t end, void *arg)
{
    const sum_job *job = arg;
    job->kernels->dot_f32(&job->partial[begin / KD__NORM_CHUNK], job->x + begin, job->x + begin, end - begin);
}

void kd__sum_squares(kd_context *ctx, const float *x, size_t n, double *partial, double *sum)
{
    sum_job job = { ctx->kernels, x, partial };
    kd__parallel_range(ctx, n, KD__NORM_CHUNK, sum_chunk, &job);
    for (size_t i = 0; i < kd__norm_chunks(n); i++) *sum += partial[i];
}

float kd__clip_scale(double norm, double max_norm)
{
    double scale = max_norm / (norm + 1e-6);
    return scale >= 1 ? 1 : (float)scale;   /* NaN stays */
}

typedef struct scale_job {
    const kd__kernels *kernels;
    float             *x, scale;
} scale_job;

static void scale_chunk(size_t begin, size_t end, void *arg)
{
    const scale_job *job = arg;
    float *x = job->x + begin;
    job->kernels->unary_f32(KD_UNARY_SCALE_ADD, x, x, end - begin, job->scale, 0.0f);
}

kd_status kd_clip_grad_norm(kd_model *const *models, size_t count, double max_norm, double *norm)
{
    KD__FP_SCOPE;
    KD_NEED(models);
    if (!(max_norm > 0))
        return kd__fail(KD_ERR_ARG, "%s: max_norm: %g is not a number > 0", __func__, max_norm);
    size_t chunks = 0;
    for (size_t i = 0; i < count; i++) {
        if (!models[i]) return kd__fail(KD_ERR_ARG, "%s: models: number %zu is NULL", __func__, i);
        if (!models[i]->finished) return kd__fail(KD_ERR_STATE, "%s: models: number %zu is not finished", __func__, i);
        for (size_t k = 0; k < i; k++)
            if (models[k] == models[i])
                return kd__fail(KD_ERR_ARG, "%s: models: numbers %zu and %zu are the same", __func__, k, i);
        chunks = KD_MAX(chunks, kd__norm_chunks(models[i]->weight_floats));
    }
    double sum = 0;
    if (count) {
        kd_context *ctx = models[0]->ctx;
        double *partial = kd__scratch_get(ctx, chunks * sizeof *partial);
        if (!partial) return KD_ERR_NOMEM;
        for (size_t i = 0; i < count; i++)
            kd__sum_squares(models[i]->ctx, models[i]->grads, models[i]->weight_floats, partial, &sum);
        kd__scratch_put(ctx, partial);
    }
    double before = sqrt(sum);
    float scale = kd__clip_scale(before, max_norm);
    for (size_t i = 0; i < count && scale != 1; i++) {
        scale_job job = { models[i]->ctx->kernels, models[i]->grads, scale };
        kd__parallel_range(models[i]->ctx, models[i]->weight_floats, KD__NORM_CHUNK, scale_chunk, &job);
    }
    if (norm) *norm = before;
    return KD_OK;
}
