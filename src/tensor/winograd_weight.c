/* winograd_weight.c - the gradient of the weights of a convolution that goes through Winograd's F(2x2, 3x3): as in the forward pass 4
 * multiplications where there were 9.  The formulas are in kernels/winograd_args.h.
 *
 * Tiles of all images are numbered through and go in blocks: transform a block's input and its dy, then sixteen products, whose sums
 * are over the block's tiles, are added to sixteen sums of all blocks, in order.  At the end one transform gives the nine taps.
 *
 * The channels of x and of dy are cut into slices, of which each pair is a task that does all of this by itself: its sums stay in the
 * cache, and no thread reads what another one has just transformed.  That some transforms are made by two tasks costs less.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

enum {
    BLOCK = 64,            /* tiles of a chain: part of the bits */
    PLANES = 16,
    GAP = 16,              /* floats: rows and planes must not lie on the same cache sets */
    SLICE = 128,           /* channels of x or of dy at most, 16 at least */
};
#define PARALLEL_WORK 2e6

typedef struct gradient_job {
    kd_context       *ctx;
    kd__winograd_args args;
    const float      *x, *dy;
    float            *dw;
    size_t            tiles, across;            /* slices of dy */
    size_t            c, co;                    /* channels of a slice of either */
    bool              accumulate;
    _Atomic int       status;
} gradient_job;

static void slice_task(size_t i, void *arg)
{
    gradient_job *job = arg;
    const kd__kernels *k = job->ctx->kernels;
    const size_t c0 = i / job->across * job->c, co0 = i % job->across * job->co;
    kd__winograd_args x = job->args, dy = job->args;
    x.pixel = x.c, dy.pixel = x.co;
    x.c = dy.c = KD_MIN(job->c, x.c - c0);
    x.co = dy.co = KD_MIN(job->co, x.co - co0);
    x.row = x.c + GAP, dy.row = x.co + GAP;
    x.plane = BLOCK * x.row + GAP, dy.plane = BLOCK * dy.row + GAP;
    const size_t m_plane = x.c * x.co + GAP, zeros = KD_MAX(x.c, x.co);
    float *m = kd__scratch_get(job->ctx, (PLANES * (m_plane + x.plane + dy.plane) + zeros) * sizeof *m);
    if (!m) {
        atomic_store_explicit(&job->status, KD_ERR_NOMEM, memory_order_relaxed);
        return;
    }
    x.v = m + PLANES * m_plane;
    dy.v = x.v + PLANES * x.plane;
    x.zeros = dy.zeros = memset(dy.v + PLANES * dy.plane, 0, zeros * sizeof *m);
    x.x = job->x + c0, dy.x = job->dy + co0;
    for (size_t first = 0; first < job->tiles; first += BLOCK) {
        x.first = dy.first = first;
        x.count = dy.count = KD_MIN((size_t)BLOCK, job->tiles - first);
        k->winograd_input_f32(&x);
        k->winograd_dy_f32(&dy);
        for (size_t q = 0; q < PLANES; q++)
            k->gemm_block_f32(&(kd__gemm_block){ .m = x.c, .n = x.co, .outer = 1, .inner = 1, .length = x.count,
                                                 .a = x.v + q * x.plane, .a_row = 1, .a_k = x.row, .b = dy.v + q * dy.plane,
                                                 .b_k = dy.row, .c = m + q * m_plane, .c_row = x.co, .add = first > 0 });
    }
    for (size_t r = 0; r < x.c; r++)
        k->winograd_dw_f32(m + r * x.co, m_plane, job->dw + (c0 + r) * dy.pixel + co0, x.pixel * dy.pixel, x.co, job->accumulate);
    kd__scratch_put(job->ctx, m);
}

/* Channels of a slice of `n`, at least so many slices. */
static size_t slice_of(size_t n, size_t slices)
{
    return KD_MIN((n + slices - 1) / slices + 15, (size_t)SLICE) / 16 * 16;
}

kd_status kd__winograd_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                      bool accumulate)
{
    gradient_job job = { .ctx = ctx, .x = x, .dy = dy, .dw = dw, .accumulate = accumulate,
                         .args = { .out = 2, .h = s->h, .w = s->w, .c = s->ci, .pad_h = s->pad_h, .pad_w = s->pad_w, .oh = s->oh,
                                   .ow = s->ow, .co = s->co, .tiles_h = (s->oh + 1) / 2, .tiles_w = (s->ow + 1) / 2 } };
    job.tiles = s->n * job.args.tiles_h * job.args.tiles_w;
    if (!job.tiles) {
        if (!accumulate) memset(dw, 0, 9 * s->ci * s->co * sizeof *dw);
        return KD_OK;
    }
    const bool parallel = ctx->threads > 1 && (double)job.tiles * PLANES * (double)s->ci * (double)s->co >= PARALLEL_WORK;
    size_t tasks = 0, down = 1, wanted = 1;
    do {   /* the longer side again and again, to slices of 16 */
        job.c = slice_of(s->ci, down), job.co = slice_of(s->co, wanted);
        job.across = (s->co + job.co - 1) / job.co;
        tasks = (s->ci + job.c - 1) / job.c * job.across;
        if (job.c >= job.co) down *= 2;
        else wanted *= 2;
    } while (parallel && tasks < ctx->threads && (job.c > 16 || job.co > 16));
    if (parallel) kd__parallel(ctx, tasks, slice_task, &job);
    else
        for (size_t i = 0; i < tasks; i++) slice_task(i, &job);
    return atomic_load(&job.status) == KD_OK ? KD_OK : kd__fail(KD_ERR_NOMEM, "out of memory");
}
