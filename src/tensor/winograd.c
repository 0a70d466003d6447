/* winograd.c - 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3): 4 multiplications where there were 9, and, with
 * chains a ninth as long, less rounding error; on request by F(4x4, 3x3): 2.25 where there were 9, and more error.  The formulas are
 * in kernels/winograd_args.h.
 *
 * Tiles of all images are numbered through and go in blocks whose transforms stay in the cache: transform the input, sixteen
 * matrix products, transform the output.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

enum {
    LEAST_TILES = 28, MOST_TILES = 84,
};
#define PARALLEL_WORK 8e5

typedef struct winograd_job {
    kd_context       *ctx;
    kd__winograd_args args;
    const float      *u;         /* [planes][panels][c][32] */
    size_t            planes, u_plane, tiles, block;
    size_t            v_plane, m_plane;
    _Atomic int       status;
} winograd_job;

static void block_task(size_t task, void *arg)
{
    winograd_job *job = arg;
    kd__winograd_args a = job->args;
    float *v = kd__scratch_get(job->ctx, job->planes * (job->v_plane + job->m_plane) * sizeof *v);
    if (!v) {
        atomic_store_explicit(&job->status, KD_ERR_NOMEM, memory_order_relaxed);
        return;
    }
    float *m = v + job->planes * job->v_plane;
    a.first = task * job->block;
    a.count = KD_MIN(job->block, job->tiles - a.first);
    a.v = v;
    a.plane = job->v_plane;
    a.row = a.c;
    job->ctx->kernels->winograd_input_f32(&a);
    for (size_t q = 0; q < job->planes; q++) {
        kd__gemm_block b = { .m = a.count, .n = a.co, .outer = 1, .inner = 1, .a_row = a.c, .a_k = 1, .b_k = KD__GEMM_PANEL,
                             .b_panel = a.c * KD__GEMM_PANEL, .c = m + q * job->m_plane, .c_row = a.co };
        for (size_t k = 0; k < a.c; k += KD__GEMM_K) {
            b.length = KD_MIN(a.c - k, KD__GEMM_K);
            b.a = v + q * job->v_plane + k;
            b.b = job->u + q * job->u_plane + k * KD__GEMM_PANEL;
            b.add = k > 0;
            job->ctx->kernels->gemm_block_f32(&b);
        }
    }
    a.m = m;
    a.plane = job->m_plane;
    job->ctx->kernels->winograd_output_f32(&a);
    kd__scratch_put(job->ctx, v);
}

typedef struct weights_job {
    kd_context  *ctx;
    const float *weight;          /* [3, 3, ci, co] of the layer, turned round for the gradient */
    size_t       out, c, co, u_plane;
    bool         backward;
} weights_job;

/* A panel of 32 columns after the other: its nine taps packed, then transformed. */
static bool transform_weights(void *arg, float *u)
{
    const weights_job *w = arg;
    const kd__kernels *kernels = w->ctx->kernels;
    const size_t panel = w->c * KD__GEMM_PANEL;
    float *taps = kd__scratch_get(w->ctx, 9 * panel * sizeof *taps);
    if (!taps) return false;
    for (size_t j = 0; j < w->co; j += KD__GEMM_PANEL) {
        const size_t n = KD_MIN(w->co - j, KD__GEMM_PANEL);
        for (size_t t = 0; t < 9; t++) {
            const float *tap = w->weight + (w->backward ? 8 - t : t) * w->c * w->co + (w->backward ? j * w->c : j);
            kernels->pack_panels_f32(tap, w->backward ? w->c : w->co, w->backward, w->c, n, taps + t * panel, panel);
        }
        kernels->winograd_weights_f32(w->out, taps, panel, u + j * w->c, w->u_plane, panel);
    }
    kd__scratch_put(w->ctx, taps);
    return true;
}

/* Images [n, h, w, c] to [n, oh, ow, co]. */
static kd_status run(kd_context *ctx, kd__winograd_args *args, size_t n, const float *weight, kd__packed *packed, bool backward)
{
    const size_t c = args->c, co = args->co;
    const size_t out = args->out;
    args->pixel = c;
    args->tiles_h = (args->oh + out - 1) / out;
    args->tiles_w = (args->ow + out - 1) / out;
    winograd_job job = { .ctx = ctx, .planes = (out + 2) * (out + 2), .tiles = n * args->tiles_h * args->tiles_w };
    if (!job.tiles) return KD_OK;
    size_t wide, floats;
    if (!kd__round_up(co, KD__GEMM_PANEL, &wide) || !kd__mul(wide, c, &job.u_plane) || !kd__mul(job.u_plane, job.planes, &floats) ||
        floats > SIZE_MAX / sizeof(float))
        return kd__fail(KD_ERR_OVERFLOW, "convolution: the weights do not fit");
    float *zeros = kd__scratch_get(ctx, c * sizeof *zeros), *u = NULL;
    if (!zeros) return KD_ERR_NOMEM;
    memset(zeros, 0, c * sizeof *zeros);
    weights_job w = { ctx, weight, out, c, co, job.u_plane, backward };
    if (packed) job.u = kd__packed_get(ctx, packed, out == 2 ? KD__PACKED_WINOGRAD : KD__PACKED_WINOGRAD4, floats, transform_weights, &w);
    if (!job.u) {
        u = kd__scratch_get(ctx, floats * sizeof *u);
        if (!u || !transform_weights(&w, u)) {
            kd__scratch_put(ctx, u);
            kd__scratch_put(ctx, zeros);
            return KD_ERR_NOMEM;
        }
        job.u = u;
    }
    args->zeros = zeros;
    job.args = *args;

    /* Transformed floats of a block of tiles: about half of the level-2 cache. */
    const size_t half_l2 = ctx->caches.l2 / 2 / sizeof(float) / job.planes / (c + co) / 14 * 14;
    job.block = KD_MIN(KD_MAX(half_l2, (size_t)LEAST_TILES), (size_t)MOST_TILES);
    const bool parallel = ctx->threads > 1 && (double)job.tiles * (double)job.planes * (double)c * (double)co >= PARALLEL_WORK;
    const size_t share = (job.tiles + 2 * ctx->threads - 1) / (2 * ctx->threads);
    if (parallel && share < job.block) job.block = share >= 28 ? share / 14 * 14 : KD_MAX((share + 1) / 2 * 2, 8u);
    job.block = KD_MIN(job.block, job.tiles);
    job.v_plane = job.block * c + 16;    /* planes must not lie on the same cache sets */
    job.m_plane = job.block * co + 16;
    const size_t tasks = (job.tiles + job.block - 1) / job.block;
    if (parallel) kd__parallel(ctx, tasks, block_task, &job);
    else
        for (size_t i = 0; i < tasks; i++) block_task(i, &job);
    kd__scratch_put(ctx, u);
    kd__scratch_put(ctx, zeros);
    return atomic_load(&job.status) == KD_OK ? KD_OK : kd__fail(KD_ERR_NOMEM, "out of memory");
}

/* F(4x4) where it was asked for and the image has room for a tile of its own. */
static size_t winograd_out(const kd__conv_shape *s) { return s->winograd4 && s->oh >= 4 && s->ow >= 4 ? 4 : 2; }

kd_status kd__winograd_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, kd__packed *packed,
                               const kd__epilogue *after, float *y)
{
    kd__winograd_args a = { .out = winograd_out(s),
                            .h = s->h, .w = s->w, .c = s->ci, .pad_h = s->pad_h, .pad_w = s->pad_w, .oh = s->oh, .ow = s->ow,
                            .co = s->co, .x = x, .y = y, .after = *after };
    return run(ctx, &a, s->n, weight, packed, false);
}

kd_status kd__winograd_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx,
                                     bool accumulate)
{
    kd__winograd_args a = { .out = 2,
                            .h = s->oh, .w = s->ow, .c = s->co, .pad_h = 2 - s->pad_h, .pad_w = 2 - s->pad_w, .oh = s->h, .ow = s->w,
                            .co = s->ci, .x = dy, .y = dx, .add = accumulate };
    return run(ctx, &a, s->n, weight, NULL, true);
}
