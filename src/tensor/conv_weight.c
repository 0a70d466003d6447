/* conv_weight.c - the gradient of a convolution's weights, as it is defined: dw[i][j][c][o] is the sum over pixels of
 * x under tap (i, j) times dy.
 *
 * For one tap, or with few channels for a row of taps, this is a matrix product whose A, transposed, is the image itself; for
 * the usual kernels, 3 wide at stride 1, three such products at once.
 * Pixels are summed in chunks (kd__chunks), each chain from zero, and chunks are added in order.  Threads share the
 * taps and columns where there are many, each going through all chunks; else they share the chunks, and what these give
 * is added in order afterwards.  The bits are the same.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

enum {
    FEW_CHANNELS = 16,          /* below: all taps of a kernel row in one tile */
    SMALL_GRADIENT = 16 * 1024, /* floats of dw, of which each chunk may have its own */
    COPIES = 2 * 1024 * 1024,   /* floats of all those */
};
#define PARALLEL_WORK 2e6

typedef struct weight_job {
    kd_context           *ctx;
    const kd__conv_shape *s;
    kd__window            w;
    const float          *x, *dy;
    float                *dw;
    bool                  accumulate;
    bool                  merged;        /* all taps of a kernel row as rows of one product, from padded patches */
    bool                  three;         /* three taps of a kernel row at once */
    kd__chunks            chunks;
    size_t                patch;         /* floats of one image's */
    size_t                items, tasks;  /* pieces of dw; they go to tasks in order */
    float                *copies;        /* or: one dw for each chunk of a round */
    size_t                first_chunk, size;
    _Atomic int           status;
} weight_job;

static size_t panels_of(size_t n) { return (n + KD__GEMM_PANEL - 1) / KD__GEMM_PANEL; }

/* Add a chunk's part of items [begin, end) to dw; to begin with, store it. */
static void add_chunk(const weight_job *job, size_t chunk, size_t begin, size_t end, float *buffer, float *dw, bool add)
{
    const kd__conv_shape *s = job->s;
    const kd__window *w = &job->w;
    size_t first, images;
    kd__region region;
    kd__chunk_at(s, &job->chunks, chunk, &first, &images, &region);
    const float *x = job->x + first * s->h * s->w * s->ci, *dy = job->dy + first * s->oh * s->ow * s->co;
    const size_t c = s->ci / s->groups, n = s->co / s->groups, panels = panels_of(n);
    const bool whole_row = job->merged || job->three;
    const size_t taps_across = whole_row ? 1 : s->kw;
    kd__patch patch = { .data = x, .lo = 0, .hi = s->h, .row = s->w * s->ci };
    ptrdiff_t a_image = (ptrdiff_t)(s->h * s->w * s->ci);
    for (size_t k = 0; job->merged && k < images; k++) {
        kd__patch one = kd__patch_take(w, &region, true, x + k * s->h * s->w * s->ci, buffer + k * job->patch);
        if (k == 0) patch = one;
        if (k == 1) a_image = one.data - patch.data;   /* and so on: all in place, or all in the buffer */
    }
    for (size_t item = begin; item < end; item++) {   /* group, tap row, tap, panel of columns */
        const size_t panel = item % panels, j = item / panels % taps_across, i = item / panels / taps_across % s->kh;
        const size_t g = item / panels / taps_across / s->kh;
        /* Outputs whose source pixel under this tap is inside the image. */
        const ptrdiff_t top = w->first_h + (ptrdiff_t)(i * w->tap_h), left = w->first_w + (ptrdiff_t)(j * w->tap_w);
        const size_t a0 = KD_MAX(kd__taps_below(top, w->step_h, 0, s->oh), region.r0);
        const size_t a1 = KD_MIN(kd__taps_below(top, w->step_h, s->h, s->oh), region.r1);
        const size_t b0 = whole_row ? 0 : kd__taps_below(left, w->step_w, 0, s->ow);
        const size_t b1 = whole_row ? s->ow : kd__taps_below(left, w->step_w, s->w, s->ow);
        const bool any = a1 > a0 && b1 > b0;
        kd__gemm_block block = { .m = job->merged ? s->kw * c : c, .n = KD_MIN(n - panel * KD__GEMM_PANEL, KD__GEMM_PANEL),
                                 .outer = images, .a_outer = a_image, .b_outer = (ptrdiff_t)(s->oh * s->ow * s->co),
                                  .inner = any ? a1 - a0 : 0, .length = b1 - b0, .a_row = 1, .a_k = w->step_w * s->ci,
                                 .a_inner = (ptrdiff_t)(w->step_h * patch.row), .b_k = s->co, .b_inner = (ptrdiff_t)(s->ow * s->co),
                                 .c_row = s->co, .add = add };
        const size_t column = g * n + panel * KD__GEMM_PANEL;
        block.a = patch.data + g * c;
        block.b = dy + column;
        if (any) {
            block.a += (size_t)(top + (ptrdiff_t)(a0 * w->step_h) - (ptrdiff_t)patch.lo) * patch.row;
            if (!whole_row) block.a += (size_t)(left + (ptrdiff_t)(b0 * w->step_w)) * s->ci;
            block.b += (a0 * s->ow + b0) * s->co;
        }
        block.c = dw + ((i * s->kw + j) * c) * s->co + column;
        if (job->three) job->ctx->kernels->weight_taps_f32(&block, c * s->co);
        else job->ctx->kernels->gemm_block_f32(&block);
    }
}

static float *patch_buffer(weight_job *job)
{
    static float none;   /* a place to point at where no buffer is needed */
    if (!job->patch) return &none;
    float *buffer = kd__scratch_get(job->ctx, job->patch * job->chunks.images * sizeof *buffer);
    if (!buffer) atomic_store_explicit(&job->status, KD_ERR_NOMEM, memory_order_relaxed);
    return buffer;
}

static void patch_return(weight_job *job, float *buffer)
{
    if (job->patch) kd__scratch_put(job->ctx, buffer);
}

static void items_task(size_t task, void *arg)
{
    weight_job *job = arg;
    float *buffer = patch_buffer(job);
    if (!buffer) return;
    const size_t begin = task * job->items / job->tasks, end = (task + 1) * job->items / job->tasks;
    for (size_t chunk = 0; chunk < job->chunks.count; chunk++)
        add_chunk(job, chunk, begin, end, buffer, job->dw, chunk || job->accumulate);
    patch_return(job, buffer);
}

static void chunk_task(size_t i, void *arg)
{
    weight_job *job = arg;
    float *buffer = patch_buffer(job);
    if (!buffer) return;
    add_chunk(job, job->first_chunk + i, 0, job->items, buffer, job->copies + i * job->size, false);
    patch_return(job, buffer);
}

/* Every chunk into a dw of its own, some at a time; then these in order. */
static kd_status by_chunks(weight_job *job)
{
    const size_t round = KD_MIN(job->chunks.count, KD_MAX(KD_MIN(4 * job->ctx->threads, COPIES / job->size), 1u));
    job->copies = kd__scratch_get(job->ctx, round * job->size * sizeof *job->copies);
    if (!job->copies) return KD_ERR_NOMEM;
    for (; job->first_chunk < job->chunks.count; job->first_chunk += round) {
        const size_t count = KD_MIN(round, job->chunks.count - job->first_chunk);
        kd__parallel(job->ctx, count, chunk_task, job);
        if (atomic_load(&job->status) != KD_OK) break;
        for (size_t i = 0; i < count; i++) {
            const float *copy = job->copies + i * job->size;
            if (job->first_chunk + i || job->accumulate) job->ctx->kernels->axpy_f32(job->dw, copy, job->size, 1.0f);
            else memcpy(job->dw, copy, job->size * sizeof *copy);
        }
    }
    kd__scratch_put(job->ctx, job->copies);
    return KD_OK;
}

kd_status kd__direct_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                     bool accumulate)
{
    const size_t c = s->ci / s->groups, n = s->co / s->groups;
    weight_job job = { .ctx = ctx, .s = s, .w = kd__window_forward(s), .x = x, .dy = dy, .dw = dw, .accumulate = accumulate,
                       .size = s->kh * s->kw * c * s->co, .tasks = 1 };
    if (!job.size) return KD_OK;
    job.chunks = kd__chunks_of(s);
    if (!job.chunks.count) {
        if (!accumulate) memset(dw, 0, job.size * sizeof *dw);
        return KD_OK;
    }
    job.three = s->kw == 3 && s->stride_w == 1 && s->dil_w == 1 && s->pad_w == 1 && s->w >= 2 && c >= 3;
    job.merged = !job.three && s->groups == 1 && s->dil_w == 1 && s->kw > 1 && c < FEW_CHANNELS;
    if (job.merged && (!kd__patch_size(&job.w, job.chunks.rows, s->ow, &job.patch) ||
                       job.patch > SIZE_MAX / sizeof *dw / job.chunks.images))
        return kd__fail(KD_ERR_OVERFLOW, "convolution: a padded row does not fit");
    job.items = s->groups * s->kh * (job.merged || job.three ? 1 : s->kw) * panels_of(n);
    const double work = (double)job.size * (double)s->n * (double)s->oh * (double)s->ow;
    kd_status status = KD_OK;
    if (ctx->threads > 1 && work >= PARALLEL_WORK) {
        const size_t enough = 2 * ctx->threads;
        if (job.size <= SMALL_GRADIENT ? job.chunks.count >= KD_MIN(enough, job.items) : job.items < KD_MIN(enough, job.chunks.count)) {
            status = by_chunks(&job);
        } else {
            job.tasks = KD_MIN(job.items, 2 * ctx->threads);
            kd__parallel(ctx, job.tasks, items_task, &job);
        }
    } else {
        items_task(0, &job);
    }
    if (status == KD_OK && atomic_load(&job.status) != KD_OK) status = kd__fail(KD_ERR_NOMEM, "out of memory");
    return status;
}
