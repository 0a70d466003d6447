/* op_linear.c - y = x weight + bias, perhaps of gelu(x), perhaps with a ReLU behind it.
 *
 * Of many rows, backward goes through blocks of KD__GEMM_K, the steps of a product along k: what a block reads and makes is still in
 * the level-2 cache where it is read again, and gelu(x) is never stored, neither forward nor backward.  The bits are those of the
 * products of the whole.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"
#include "autograd/eltwise.h"

enum { MANY_ROWS = 512, TASK_ROWS = 64, SUM_ROWS = 1024 };   /* SUM_ROWS: those of kd__reduce_sum */

typedef struct linear_saved { bool relu, gelu; } linear_saved;

typedef struct linear_job {
    kd_context  *ctx;
    size_t       rows, in, out;       /* rows: of the block, backward */
    const float *x, *dy;
    const kd__gemm_args *inner;       /* what gives x, or NULL; then x is what it is made of */
    kd__gemm_args product;            /* of the rows of a task; forward y, backward dx or, with gelu, what is before it */
    float       *dx, *dw, *db;        /* NULL: not wanted */
    float       *panels;              /* the block's gelu(x) or x, by columns */
    bool         gelu, add_dx, add_dw, add_db;
    _Atomic int  status;
} linear_job;

static float *job_scratch(linear_job *job, size_t floats)
{
    float *p = kd__scratch_get(job->ctx, floats * sizeof *p);
    if (!p) atomic_store_explicit(&job->status, KD_ERR_NOMEM, memory_order_relaxed);
    return p;
}

static void job_product(linear_job *job, const kd__gemm_args *g)
{
    const kd_status status = kd__gemm(job->ctx, g);
    if (status != KD_OK) atomic_store_explicit(&job->status, (int)status, memory_order_relaxed);
}

/* op(B) packed, in scratch; NULL where it does not pay, or memory is short: then as it is. */
static float *pack_weight(kd_context *ctx, kd__gemm_args *g, size_t rows)
{
    size_t floats, bytes;
    if (g->b_packed || rows < TASK_ROWS || !kd__gemm_packed_floats(g, &floats) || !kd__mul(floats, sizeof(float), &bytes)) return NULL;
    float *packed = kd__scratch_get(ctx, bytes);
    if (packed) kd__gemm_pack(ctx, g, packed);
    g->b_packed = packed;
    return packed;
}

static void gelu_task(size_t begin, size_t end, void *arg)
{
    linear_job *job = arg;
    kd__gemm_args g = job->product;
    float *a = job_scratch(job, (end - begin) * job->in);
    if (!a) return;
    const float *x = job->x + begin * job->in;
    if (job->inner) {
        kd__gemm_args f = *job->inner;
        f.m = end - begin;
        f.a = job->x + begin * f.k;
        f.a_stride = f.k;
        f.c = a;
        f.c_stride = job->in;
        job_product(job, &f);
        x = a;
    }
    job->ctx->kernels->unary_f32(KD_UNARY_GELU_ERF, a, x, (end - begin) * job->in, 0.0f, 0.0f);
    g.m = end - begin;
    g.a = a;
    g.c += begin * job->out;
    g.after = kd__epilogue_at(&g.after, begin, 0);
    job_product(job, &g);
    kd__scratch_put(job->ctx, a);
}

static size_t row_count(const kd_tensor *x)
{
    size_t rows;
    return kd__shape_count(x->rank - 1u, x->shape, &rows) ? rows : 0;   /* wraps only where rows are empty */
}

kd_tensor *kd_linear(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias)
{
    return kd__linear(tape, x, weight, bias, NULL, NULL);
}

kd_tensor *kd__linear(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd__after *after, kd__packed *packed)
{
    kd__op_scope op;
    if (!kd__op_begin_masks(&op, tape, KD__OP_linear, (kd_tensor *[]){ x, weight, bias }, 3, 1u << 2, 0)) return kd__poison(tape);
    x = op.in[0];
    weight = op.in[1];
    bias = op.in[2];
    if (weight->rank != 2) return kd__op_fail(&op, KD_ERR_SHAPE, "weight %S is not [in, out]", (size_t)weight->rank, weight->shape);
    if (x->rank < 1) return kd__op_fail(&op, KD_ERR_SHAPE, "x [] has no axis of features");
    const size_t in = weight->shape[0], out = weight->shape[1];
    const kd__gemm_args *inner = after ? after->inner : NULL;
    if (!inner && x->shape[x->rank - 1] != in)
        return kd__op_fail(&op, KD_ERR_SHAPE, "x %S x weight %S: inner sizes %zu and %zu differ", (size_t)x->rank, x->shape,
                           (size_t)2, weight->shape, x->shape[x->rank - 1], in);
    if (bias && (bias->rank != 1 || bias->shape[0] != out))
        return kd__op_fail(&op, KD_ERR_SHAPE, "bias %S does not fit weight %S: it must be [%zu]", (size_t)bias->rank, bias->shape,
                           (size_t)2, weight->shape, out);
    size_t shape[KD_MAX_RANK], rows = row_count(x);
    memcpy(shape, x->shape, sizeof shape);
    shape[x->rank - 1] = out;
    kd_tensor *y = kd__op_output(&op, x->rank, shape);
    if (!y) return kd__op_end(&op);

    linear_job job = { .ctx = tape->ctx, .in = in, .out = out, .x = x->data, .gelu = after && after->gelu, .inner = inner,
                       .product = {
        .m = rows, .n = out, .k = in, .a = x->data, .a_stride = in, .b = weight->data, .b_stride = out,
        .c = y->data, .c_stride = out, .after = kd__after_epilogue(after, bias, out) } };
    if (job.gelu) {
        kd__gemm_keep(tape->ctx, &job.product, packed);
        float *own = pack_weight(tape->ctx, &job.product, rows);
        kd__parallel_range(tape->ctx, rows, TASK_ROWS, gelu_task, &job);
        kd__scratch_put(tape->ctx, own);
    } else {
        job.status = (int)kd__gemm_kept(tape->ctx, &job.product, packed);
    }
    if (job.status != KD_OK) return kd__tape_fail(tape, (kd_status)job.status);
    tape->multiply_adds += (uint64_t)rows * in * (out + (inner ? inner->k : 0));
    op.unread_out = !(after && after->relu);
    if (op.recording && after && (after->relu || after->gelu)) {
        linear_saved *saved = kd__op_save(&op, sizeof *saved);
        if (saved) *saved = (linear_saved){ after->relu, after->gelu };
    }
    return kd__op_end(&op);
}

/* Rows of a block: dx, and their share of the panels. */
static void rows_of_block(size_t begin, size_t end, void *arg)
{
    linear_job *job = arg;
    const size_t n = end - begin, in = job->in, at = begin * in;
    const kd__kernels *k = job->ctx->kernels;
    const float *x = job->x + at;
    float *own = job->gelu ? job_scratch(job, n * in) : NULL;
    if (job->gelu && !own) return;
    if (job->dx) {
        kd__gemm_args g = job->product;
        g.m = n;
        g.a = job->dy + begin * job->out;
        g.c = job->gelu ? own : job->dx + at;
        job_product(job, &g);
        if (job->gelu) k->unary_backward_f32(KD_UNARY_GELU_ERF, job->dx + at, own, x, n * in, 0.0f, 0.0f, job->add_dx);
    }
    if (job->gelu && job->panels) {
        k->unary_f32(KD_UNARY_GELU_ERF, own, x, n * in, 0.0f, 0.0f);
        x = own;
    }
    if (job->panels) k->pack_panels_f32(x, in, 0, n, in, job->panels + begin * KD__GEMM_PANEL, job->rows * KD__GEMM_PANEL);
    kd__scratch_put(job->ctx, own);
}

/* A panel of dy: its columns of dweight and dbias. */
static void panel_of_block(size_t task, void *arg)
{
    linear_job *job = arg;
    const size_t j = task * KD__GEMM_PANEL, width = KD_MIN(job->out - j, (size_t)KD__GEMM_PANEL), rows = job->rows;
    const kd__kernels *k = job->ctx->kernels;
    float *panel = job_scratch(job, rows * KD__GEMM_PANEL);
    if (!panel) return;
    k->pack_panels_f32(job->dy + j, job->out, 0, rows, width, panel, rows * KD__GEMM_PANEL);
    if (job->db) k->column_sums_f32(job->db + j, panel, rows, width, KD__GEMM_PANEL, job->add_db);
    kd__gemm_block g = { .n = width, .outer = 1, .inner = 1, .length = rows, .a_row = 1, .a_k = KD__GEMM_PANEL, .b = panel,
                         .b_k = KD__GEMM_PANEL, .b_panel = rows * KD__GEMM_PANEL, .c_row = job->out, .add = job->add_dw };
    for (size_t i = 0; i < job->in; i += KD__GEMM_PANEL) {
        g.m = KD_MIN(job->in - i, (size_t)KD__GEMM_PANEL);
        g.a = job->panels + i * rows;
        g.c = job->dw + i * job->out + j;
        k->gemm_block_f32(&g);
    }
    kd__scratch_put(job->ctx, panel);
}

static void backward_blocks(linear_job *job, size_t rows)
{
    const size_t chunks = (rows + SUM_ROWS - 1) / SUM_ROWS, in = job->in, out = job->out;
    const bool add_db = job->add_db;
    float *weight = job->dx ? pack_weight(job->ctx, &job->product, rows) : NULL, *db = job->db, *parts = NULL;
    float *panels = job->dw ? job_scratch(job, (in + KD__GEMM_PANEL - 1) / KD__GEMM_PANEL * KD__GEMM_PANEL * KD__GEMM_K) : NULL;
    if (db && chunks > 1) parts = job_scratch(job, chunks * out);
    job->panels = panels;
    for (size_t r = 0; r < rows && job->status == KD_OK; r += job->rows) {
        job->rows = KD_MIN(rows - r, (size_t)KD__GEMM_K);
        job->db = parts ? parts + r / SUM_ROWS * out : db;
        job->add_db = r % SUM_ROWS || (!parts && add_db);
        kd__parallel_range(job->ctx, job->rows, TASK_ROWS, rows_of_block, job);
        if (job->dw && job->status == KD_OK)
            kd__parallel(job->ctx, (out + KD__GEMM_PANEL - 1) / KD__GEMM_PANEL, panel_of_block, job);
        job->add_dw = true;
        job->x += job->rows * in;
        job->dy += job->rows * out;
        if (job->dx) job->dx += job->rows * in;
    }
    if (parts && job->status == KD_OK) kd__join_parts(job->ctx, parts, chunks, out, out, 1.0, db, add_db);
    kd__scratch_put(job->ctx, parts);
    kd__scratch_put(job->ctx, panels);
    kd__scratch_put(job->ctx, weight);
}

/* y = x weight + bias, so x' = y' weight^T, weight' = x^T y', bias' = the sum of y's rows. */
void kd__backward_linear(kd_tape *tape, kd__node *node)
{
    kd_tensor *x = node->in[0], *weight = node->in[1], *bias = node->in[2];
    const linear_saved *saved = node->saved;
    const float *dy = saved && saved->relu ? kd__relu_undo(tape, node->out[0]) : kd__grad_out(tape, node->out[0]);
    if (!dy) return;
    const size_t in = weight->shape[0], out = weight->shape[1], rows = row_count(x);
    linear_job job = { .ctx = tape->ctx, .in = in, .out = out, .x = x->data, .dy = dy, .gelu = saved && saved->gelu };
    job.dx = kd__grad_open(tape, x, &job.add_dx);
    job.dw = kd__grad_open(tape, weight, &job.add_dw);
    job.db = kd__grad_open(tape, bias, &job.add_db);
    if (!kd__tape_ok(tape)) return;
    job.product = (kd__gemm_args){ .m = rows, .n = in, .k = out, .a = dy, .a_stride = out, .b = weight->data, .b_stride = out,
                                   .b_transposed = true, .c = job.dx, .c_stride = in, .accumulate = job.add_dx && !job.gelu };
    float *const db = job.db;
    const bool add_db = job.add_db, blocks = rows && (job.gelu || rows >= MANY_ROWS) && x != weight;
    if (!blocks || !job.dw) job.db = NULL;   /* no pass over dy by columns */
    if (blocks) {
        backward_blocks(&job, rows);
    } else {
        if (job.dx) job_product(&job, &job.product);
        if (job.dw)
            job_product(&job, &(kd__gemm_args){ .m = in, .n = out, .k = rows, .a = x->data, .a_stride = in, .a_transposed = true,
                                                .b = dy, .b_stride = out, .c = job.dw, .c_stride = out, .accumulate = job.add_dw });
    }
    kd_status status = (kd_status)job.status;
    if (db && status == KD_OK && !(blocks && job.dw))
        status = kd__reduce_sum(tape->ctx, 2, (size_t[]){ rows, out }, 1u, dy, 1.0, db, add_db);
    if (status != KD_OK) kd__tape_fail(tape, status);
}
