/* reduce.c - sums over any set of axes.
 *
 * Axes of size 1 are dropped and neighbours of one kind merged, which leaves kept and summed groups in turn.  A summed
 * group at the end is a sum along rows; then, from the right, each summed group is a sum down the columns of
 * [batch, rows, columns].  So [rows, n] over either axis, everything, and [n, h, w, c] over h and w are one pass.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"

#define ROW_PIECE 65536u      /* of a row, summed in double */
#define CHUNK_ROWS 1024u      /* of a column, and columns taken together */
#define CHUNK_COLUMNS 4096u

typedef struct sum_job {
    kd_context *ctx;
    const float *x;
    size_t batch, rows, n;
    size_t row_chunks, column_chunks;
    double scale;
    float *out, *parts;
    double *sums;
    bool accumulate;
} sum_job;

typedef struct join_job {
    const float *parts;
    size_t count, stride;
    double scale;
    float *out;
    bool accumulate;
} join_job;

static void join_task(size_t begin, size_t end, void *arg)
{
    const join_job *job = arg;
    double sum[64];
    for (size_t j = begin; j < end; j += 64) {
        size_t n = KD_MIN(end - j, 64u);
        for (size_t i = 0; i < n; i++) sum[i] = 0.0;
        for (size_t k = 0; k < job->count; k++)
            for (size_t i = 0; i < n; i++) sum[i] += (double)job->parts[k * job->stride + j + i];
        for (size_t i = 0; i < n; i++) {
            float value = (float)(sum[i] * job->scale);
            job->out[j + i] = job->accumulate ? job->out[j + i] + value : value;
        }
    }
}

void kd__join_parts(kd_context *ctx, const float *parts, size_t count, size_t stride, size_t n, double scale, float *out,
                    bool accumulate)
{
    join_job job = { parts, count, stride, scale, out, accumulate };
    kd__parallel_range(ctx, n, KD_MAX(KD__GRAIN / KD_MAX(count, 1u) & ~(size_t)63, 64u), join_task, &job);
}

/* ---- along rows ---------------------------------------------------------------------------------------- */

static void row_task(size_t begin, size_t end, void *arg)
{
    const sum_job *job = arg;
    job->ctx->kernels->row_sums_f32(job->out + begin, job->x + begin * job->n, end - begin, job->n, job->n, (float)job->scale,
                                    job->accumulate);
}

static void piece_task(size_t task, void *arg)
{
    const sum_job *job = arg;
    size_t at = task % job->row_chunks * ROW_PIECE;
    job->ctx->kernels->sum_f32(&job->sums[task], job->x + task / job->row_chunks * job->n + at, KD_MIN(ROW_PIECE, job->n - at));
}

static kd_status sum_rows(sum_job *job)
{
    job->row_chunks = job->n / ROW_PIECE + (job->n % ROW_PIECE != 0);
    if (job->row_chunks == 1) {
        kd__parallel_range(job->ctx, job->rows, kd__row_grain(job->n), row_task, job);
        return KD_OK;
    }
    size_t tasks = job->rows * job->row_chunks;
    job->sums = kd__scratch_get(job->ctx, tasks * sizeof *job->sums);
    if (!job->sums) return kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__parallel(job->ctx, tasks, piece_task, job);
    for (size_t r = 0; r < job->rows; r++) {
        double sum = 0.0;
        for (size_t k = 0; k < job->row_chunks; k++) sum += job->sums[r * job->row_chunks + k];
        float value = (float)(sum * job->scale);
        job->out[r] = job->accumulate ? job->out[r] + value : value;
    }
    kd__scratch_put(job->ctx, job->sums);
    return KD_OK;
}

/* ---- down columns --------------------------------------------------------------------------------------- */

static void column_task(size_t begin, size_t end, void *arg)
{
    const sum_job *job = arg;
    for (size_t task = begin; task < end; task++) {
        size_t rest = task / job->column_chunks, i = task % job->column_chunks * CHUNK_COLUMNS;
        size_t r = rest % job->row_chunks * CHUNK_ROWS, from = (rest / job->row_chunks * job->rows + r) * job->n + i;
        job->ctx->kernels->column_sums_f32((job->parts ? job->parts : job->out) + rest * job->n + i, job->x + from,
                                           KD_MIN(CHUNK_ROWS, job->rows - r), KD_MIN(CHUNK_COLUMNS, job->n - i), job->n,
                                           !job->parts && job->accumulate);
    }
}

static kd_status sum_columns(sum_job *job)
{
    job->row_chunks = job->rows / CHUNK_ROWS + (job->rows % CHUNK_ROWS != 0);
    job->column_chunks = job->n / CHUNK_COLUMNS + (job->n % CHUNK_COLUMNS != 0);
    size_t each = job->row_chunks * job->n, chunk = KD_MIN(job->rows, CHUNK_ROWS) * KD_MIN(job->n, CHUNK_COLUMNS);
    bool direct = job->row_chunks == 1 && job->scale == 1.0;
    if (!direct && !(job->parts = kd__scratch_get(job->ctx, job->batch * each * sizeof(float))))
        return kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__parallel_range(job->ctx, job->batch * job->row_chunks * job->column_chunks, kd__row_grain(chunk), column_task, job);
    if (direct) return KD_OK;
    if (job->row_chunks == 1) {
        kd__join_parts(job->ctx, job->parts, 1, each, job->batch * job->n, job->scale, job->out, job->accumulate);
    } else {
        for (size_t b = 0; b < job->batch; b++)
            kd__join_parts(job->ctx, job->parts + b * each, job->row_chunks, job->n, job->n, job->scale, job->out + b * job->n,
                           job->accumulate);
    }
    kd__scratch_put(job->ctx, job->parts);
    return KD_OK;
}

/* ---- any axes ------------------------------------------------------------------------------------------- */

static size_t product(const size_t *size, size_t count)
{
    size_t n = 1;
    for (size_t i = 0; i < count; i++) n *= size[i];
    return n;
}

kd_status kd__reduce_sum(kd_context *ctx, size_t rank, const size_t *shape, uint32_t axes, const float *x, double scale,
                         float *out, bool accumulate)
{
    size_t size[KD_MAX_RANK], groups = 0, count = 1, kept = 1;
    bool summed[KD_MAX_RANK];
    for (size_t i = 0; i < rank; i++) {
        bool sum = axes >> i & 1u;
        count *= shape[i];
        if (!sum) kept *= shape[i];
        if (shape[i] == 1) continue;
        if (groups && summed[groups - 1] == sum) size[groups - 1] *= shape[i];
        else {
            size[groups] = shape[i];
            summed[groups++] = sum;
        }
    }
    if (count == 0) {
        if (!accumulate && kept) memset(out, 0, kept * sizeof *out);
        return KD_OK;
    }
    size_t sums = 0;
    for (size_t i = 0; i < groups; i++) sums += summed[i];
    if (sums == 0) {
        kd__join_parts(ctx, x, 1, count, count, scale, out, accumulate);
        return KD_OK;
    }
    float *between = NULL;   /* what the last pass left */
    kd_status status = KD_OK;
    while (sums-- > 0 && status == KD_OK) {
        size_t g = groups;
        while (!summed[g - 1]) g--;   /* the last summed group is g - 1 */
        sum_job job = { .ctx = ctx, .x = x, .batch = product(size, g - 1), .rows = size[g - 1],
                        .n = product(size + g, groups - g), .scale = 1.0 };
        float *to = NULL;
        if (sums == 0) {
            job.out = out;
            job.scale = scale;
            job.accumulate = accumulate;
        } else {
            job.out = to = kd__scratch_get(ctx, job.batch * job.n * sizeof *to);
            if (!to) status = kd__fail(KD_ERR_NOMEM, "out of memory");
        }
        if (status == KD_OK && g == groups) {
            job.n = job.rows;
            job.rows = job.batch;
            status = sum_rows(&job);
        } else if (status == KD_OK) {
            status = sum_columns(&job);
        }
        kd__scratch_put(ctx, between);
        x = between = to;
        groups--;   /* the summed group is gone and its neighbours are one */
        if (g - 1 < groups) {
            if (g >= 2) {
                size[g - 2] *= size[g];
                groups--;
            } else {
                size[0] = size[1];
                summed[0] = false;
            }
        }
    }
    kd__scratch_put(ctx, between);
    return status;
}
