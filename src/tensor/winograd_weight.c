/* winograd_weight.c - the gradient of the weights of a convolution that goes through Winograd's F(2x2, 3x3): as in the forward pass 4
 * multiplications where there were 9.  The formulas are in kernels/winograd_args.h.
 *
 * Tiles of all images are numbered through and go in blocks: transform a block's input and its dy, then sixteen products, whose sums
 * are over the block's tiles, are added to sixteen sums of all blocks, in order.  Threads share the products of a round of blocks and,
 * meanwhile, the transforms of the next.  At the end one transform gives the nine taps.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

enum {
    BLOCK = 64,            /* tiles of a chain: part of the bits */
    PLANES = 16,
    GAP = 16,              /* floats: rows and planes must not lie on the same cache sets */
    ROUND_PER_THREAD = 2,  /* blocks */
};
#define PARALLEL_WORK 2e6

typedef struct gradient_job {
    kd_context       *ctx;
    kd__winograd_args x, dy;        /* of the first tile; v where the first slot is */
    size_t            tiles, slots, block_floats;   /* block b in slot b % slots */
    size_t            first, next, end;             /* products of blocks [first, next), transforms of [next, end) */
    size_t            m_plane;
    float            *m;            /* [planes][c][co] */
} gradient_job;

static void transform(const gradient_job *job, size_t block)
{
    kd__winograd_args x = job->x, dy = job->dy;
    x.first = dy.first = block * BLOCK;
    x.count = dy.count = KD_MIN((size_t)BLOCK, job->tiles - x.first);
    x.v += block % job->slots * job->block_floats;
    dy.v += block % job->slots * job->block_floats;
    job->ctx->kernels->winograd_input_f32(&x);
    job->ctx->kernels->winograd_dy_f32(&dy);
}

/* Add blocks [first, next) to plane q. */
static void multiply(const gradient_job *job, size_t q)
{
    kd__gemm_block b = { .m = job->x.c, .n = job->x.co, .outer = 1, .inner = 1, .a_row = 1, .a_k = job->x.row, .b_k = job->dy.row,
                         .c = job->m + q * job->m_plane, .c_row = job->x.co };
    for (size_t i = job->first; i < job->next; i++) {
        b.a = job->x.v + i % job->slots * job->block_floats + q * job->x.plane;
        b.b = job->dy.v + i % job->slots * job->block_floats + q * job->dy.plane;
        b.length = KD_MIN((size_t)BLOCK, job->tiles - i * BLOCK);
        b.add = i > 0;
        job->ctx->kernels->gemm_block_f32(&b);
    }
}

static void round_task(size_t i, void *arg)
{
    const gradient_job *job = arg;
    const size_t planes = job->next > job->first ? PLANES : 0;
    if (i < planes) multiply(job, i);
    else transform(job, job->next + i - planes);
}

kd_status kd__winograd_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                      bool accumulate)
{
    kd__winograd_args a = { .out = 2, .h = s->h, .w = s->w, .c = s->ci, .pad_h = s->pad_h, .pad_w = s->pad_w, .oh = s->oh, .ow = s->ow,
                            .co = s->co, .tiles_h = (s->oh + 1) / 2, .tiles_w = (s->ow + 1) / 2 };
    gradient_job job = { .ctx = ctx, .tiles = s->n * a.tiles_h * a.tiles_w };
    const size_t taps = s->ci * s->co, blocks = (job.tiles + BLOCK - 1) / BLOCK;
    if (!job.tiles) {
        if (!accumulate) memset(dw, 0, 9 * taps * sizeof *dw);
        return KD_OK;
    }
    const bool parallel = ctx->threads > 1 && (double)job.tiles * PLANES * (double)taps >= PARALLEL_WORK;
    const size_t round = parallel ? KD_MIN(blocks, ROUND_PER_THREAD * (size_t)ctx->threads) : 1;
    job.slots = parallel ? 2 * round : 1;
    const size_t x_row = s->ci + GAP, dy_row = s->co + GAP;
    job.m_plane = taps + GAP;
    size_t floats, bytes;
    if (!kd__add(x_row, dy_row, &floats) || !kd__mul(floats, BLOCK, &floats) || !kd__add(floats, 2 * (size_t)GAP, &floats) ||
        !kd__mul(floats, PLANES, &job.block_floats) || !kd__mul(job.block_floats, job.slots, &floats) ||
        !kd__mul(job.m_plane, PLANES, &bytes) || !kd__add(floats, bytes, &floats) || !kd__add(floats, KD_MAX(s->ci, s->co), &floats) ||
        !kd__mul(floats, sizeof *dw, &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "convolution: the gradient of the weights does not fit");
    float *m = kd__scratch_get(ctx, bytes);
    if (!m) return KD_ERR_NOMEM;
    float *v = m + PLANES * job.m_plane, *zeros = v + job.slots * job.block_floats;
    memset(zeros, 0, KD_MAX(s->ci, s->co) * sizeof *zeros);
    a.zeros = zeros;
    job.m = m;
    job.x = job.dy = a;
    job.x.x = x;
    job.x.v = v;
    job.x.row = x_row;
    job.x.plane = BLOCK * x_row + GAP;
    job.dy.x = dy;
    job.dy.v = v + PLANES * job.x.plane;
    job.dy.row = dy_row;
    job.dy.plane = BLOCK * dy_row + GAP;
    if (parallel) {
        for (size_t ready = 0; job.first < blocks; job.first = job.next, ready = PLANES) {
            job.next = job.end;
            job.end = KD_MIN(job.end + round, blocks);
            kd__parallel(ctx, ready + job.end - job.next, round_task, &job);
        }
    } else {
        for (; job.first < blocks; job.first = job.next) {
            transform(&job, job.first);
            job.next = job.first + 1;
            for (size_t q = 0; q < PLANES; q++) multiply(&job, q);
        }
    }
    ctx->kernels->winograd_dw_f32(m, job.m_plane, dw, taps, taps, accumulate);
    kd__scratch_put(ctx, m);
    return KD_OK;
}
