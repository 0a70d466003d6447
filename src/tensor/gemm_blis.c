/* gemm_blis.c - `make BLIS=1`: large matrix products by BLIS.  Their bits are BLIS's own.
 *
 * BLIS is called for a band of rows from each of libkd's threads; leave it at one thread of its own, its default.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"
#ifdef KD_BLIS
#if defined __has_include
#if __has_include(<blis/cblas.h>)
#include <blis/cblas.h>
#else
#include <cblas.h>
#endif
#else
#include <blis/cblas.h>
#endif

#define LARGE 4e6   /* multiply-adds from which BLIS pays */

typedef struct blis_job {
    kd_context *ctx;
    const kd__gemm_args *args;
} blis_job;

static void band(size_t begin, size_t end, void *arg)
{
    const blis_job *job = arg;
    const kd__gemm_args *g = job->args;
    float *c = g->c + begin * g->c_stride;
    cblas_sgemm(CblasRowMajor, g->a_transposed ? CblasTrans : CblasNoTrans, g->b_transposed ? CblasTrans : CblasNoTrans,
                (f77_int)(end - begin), (f77_int)g->n, (f77_int)g->k, 1.0f, g->a + begin * (g->a_transposed ? 1 : g->a_stride),
                (f77_int)g->a_stride, g->b, (f77_int)g->b_stride, g->accumulate ? 1.0f : 0.0f, c, (f77_int)g->c_stride);
    const kd__epilogue after = kd__epilogue_at(&g->after, begin, 0);
    if (kd__epilogue_any(&after)) job->ctx->kernels->epilogue_f32(&after, c, g->c_stride, end - begin, g->n);
}

bool kd__gemm_blis(kd_context *ctx, const kd__gemm_args *g)
{
    const size_t most = INT32_MAX;
    if ((double)g->m * (double)g->n * (double)g->k < LARGE || g->m > most || g->n > most || g->k > most || g->a_stride > most ||
        g->b_stride > most || g->c_stride > most)
        return false;
    blis_job job = { ctx, g };
    size_t rows = (g->m + ctx->threads - 1) / ctx->threads;
    kd__parallel_range(ctx, g->m, KD_MAX((rows + 15) / 16 * 16, 16u), band, &job);
    return true;
}
#endif
