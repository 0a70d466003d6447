/* conv_depthwise.c - convolutions whose channels do not mix: groups = channels in = channels out.
 *
 * A row of outputs at a time: those with all their columns of taps inside the image together, the few at its sides one by one with
 * the taps they have.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

enum {
    PATCH = 16 * 1024,          /* floats of source that a task works on */
    COPIES = 1024 * 1024,       /* floats of weight gradients of chunks, before they are added */
};
#define PARALLEL_WORK 5e5

typedef struct depth_job {
    kd_context   *ctx;
    kd__window    w;
    kd__cut       cut;
    const float  *x, *weight;
    kd__epilogue  after;
    ptrdiff_t     w_row, w_tap;
    float        *y;
    size_t        y_image;
    bool          add;
} depth_job;

static void output_row(const depth_job *job, size_t image, size_t r, const kd__region *region)
{
    const kd__window *w = &job->w;
    const float *x = job->x + image * w->h * w->w * w->c;
    const ptrdiff_t top = w->first_h + (ptrdiff_t)(r * w->step_h);
    const size_t i0 = kd__taps_below(top, w->tap_h, 0, w->kh), i1 = kd__taps_below(top, w->tap_h, w->h, w->kh);
    kd__depthwise_args d = { .channels = w->c, .kh = i1 - i0, .x_step = w->step_w * w->c, .x_row = w->tap_h * w->w * w->c,
                             .x_tap = w->tap_w * w->c, .w_row = job->w_row, .w_tap = job->w_tap, .y_step = w->y_step,
                             .add = job->add };
    const bool finish = kd__epilogue_any(&job->after);
    for (size_t q = region->c0; q < region->c1; q += d.columns) {
        const ptrdiff_t left = w->first_w + (ptrdiff_t)(q * w->step_w);
        const size_t j0 = kd__taps_below(left, w->tap_w, 0, w->kw), j1 = kd__taps_below(left, w->tap_w, w->w, w->kw);
        d.columns = 1;
        if (j0 == 0 && j1 == w->kw && w->kw) {   /* how many more have all their taps? */
            const ptrdiff_t last = left + (ptrdiff_t)((w->kw - 1) * w->tap_w);
            d.columns = KD_MIN(kd__taps_below(last, w->step_w, w->w, region->c1 - q), region->c1 - q);
        }
        d.kw = j1 - j0;
        d.x = x;
        if (d.kh && d.kw)
            d.x += ((size_t)(top + (ptrdiff_t)(i0 * w->tap_h)) * w->w + (size_t)(left + (ptrdiff_t)(j0 * w->tap_w))) * w->c;
        d.w = job->weight + (ptrdiff_t)i0 * job->w_row + (ptrdiff_t)j0 * job->w_tap;
        d.y = job->y + image * job->y_image + w->y_first + (ptrdiff_t)(r * w->y_row + q * w->y_step);
        if (finish) d.after = kd__epilogue_at(&job->after, (image * w->oh + r) * w->ow + q, 0);
        job->ctx->kernels->depthwise_f32(&d);
    }
}

static void region_task(size_t task, void *arg)
{
    const depth_job *job = arg;
    kd__region region;
    const size_t image = kd__cut_region(&job->cut, &job->w, task, &region);
    for (size_t r = region.r0; r < region.r1; r++)
        output_row(job, image, r, &region);
}

static void run(depth_job *job, size_t images)
{
    const double work = (double)images * (double)job->w.oh * (double)job->w.ow * (double)job->w.c * (double)(job->w.kh * job->w.kw);
    const size_t threads = work < PARALLEL_WORK ? 1 : job->ctx->threads;
    job->cut = kd__cut_make(&job->w, images, PATCH, threads);
    if (threads > 1) kd__parallel(job->ctx, job->cut.count, region_task, job);
    else
        for (size_t i = 0; i < job->cut.count; i++) region_task(i, job);
}

void kd__depthwise_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, const kd__epilogue *after,
                           float *y)
{
    depth_job job = { .ctx = ctx, .w = kd__window_forward(s), .x = x, .weight = weight, .after = *after,
                      .w_row = (ptrdiff_t)(s->kw * s->co), .w_tap = (ptrdiff_t)s->co, .y = y, .y_image = s->oh * s->ow * s->co };
    run(&job, s->n);
}

void kd__depthwise_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx, bool accumulate)
{
    for (size_t a = 0; a < KD_MIN(s->stride_h, s->h); a++)
        for (size_t b = 0; b < KD_MIN(s->stride_w, s->w); b++) {
            size_t kh0, kw0, kh_step, kw_step;
            depth_job job = { .ctx = ctx, .w = kd__window_backward(s, a, b, &kh0, &kw0, &kh_step, &kw_step), .x = dy, .y = dx,
                              .y_image = s->h * s->w * s->ci, .add = accumulate };
            job.weight = weight + (kh0 * s->kw + kw0) * s->co;
            job.w_row = -(ptrdiff_t)(kh_step * s->kw * s->co);
            job.w_tap = -(ptrdiff_t)(kw_step * s->co);
            run(&job, s->n);
        }
}

/* ---- weights: chunks into gradients of their own, some at a time; then these in order ------------------------- */
typedef struct depth_weight_job {
    kd_context           *ctx;
    const kd__conv_shape *s;
    kd__window            w;
    const float          *x, *dy;
    float                *copies;
    kd__chunks            chunks;
    size_t                first_chunk, size, patch;   /* patch: floats of one image's */
    _Atomic int           status;
} depth_weight_job;

static void chunk_task(size_t i, void *arg)
{
    depth_weight_job *job = arg;
    const kd__conv_shape *s = job->s;
    const kd__window *w = &job->w;
    size_t first, images;
    kd__region region;
    kd__chunk_at(s, &job->chunks, job->first_chunk + i, &first, &images, &region);
    float *buffer = kd__scratch_get(job->ctx, job->patch * job->chunks.images * sizeof *buffer);
    if (!buffer) {
        atomic_store_explicit(&job->status, KD_ERR_NOMEM, memory_order_relaxed);
        return;
    }
    kd__patch patch = { 0 };
    ptrdiff_t x_image = 0;
    for (size_t k = 0; k < images; k++) {
        kd__patch one = kd__patch_take(w, &region, true, job->x + (first + k) * s->h * s->w * s->ci, buffer + k * job->patch);
        if (k == 0) patch = one;
        if (k == 1) x_image = one.data - patch.data;   /* and so on: all in place, or all in the buffer */
    }
    for (size_t tap = 0; tap < s->kh; tap++) {
        const ptrdiff_t top = w->first_h + (ptrdiff_t)(tap * w->tap_h);
        const size_t a0 = KD_MAX(kd__taps_below(top, w->step_h, 0, s->oh), region.r0);
        const size_t a1 = KD_MIN(kd__taps_below(top, w->step_h, s->h, s->oh), region.r1);
        kd__depthwise_args d = { .channels = s->ci, .kw = s->kw, .columns = s->ow, .images = images, .x_image = x_image,
                                 .dy_image = s->oh * s->ow * s->co, .x = patch.data, .x_step = w->step_w * s->ci,
                                 .x_row = w->step_h * patch.row, .x_tap = w->tap_w * s->ci, .rows = a1 > a0 ? a1 - a0 : 0,
                                 .dy_row = s->ow * s->co, .dw = job->copies + i * job->size + tap * s->kw * s->co };
        d.dy = job->dy + first * d.dy_image;
        if (d.rows) {
            d.x += (size_t)(top + (ptrdiff_t)(a0 * w->step_h) - (ptrdiff_t)patch.lo) * patch.row;
            d.dy += a0 * d.dy_row;
        }
        job->ctx->kernels->depthwise_weight_f32(&d);
    }
    kd__scratch_put(job->ctx, buffer);
}

kd_status kd__depthwise_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                        bool accumulate)
{
    depth_weight_job job = { .ctx = ctx, .s = s, .w = kd__window_forward(s), .x = x, .dy = dy, .size = s->kh * s->kw * s->co };
    job.chunks = kd__chunks_of(s);
    const size_t chunks = job.chunks.count;
    if (!accumulate && !chunks) memset(dw, 0, job.size * sizeof *dw);
    if (!chunks || !job.size) return KD_OK;
    if (!kd__patch_size(&job.w, job.chunks.rows, s->ow, &job.patch) || job.patch > SIZE_MAX / sizeof *dw / job.chunks.images)
        return kd__fail(KD_ERR_OVERFLOW, "convolution: a padded row does not fit");
    const size_t round = KD_MIN(chunks, KD_MAX(KD_MIN(8 * ctx->threads, COPIES / job.size), 1u));
    job.copies = kd__scratch_get(ctx, round * job.size * sizeof *job.copies);
    if (!job.copies) return KD_ERR_NOMEM;
    const double work = (double)job.size * (double)s->n * (double)s->oh * (double)s->ow;
    for (; job.first_chunk < chunks && atomic_load(&job.status) == KD_OK; job.first_chunk += round) {
        const size_t count = KD_MIN(round, chunks - job.first_chunk);
        if (ctx->threads > 1 && work >= PARALLEL_WORK) kd__parallel(ctx, count, chunk_task, &job);
        else
            for (size_t i = 0; i < count; i++) chunk_task(i, &job);
        for (size_t i = 0; i < count; i++) {
            const float *copy = job.copies + i * job.size;
            if (job.first_chunk + i || accumulate) ctx->kernels->axpy_f32(dw, copy, job.size, 1.0f);
            else memcpy(dw, copy, job.size * sizeof *copy);
        }
    }
    kd__scratch_put(ctx, job.copies);
    return atomic_load(&job.status) == KD_OK ? KD_OK : kd__fail(KD_ERR_NOMEM, "out of memory");
}
