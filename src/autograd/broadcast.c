/* broadcast.c - two operands under NumPy's broadcasting, forward and backward.
 *
 * The kernels take the last two axes of the collapsed plan, [rows, n] with either operand repeating along either;
 * further axes are walked here.  So [rows, n] + [n], [n, h, w, c] * [c], a scalar and equal shapes are one call.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"

#define CHUNK_ROWS 1024u      /* of a sum down columns, and columns taken together */
#define CHUNK_COLUMNS 4096u

bool kd__broadcast_plan(kd__broadcast *plan, const kd_tensor *a, const kd_tensor *b, size_t *out_rank, size_t *out_shape)
{
    size_t rank = KD_MAX(a->rank, b->rank), used = 0, count = 1, size[2] = { 1, 1 };
    const kd_tensor *operand[2] = { a, b };
    size_t shape[KD_MAX_RANK], step[2][KD_MAX_RANK];   /* innermost first */
    for (size_t i = 0; i < rank; i++) {
        size_t n[2], s[2];
        for (int k = 0; k < 2; k++) n[k] = i < operand[k]->rank ? operand[k]->shape[operand[k]->rank - 1 - i] : 1;
        if (n[0] != n[1] && n[0] != 1 && n[1] != 1) return false;
        size_t m = n[0] == 1 ? n[1] : n[0];
        out_shape[rank - 1 - i] = m;
        count *= m;   /* cannot wrap unless the result does, which kd__op_output refuses */
        for (int k = 0; k < 2; k++) {
            s[k] = n[k] == 1 ? 0 : size[k];
            size[k] *= n[k];
        }
        if (m == 1) continue;
        if (used && s[0] == step[0][used - 1] * shape[used - 1] && s[1] == step[1][used - 1] * shape[used - 1]) {
            shape[used - 1] *= m;
            continue;
        }
        shape[used] = m;
        step[0][used] = s[0];
        step[1][used++] = s[1];
    }
    if (used == 0) {
        shape[0] = step[0][0] = step[1][0] = 1;
        used = 1;
    }
    *out_rank = rank;
    *plan = (kd__broadcast){ .rank = used, .count = count };
    for (size_t i = 0; i < used; i++) {
        plan->shape[i] = shape[used - 1 - i];
        for (int k = 0; k < 2; k++) plan->step[k][i] = step[k][used - 1 - i];
    }
    return true;
}

typedef struct binary_job {
    kd_context *ctx;
    const kd__broadcast *plan;
    uint32_t op;
    int which;
    const float *a, *b, *dy;         /* dy NULL: forward */
    float *out;                      /* the result, or the gradient */
    const size_t *out_step;          /* the gradient's steps */
    bool accumulate;
    size_t rows, n;                  /* the last two axes; rows 1 when there is one */
    size_t row_chunks, column_chunks;
    float *parts;                    /* sums of chunks; NULL: straight to the gradient */
} binary_job;

static binary_job make_job(kd_context *ctx, const kd__broadcast *plan, uint32_t op, const float *a, const float *b)
{
    binary_job job = { .ctx = ctx, .plan = plan, .op = op, .a = a, .b = b, .n = plan->shape[plan->rank - 1] };
    job.rows = plan->rank > 1 ? plan->shape[plan->rank - 2] : 1;
    return job;
}

static size_t column_step(const binary_job *job, const size_t *step) { return step[job->plan->rank - 1]; }
static size_t row_step(const binary_job *job, const size_t *step)
{
    return job->plan->rank > 1 ? step[job->plan->rank - 2] : step[0] * job->n;
}

/* Where a tensor with these steps has row r, column i of the matrix `outer`. */
static size_t offset(const binary_job *job, const size_t *step, size_t outer, size_t r, size_t i)
{
    size_t at = r * row_step(job, step) + i * column_step(job, step);
    for (size_t k = job->plan->rank; k-- > 2;) {
        at += outer % job->plan->shape[k - 2] * step[k - 2];
        outer /= job->plan->shape[k - 2];
    }
    return at;
}

static kd__operand operand(const binary_job *job, const float *data, const size_t *step, size_t outer, size_t r, size_t i)
{
    return (kd__operand){ data + offset(job, step, outer, r, i), row_step(job, step), column_step(job, step) };
}

/* Rows r .. r + rows - 1, columns i .. i + n - 1 of one matrix.  The gradient goes to `grad`, or its own place. */
static void run_block(const binary_job *job, size_t outer, size_t r, size_t rows, size_t i, size_t n, float *grad)
{
    const kd__kernels *kernels = job->ctx->kernels;
    kd__operand a = operand(job, job->a, job->plan->step[0], outer, r, i);
    kd__operand b = operand(job, job->b, job->plan->step[1], outer, r, i);
    size_t at = (outer * job->rows + r) * job->n + i;
    if (!job->dy) {
        kernels->binary_f32(job->op, job->out + at, job->n, a, b, rows, n);
        return;
    }
    kd__target to = { grad ? grad : job->out + offset(job, job->out_step, outer, r, i), row_step(job, job->out_step),
                      column_step(job, job->out_step) };
    kernels->binary_backward_f32(job->op, job->which, to, job->dy + at, job->n, a, b, rows, n, !grad && job->accumulate);
}

static void rows_task(size_t begin, size_t end, void *arg)
{
    const binary_job *job = arg;
    while (begin < end) {
        size_t r = begin % job->rows, take = KD_MIN(job->rows - r, end - begin);
        run_block(job, begin / job->rows, r, take, 0, job->n, NULL);
        begin += take;
    }
}

static void elements_task(size_t begin, size_t end, void *arg) { run_block(arg, 0, 0, 1, begin, end - begin, NULL); }

/* Every element for itself, or every row: any split will do. */
static void run_apart(binary_job *job)
{
    if (job->plan->rank == 1) kd__parallel_range(job->ctx, job->n, KD__GRAIN, elements_task, job);
    else kd__parallel_range(job->ctx, job->plan->count / job->n, kd__row_grain(job->n), rows_task, job);
}

void kd__binary(kd_context *ctx, const kd__broadcast *plan, uint32_t op, const float *a, const float *b, float *out)
{
    if (plan->count == 0) return;
    binary_job job = make_job(ctx, plan, op, a, b);
    job.out = out;
    run_apart(&job);
}

/* Chunks [begin, end): the sum of one chunk's rows and columns. */
static void parts_task(size_t begin, size_t end, void *arg)
{
    const binary_job *job = arg;
    for (size_t task = begin; task < end; task++) {
        size_t rest = task / job->column_chunks, i = task % job->column_chunks * CHUNK_COLUMNS;
        size_t r = rest % job->row_chunks * CHUNK_ROWS;
        float *to = NULL;
        if (job->parts) to = job->parts + (column_step(job, job->out_step) ? rest * job->n + i : task);
        run_block(job, rest / job->row_chunks, r, KD_MIN(CHUNK_ROWS, job->rows - r), i, KD_MIN(CHUNK_COLUMNS, job->n - i), to);
    }
}

/* The operand repeats down the columns of each matrix, or all over it: the sums of chunks, then theirs. */
static kd_status sum_parts(binary_job *job)
{
    size_t columns = column_step(job, job->out_step) ? job->n : 1, outer = job->plan->count / job->rows / job->n;
    job->row_chunks = job->rows / CHUNK_ROWS + (job->rows % CHUNK_ROWS != 0);
    job->column_chunks = job->n / CHUNK_COLUMNS + (job->n % CHUNK_COLUMNS != 0);
    size_t sums = columns > 1 ? job->row_chunks : job->row_chunks * job->column_chunks;   /* per element */
    if (sums > 1 && !(job->parts = kd__scratch_get(job->ctx, outer * sums * columns * sizeof(float))))
        return kd__fail(KD_ERR_NOMEM, "out of memory");
    size_t chunk = KD_MIN(job->rows, CHUNK_ROWS) * KD_MIN(job->n, CHUNK_COLUMNS);
    kd__parallel_range(job->ctx, outer * job->row_chunks * job->column_chunks, kd__row_grain(chunk), parts_task, job);
    for (size_t o = 0; o < outer && sums > 1; o++)
        kd__join_parts(job->ctx, job->parts + o * sums * columns, sums, columns, columns, 1.0,
                       job->out + offset(job, job->out_step, o, 0, 0), job->accumulate);
    kd__scratch_put(job->ctx, job->parts);
    return KD_OK;
}

/* Anything else: the products in full, then their sum over the axes that repeat. */
static kd_status sum_in_full(binary_job *job)
{
    const kd__broadcast *plan = job->plan;
    binary_job full = *job;
    size_t step[KD_MAX_RANK], size = 1;
    uint32_t axes = 0;
    for (size_t i = plan->rank; i-- > 0; size *= plan->shape[i]) {
        if (job->out_step[i] == 0) axes |= 1u << i;
        step[i] = size;
    }
    full.out_step = step;
    full.accumulate = false;
    full.out = kd__scratch_get(job->ctx, plan->count * sizeof *full.out);
    if (!full.out) return kd__fail(KD_ERR_NOMEM, "out of memory");
    run_apart(&full);
    kd_status status = kd__reduce_sum(job->ctx, plan->rank, plan->shape, axes, full.out, 1.0, job->out, job->accumulate);
    kd__scratch_put(job->ctx, full.out);
    return status;
}

kd_status kd__binary_backward(kd_context *ctx, const kd__broadcast *plan, uint32_t op, int which, const float *dy, const float *a,
                              const float *b, float *grad, bool accumulate)
{
    binary_job job = make_job(ctx, plan, op, a, b);
    job.which = which;
    job.dy = dy;
    job.out = grad;
    job.out_step = plan->step[which];
    job.accumulate = accumulate;
    for (size_t i = 0; i + 2 < plan->rank; i++)
        if (job.out_step[i] == 0) return sum_in_full(&job);
    if (row_step(&job, job.out_step) == 0) return sum_parts(&job);
    run_apart(&job);
    return KD_OK;
}
