/* gemm.c - matrix products: what to pack, how to block, where to cut for threads.
 *
 * The kernel (kern_gemm.c) multiplies blocks that lie in the caches; here the product is cut into such blocks.
 * Only the cut along k shows in the bits: KD__GEMM_K.  Everything else here is a question of speed:
 *   - A is read in place.  B is read in place too while few rows of A would pay for packing it, unless its rows
 *     fall on the same cache sets.  A large B is packed in parts of 256 deep that fill half of the level-2 cache, and each
 *     stays there for all rows of the task; a small one, and one of a few rows, is packed whole.
 *     A is copied, a block at a time, if its rows fall on the same sets, or it lies by columns and C is wide.
 *   - Rows of C go in blocks of 168, a multiple of every tile's height.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"

enum {
    BLOCK_ROWS = 168,              /* of A and C at a time, or fewer */
    PACK_ROWS = 512,               /* from so many rows of A on, a large B is packed */
    CHUNK = 1024 * 1024,           /* elements of B worked on at a time, or fewer */
    FEW_ROWS = 4 * 14,             /* in so few, B comes from memory and hardly again from the cache */
    SAME_SETS = 1024,              /* rows of this many floats apart share their sets of the level-1 cache */
    WIDE = 512,                    /* so many columns of C pay for copying A by columns together */
    SPREAD_ROWS = BLOCK_ROWS + 8,  /* and rows of these lengths do not */
    SPREAD_K = KD__GEMM_K + 16,
    SMALL_PACK = 2048,             /* floats that are packed on the stack */
};
#define SERIAL_WORK 6e6            /* multiply-adds that are not worth waking a thread for: some 40 us */
#define TASK_WORK   4e5            /* and the least one task should have */

typedef struct gemm_job {
    kd_context          *ctx;
    const kd__gemm_args *args;
    size_t       j0, j1;           /* the columns worked on */
    float       *own;              /* where their panels go, if they are packed here */
    const float *packed;           /* the panels; NULL: B in place */
    size_t       panel;            /* floats from panel to panel */
    size_t       task_rows, task_columns, tasks_across;
    bool         stays;            /* each task packs what it needs of B, KD__GEMM_K deep */
} gemm_job;

/* Rows whose part of A, 256 deep, takes a third of the level-2 cache. */
static size_t block_rows(const kd_context *ctx)
{
    return KD_MAX(KD_MIN(ctx->caches.l2 / 3 / (KD__GEMM_K * sizeof(float)), (size_t)BLOCK_ROWS) / 14, 2u) * 14;
}

/* Elements that fill half of the level-2 cache; of B at a time, a quarter of the third. */
static size_t half_l2(const kd_context *ctx) { return ctx->caches.l2 / 2 / sizeof(float); }
static size_t chunk_floats(const kd_context *ctx)
{
    return KD_MIN(KD_MAX(ctx->caches.l3 / 4 / sizeof(float), half_l2(ctx)), (size_t)CHUNK);
}

/* Columns of B that a task packs. */
static size_t pack_columns(const kd_context *ctx, size_t k)
{
    return KD_MAX(half_l2(ctx) / KD_MAX(k, 1u) / KD__GEMM_PANEL, 1u) * KD__GEMM_PANEL;
}

/* Columns of B, 256 deep, that fill half of the level-2 cache. */
static size_t part_columns(const kd_context *ctx)
{
    return KD_MAX(half_l2(ctx) / KD__GEMM_K / KD__GEMM_PANEL, 1u) * KD__GEMM_PANEL;
}

static size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Floats of `n` columns of B, packed. */
static bool packed_size(size_t k, size_t n, size_t *floats)
{
    return kd__round_up(n, KD__GEMM_PANEL, floats) && kd__mul(*floats, k, floats);
}

static bool b_large(const kd_context *ctx, const kd__gemm_args *g) { return g->k > half_l2(ctx) / g->n; }

static bool must_pack(const kd_context *ctx, const kd__gemm_args *g)
{
    if (g->b_transposed) return true;
    if (g->n % 16 && g->m >= 12 && ctx->isa != KD_ISA_AVX512) return true;   /* loads of part of a vector are slow */
    bool same_sets = g->b_stride % SAME_SETS == 0 && g->k >= 32;
    return g->m >= 3 * 14 && (same_sets || (g->m > PACK_ROWS && b_large(ctx, g)));
}

/* `length` of k and `n` columns to `to`. */
static void pack(const gemm_job *job, size_t k, size_t length, size_t j, size_t n, float *to)
{
    const kd__gemm_args *g = job->args;
    const float *from = g->b + (g->b_transposed ? j * g->b_stride + k : k * g->b_stride + j);
    job->ctx->kernels->pack_panels_f32(from, g->b_stride, g->b_transposed, length, n, to, length * KD__GEMM_PANEL);
}

static void pack_range(size_t begin, size_t end, void *arg)
{
    const gemm_job *job = arg;
    pack(job, 0, job->args->k, job->j0 + begin, end - begin, job->own + begin / KD__GEMM_PANEL * job->panel);
}

/* Rows [i0, i1) and columns [j0, j1) of C; j0 is job->j0 or a multiple of the panel width after it.  own: where to pack a part of B
 * before it is used; NULL: it is packed, or read in place. */
static void multiply(const gemm_job *job, size_t i0, size_t i1, size_t j0, size_t j1, float *own)
{
    const kd__gemm_args *g = job->args;
    const size_t half = half_l2(job->ctx);
    kd__gemm_block block = { .outer = 1, .inner = 1, .c_row = g->c_stride,
                             .a_row = g->a_transposed ? 1 : g->a_stride, .a_k = g->a_transposed ? g->a_stride : 1 };
    /* A part of B that the level-2 cache holds stays there for all rows, or all of B passes a block of them. */
    const bool stays = own || (j1 - j0 > half / KD_MAX(g->k, 1u) && job->packed);
    const size_t columns = stays ? part_columns(job->ctx) : j1 - j0;
    const size_t most = block_rows(job->ctx), blocks = (i1 - i0 + most - 1) / most;
    const size_t rows = KD_MIN(round_up((i1 - i0 + blocks - 1) / blocks, 14), most), tall = stays ? i1 - i0 : rows;
    if (j1 - j0 <= 2 * KD__GEMM_PANEL) {
        if (g->k > 2 * half / g->m) block.prefetch |= KD__GEMM_FETCH_A;
    } else {
        if (g->m > half / 2 / g->n) block.prefetch |= KD__GEMM_FETCH_C;   /* not in the level-2 cache */
        if (g->k / 2 > half / g->n && !own) block.prefetch |= KD__GEMM_FETCH_B;
    }
    float *spread = NULL;
    if ((g->a_stride % SAME_SETS == 0 || (g->a_transposed && j1 - j0 >= WIDE)) && j1 - j0 > 2 * KD__GEMM_PANEL && g->k > 16) {
        spread = kd__scratch_get(job->ctx, (size_t)SPREAD_ROWS * SPREAD_K * sizeof *spread);   /* none: A in place will do */
        if (spread && g->a_transposed) block.a_k = SPREAD_ROWS;
        else if (spread) block.a_row = SPREAD_K;
    }
    for (size_t top = i0; top < i1; top += tall)
        for (size_t j = j0; j < j1; j += columns) {
            block.n = KD_MIN(j1 - j, columns);
            size_t k = 0;
            do {
                block.length = g->k - k < KD__GEMM_K ? g->k - k : KD__GEMM_K;
                block.add = k || g->accumulate;
                block.b_k = KD__GEMM_PANEL;
                if (own) {
                    pack(job, k, block.length, j, block.n, own);
                    block.b = own;
                    block.b_panel = block.length * KD__GEMM_PANEL;
                } else if (job->packed) {
                    block.b = job->packed + (j - job->j0) / KD__GEMM_PANEL * job->panel + k * KD__GEMM_PANEL;
                    block.b_panel = job->panel;
                } else {
                    block.b = g->b + k * g->b_stride + j;
                    block.b_k = g->b_stride;
                }
                for (size_t i = top; i < KD_MIN(top + tall, i1); i += rows) {
                    block.m = KD_MIN(i1 - i, rows);
                    block.c = g->c + i * g->c_stride + j;
                    block.a = g->a + (g->a_transposed ? i + k * g->a_stride : i * g->a_stride + k);
                    if (spread) {
                        const bool turned = g->a_transposed;
                        job->ctx->kernels->copy2d_f32(spread, turned ? SPREAD_ROWS : SPREAD_K, 1, block.a, (ptrdiff_t)g->a_stride, 1,
                                                      turned ? block.length : block.m, turned ? block.m : block.length, 0);
                        block.a = spread;
                    }
                    block.after = k + block.length == g->k ? kd__epilogue_at(&g->after, i, j) : (kd__epilogue){ 0 };
                    job->ctx->kernels->gemm_block_f32(&block);
                }
                k += block.length;
            } while (k < g->k);
        }
    kd__scratch_put(job->ctx, spread);
}

static void multiply_task(size_t task, void *arg)
{
    const gemm_job *job = arg;
    size_t row = task / job->tasks_across, column = task % job->tasks_across;
    size_t i = row * job->task_rows, j = job->j0 + column * job->task_columns;
    float *own = job->stays ? job->own + task * KD_MIN(job->task_columns, part_columns(job->ctx)) * KD__GEMM_K : NULL;
    multiply(job, i, KD_MIN(i + job->task_rows, job->args->m), j, KD_MIN(j + job->task_columns, job->j1), own);
}

/* Halve the longer side of a task until every thread has some, or tasks would be too small. */
static size_t cut(gemm_job *job, size_t threads)
{
    const size_t m = job->args->m, n = job->j1 - job->j0;
    size_t rows = KD_MIN(round_up(m, 14), block_rows(job->ctx)), columns = round_up(n, KD__GEMM_PANEL), tasks;
    if (job->stays) {   /* every task packs for itself: few of them, of all rows if there are columns enough */
        const size_t part = part_columns(job->ctx), across = round_up((n + part - 1) / part, threads);
        rows = m;
        columns = round_up((n + across - 1) / across, KD__GEMM_PANEL);
        if (threads > 1 && columns < KD_MIN(part, 256u)) {
            rows = round_up((m + threads - 1) / threads, 14);
            columns = round_up(n, KD__GEMM_PANEL);
        }
    }
    for (;;) {
        job->tasks_across = (n + columns - 1) / columns;
        tasks = (m + rows - 1) / rows * job->tasks_across;
        if (job->stays || tasks >= 3 * threads || (double)rows * (double)columns * (double)job->args->k < 2 * TASK_WORK) break;
        if (columns >= rows && columns > KD__GEMM_PANEL) columns = round_up(columns / 2, KD__GEMM_PANEL);
        else if (rows > 14) rows = round_up(rows / 2, 14);
        else break;
    }
    job->task_rows = rows;
    job->task_columns = columns;
    return tasks;
}

static kd_status gemm(kd_context *ctx, const kd__gemm_args *g)
{
#ifdef KD_BLIS
    if (kd__gemm_blis(ctx, g)) return KD_OK;
#endif
    gemm_job job = { .ctx = ctx, .args = g };
    float small[SMALL_PACK];
    float *scratch = NULL;
    const bool parallel = ctx->threads > 1 && (double)g->m * (double)g->n * (double)g->k >= SERIAL_WORK;
    size_t chunk = KD_MAX(chunk_floats(ctx) / KD_MAX(g->k, 1u) / KD__GEMM_PANEL, 1u) * KD__GEMM_PANEL;
    if (chunk > g->n) chunk = g->n;
    if (g->b_packed) {
        job.panel = g->k * KD__GEMM_PANEL;
    } else if (must_pack(ctx, g)) {
        size_t floats, bytes;
        job.stays = g->k > KD__GEMM_K && b_large(ctx, g) && g->m > block_rows(ctx);
        size_t tasks = 1, depth = g->k;
        if (job.stays) {
            job.j1 = chunk = g->n;
            tasks = cut(&job, parallel ? ctx->threads : 1);
            depth = KD__GEMM_K;
            chunk = KD_MIN(job.task_columns, part_columns(ctx)) * tasks;
        }
        if (!packed_size(depth, chunk, &floats) || !kd__mul(floats, sizeof(float), &bytes))
            return kd__fail(KD_ERR_OVERFLOW, "gemm: packing %zu x %zu", g->k, chunk);
        job.own = small;
        if (floats > SMALL_PACK) {
            scratch = kd__scratch_get(ctx, bytes);
            if (!scratch) return KD_ERR_NOMEM;
            job.own = scratch;
        }
        job.panel = g->k * KD__GEMM_PANEL;
    }
    if (job.stays) chunk = g->n;
    else job.packed = job.own;
    for (job.j0 = 0; job.j0 < g->n; job.j0 = job.j1) {
        job.j1 = g->n - job.j0 < chunk ? g->n : job.j0 + chunk;
        if (g->b_packed) job.packed = g->b_packed + job.j0 / KD__GEMM_PANEL * job.panel;
        else if (job.packed && parallel) kd__parallel_range(ctx, job.j1 - job.j0, pack_columns(ctx, g->k), pack_range, &job);
        else if (job.packed) pack_range(0, job.j1 - job.j0, &job);
        if (parallel) kd__parallel(ctx, cut(&job, ctx->threads), multiply_task, &job);
        else multiply(&job, 0, g->m, job.j0, job.j1, job.stays ? job.own : NULL);
    }
    kd__scratch_put(ctx, scratch);
    return KD_OK;
}

bool kd__gemm_packed_floats(const kd__gemm_args *args, size_t *floats) { return packed_size(args->k, args->n, floats); }

void kd__gemm_pack(kd_context *ctx, const kd__gemm_args *args, float *out)
{
    gemm_job job = { .ctx = kd__context(ctx), .args = args, .own = out, .panel = args->k * KD__GEMM_PANEL };
    kd__parallel_range(job.ctx, args->n, pack_columns(job.ctx, args->k), pack_range, &job);
}

kd_status kd__gemm(kd_context *ctx, const kd__gemm_args *args)
{
    if (!args->m || !args->n) return KD_OK;
    return gemm(kd__context(ctx), args);
}

/* ---- many products ------------------------------------------------------------------------------------- */

typedef struct batch_job {
    kd_context *ctx;
    const kd__gemm_args *args;
    size_t a_step, b_step, c_step;
    _Atomic int status;
} batch_job;

static kd_status one_of(batch_job *job, size_t i, bool accumulate)
{
    kd__gemm_args g = *job->args;
    g.a += i * job->a_step;
    g.b += i * job->b_step;
    g.c += i * job->c_step;
    g.accumulate |= accumulate;
    return gemm(job->ctx, &g);
}

static void batch_range(size_t begin, size_t end, void *arg)
{
    batch_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        kd_status status = one_of(job, i, false);
        if (status != KD_OK) atomic_store_explicit(&job->status, (int)status, memory_order_relaxed);
    }
}

kd_status kd__gemm_batch(kd_context *ctx, const kd__gemm_args *args, size_t batch, size_t a_step, size_t b_step, size_t c_step)
{
    batch_job job = { .ctx = kd__context(ctx), .args = args, .a_step = a_step, .b_step = b_step, .c_step = c_step };
    kd__gemm_args whole = *args;
    if (!args->m || !args->n) return KD_OK;
    if (c_step == 0) {   /* a sum of products, in order */
        if (batch == 0) {
            whole.k = 0;
            return gemm(job.ctx, &whole);
        }
        for (size_t i = 0; i < batch; i++) KD_TRY(one_of(&job, i, i > 0));
        return KD_OK;
    }
    if (b_step == 0 && !args->a_transposed && a_step == args->m * args->a_stride && c_step == args->m * args->c_stride) {
        whole.m *= batch;   /* one tall product */
        return whole.m ? gemm(job.ctx, &whole) : KD_OK;
    }
    double each = (double)args->m * (double)args->n * (double)args->k;
    if (each * (double)batch < SERIAL_WORK || (batch < job.ctx->threads && each >= SERIAL_WORK)) {
        for (size_t i = 0; i < batch; i++) KD_TRY(one_of(&job, i, false));
        return KD_OK;
    }
    size_t grain = each < TASK_WORK ? (size_t)(TASK_WORK / KD_MAX(each, 1.0)) + 1 : 1;
    kd__parallel_range(job.ctx, batch, grain, batch_range, &job);
    kd_status status = (kd_status)atomic_load(&job.status);
    return status == KD_OK ? KD_OK : kd__fail(status, "out of memory");
}
