/* op_attention.c - multi-head attention (Vaswani et al. 2017, section 3.2), its scores never in memory as a whole.
 *
 * A task is one head of one sample.  It goes through the queries a block at a time, so that the block's scores stay in the
 * level-2 cache.  Nothing is kept for backward but the inputs: the probabilities of a block are computed again from them, with
 * the bits of forward, which costs one product out of five and spares n heads tq tk floats.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"
#include <math.h>

enum { BLOCK_FLOATS = 32768, LEAST_ROWS = 28 };   /* scores at a time; they cut the sums of dk and dv, so they are part of the bits */

typedef struct attention {
    size_t   n, tq, tk, heads, width;   /* width: of one head */
    size_t   q_row, kv_row;             /* floats from step to step of q, of k and v */
    size_t   block;                     /* queries at a time */
    size_t   packed;                    /* floats of a head's k or v, packed */
    float    t;                         /* 1 / scale */
    bool     causal;
} attention;

typedef struct attention_job {
    attention    a;
    kd_context  *ctx;
    const float *q, *k, *v, *mask, *dy;
    float       *y, *dq, *dk, *dv;      /* dq, dk, dv: NULL where not wanted */
    bool         clear[3];              /* dq, dk, dv hold nothing yet */
    _Atomic int  status;
} attention_job;

/* The parts of q, k and v: k and v lie behind q in its rows when they are not given. */
static void operands_of_attention(kd_tensor *const *in, const attention *a, attention_job *job)
{
    job->a = *a;
    job->q = in[0]->data;
    job->k = in[1] ? in[1]->data : job->q + a->heads * a->width;
    job->v = in[2] ? in[2]->data : job->q + 2 * a->heads * a->width;
    job->mask = in[3] ? in[3]->data : NULL;
}

/* p = softmax(scale q k^T + mask) of `rows` queries from `first` on. */
static kd_status probabilities(const attention_job *job, const float *q, size_t first, size_t rows, const float *k_packed,
                               const float *bias, float *p)
{
    const attention *a = &job->a;
    KD_TRY(kd__gemm(job->ctx, &(kd__gemm_args){ .m = rows, .n = a->tk, .k = a->width, .a = q + first * a->q_row, .a_stride = a->q_row,
                                          .b_packed = k_packed, .b_transposed = true, .b_stride = a->kv_row, .c = p,
                                          .c_stride = a->tk, .after = { .bias = bias } }));
    for (size_t r = 0; a->causal && r < rows && first + r + 1 < a->tk; r++)
        job->ctx->kernels->fill_f32(p + r * a->tk + first + r + 1, a->tk - first - r - 1, -INFINITY);
    job->ctx->kernels->softmax_f32(p, a->tk, p, a->tk, rows, a->tk, a->t, 0);
    return KD_OK;
}

static void pack_head(const attention_job *job, const float *rows, float *out)
{
    const attention *a = &job->a;
    kd__gemm_pack(job->ctx, &(kd__gemm_args){ .n = a->tk, .k = a->width, .b = rows, .b_stride = a->kv_row, .b_transposed = true }, out);
}

/* The mask of a sample in units of the scores before they are scaled; NULL if there is none. */
static const float *scaled_mask(const attention_job *job, size_t sample, float *out)
{
    if (!job->mask) return NULL;
    job->ctx->kernels->unary_f32(KD_UNARY_SCALE_ADD, out, job->mask + sample * job->a.tk, job->a.tk, job->a.t, 0.0f);
    return out;
}

static kd_status attend(const attention_job *job, size_t sample, size_t head, float *scratch)
{
    const attention *a = &job->a;
    const size_t at = head * a->width, out_row = a->heads * a->width;
    const float *q = job->q + sample * a->tq * a->q_row + at, *kv = job->k + sample * a->tk * a->kv_row + at;
    const float *v = job->v + sample * a->tk * a->kv_row + at;
    float *y = job->y + sample * a->tq * out_row + at, *p = scratch + a->packed;
    const float *bias = scaled_mask(job, sample, p + a->block * a->tk);
    pack_head(job, kv, scratch);
    for (size_t i = 0; i < a->tq; i += a->block) {
        const size_t rows = KD_MIN(a->tq - i, a->block);
        KD_TRY(probabilities(job, q, i, rows, scratch, bias, p));
        KD_TRY(kd__gemm(job->ctx, &(kd__gemm_args){ .m = rows, .n = a->width, .k = a->tk, .a = p, .a_stride = a->tk, .b = v,
                                              .b_stride = a->kv_row, .c = y + i * out_row, .c_stride = out_row }));
    }
    return KD_OK;
}

static void zero_rows(float *x, size_t rows, size_t row, size_t width)
{
    for (size_t r = 0; r < rows; r++) memset(x + r * row, 0, width * sizeof *x);
}

/* y = p v, p = softmax(s), s = scale q k^T + mask:  dv = p^T dy,  dp = dy v^T,  ds = p (dp - sum p dp) scale,  dq = ds k,  dk = ds^T q.
 * The three may be one tensor's: all that must be cleared is cleared before anything is added. */
static kd_status attend_backward(const attention_job *job, size_t sample, size_t head, float *scratch)
{
    const attention *a = &job->a;
    const size_t at = head * a->width, out_row = a->heads * a->width;
    const size_t q_at = sample * a->tq * a->q_row + at, kv_at = sample * a->tk * a->kv_row + at;
    const float *dy = job->dy + sample * a->tq * out_row + at;
    float *v_packed = scratch + a->packed, *p = v_packed + a->packed, *ds = p + a->block * a->tk;
    const float *bias = scaled_mask(job, sample, ds + a->block * a->tk);
    if (job->clear[0]) zero_rows(job->dq + q_at, a->tq, a->q_row, a->width);
    if (job->clear[1]) zero_rows(job->dk + kv_at, a->tk, a->kv_row, a->width);
    if (job->clear[2]) zero_rows(job->dv + kv_at, a->tk, a->kv_row, a->width);
    pack_head(job, job->k + kv_at, scratch);
    if (job->dq || job->dk) pack_head(job, job->v + kv_at, v_packed);
    for (size_t i = 0; i < a->tq; i += a->block) {
        const size_t rows = KD_MIN(a->tq - i, a->block);
        KD_TRY(probabilities(job, job->q + q_at, i, rows, scratch, bias, p));
        if (job->dv)
            KD_TRY(kd__gemm(job->ctx, &(kd__gemm_args){ .m = a->tk, .n = a->width, .k = rows, .a = p, .a_stride = a->tk,
                                                  .a_transposed = true, .b = dy + i * out_row, .b_stride = out_row,
                                                  .c = job->dv + kv_at, .c_stride = a->kv_row, .accumulate = true }));
        if (!job->dq && !job->dk) continue;
        KD_TRY(kd__gemm(job->ctx, &(kd__gemm_args){ .m = rows, .n = a->tk, .k = a->width, .a = dy + i * out_row, .a_stride = out_row,
                                              .b_packed = v_packed, .b_transposed = true, .b_stride = a->kv_row, .c = ds,
                                              .c_stride = a->tk }));
        job->ctx->kernels->softmax_backward_f32(ds, ds, p, rows, a->tk, a->t, 0, 0);
        if (job->dq)
            KD_TRY(kd__gemm(job->ctx, &(kd__gemm_args){ .m = rows, .n = a->width, .k = a->tk, .a = ds, .a_stride = a->tk,
                                                  .b = job->k + kv_at, .b_stride = a->kv_row, .c = job->dq + q_at + i * a->q_row,
                                                  .c_stride = a->q_row, .accumulate = true }));
        if (job->dk)
            KD_TRY(kd__gemm(job->ctx, &(kd__gemm_args){ .m = a->tk, .n = a->width, .k = rows, .a = ds, .a_stride = a->tk,
                                                  .a_transposed = true, .b = job->q + q_at + i * a->q_row, .b_stride = a->q_row,
                                                  .c = job->dk + kv_at, .c_stride = a->kv_row, .accumulate = true }));
    }
    return KD_OK;
}

/* Floats that a task works in: packed k (and v), a block of scores (and their gradient), the mask. */
static bool scratch_floats(const attention *a, bool backward, size_t *floats)
{
    size_t more;
    return kd__add(a->packed, a->block * a->tk, floats) && kd__mul(*floats, backward ? 2 : 1, floats) &&
           kd__add(*floats, a->tk, floats) && kd__mul(*floats, sizeof(float), &more);
}

static void head_task(size_t task, void *arg)
{
    attention_job *job = arg;
    size_t floats;
    (void)scratch_floats(&job->a, job->dy != NULL, &floats);
    float *scratch = kd__scratch_get(job->ctx, floats * sizeof *scratch);
    kd_status status = KD_ERR_NOMEM;
    if (scratch) status = (job->dy ? attend_backward : attend)(job, task / job->a.heads, task % job->a.heads, scratch);
    kd__scratch_put(job->ctx, scratch);
    if (status != KD_OK) atomic_store_explicit(&job->status, (int)status, memory_order_relaxed);
}

static bool every_head(kd_tape *tape, attention_job *job)
{
    job->ctx = tape->ctx;
    if (job->a.tq && job->a.tk && job->a.width) kd__parallel(tape->ctx, job->a.n * job->a.heads, head_task, job);
    const kd_status status = (kd_status)atomic_load(&job->status);
    if (status != KD_OK) kd__tape_fail(tape, kd__fail(status, "out of memory"));
    return status == KD_OK;
}

/* Shapes; false: the op has failed. */
static bool attention_sizes(kd__op_scope *op, size_t heads, float scale, attention *a)
{
    const kd_tensor *q = op->in[0], *k = op->in[1], *v = op->in[2], *mask = op->in[3];
    if (q->rank != 3) {
        kd__op_fail(op, KD_ERR_SHAPE, "q %S is not [n, t, d]", (size_t)q->rank, q->shape);
        return false;
    }
    if (!k != !v) {
        kd__op_fail(op, KD_ERR_ARG, "%s is NULL and %s is not", k ? "v" : "k", k ? "k" : "v");
        return false;
    }
    const size_t d = k ? q->shape[2] : q->shape[2] / 3;
    if (k && (k->rank != 3 || k->shape[0] != q->shape[0] || k->shape[2] != d || !kd__shape_equal(k, v))) {
        kd__op_fail(op, KD_ERR_SHAPE, "q %S, k %S, v %S: want [n, tq, d], [n, tk, d], [n, tk, d]", (size_t)3, q->shape, (size_t)k->rank,
                    k->shape, (size_t)v->rank, v->shape);
        return false;
    }
    if (!heads || d % heads || (!k && q->shape[2] % 3)) {
        kd__op_fail(op, KD_ERR_SHAPE, "q %S: %zu heads do not divide its %s", (size_t)3, q->shape, heads, k ? "width" : "three parts");
        return false;
    }
    *a = (attention){ .n = q->shape[0], .tq = q->shape[1], .tk = (k ? k : q)->shape[1], .heads = heads, .width = d / heads,
                      .q_row = q->shape[2], .kv_row = (k ? k : q)->shape[2] };
    if (mask && (mask->rank != 2 || mask->shape[0] != a->n || mask->shape[1] != a->tk)) {
        const size_t want[] = { a->n, a->tk };
        kd__op_fail(op, KD_ERR_SHAPE, "mask %S: want %S", (size_t)mask->rank, mask->shape, (size_t)2, want);
        return false;
    }
    if (!(scale >= 0.0f && isfinite(scale)) || (scale > 0.0f && !isfinite(1.0f / scale))) {
        kd__op_fail(op, KD_ERR_ARG, "scale %g is not a number from 1e-38 on, nor 0", (double)scale);
        return false;
    }
    a->t = scale > 0.0f ? 1.0f / scale : sqrtf((float)KD_MAX(a->width, 1u));
    if (!(a->t > 0.0f)) a->t = 0x1p-126f;
    a->block = KD_MIN(a->tq, KD_MAX((size_t)BLOCK_FLOATS / KD_MAX(a->tk, 1u) / 14 * 14, (size_t)LEAST_ROWS));
    size_t floats;
    if (!kd__mul(a->block, a->tk, &floats) || !kd__gemm_packed_floats(&(kd__gemm_args){ .n = a->tk, .k = a->width }, &a->packed) ||
        !scratch_floats(a, true, &floats)) {
        kd__op_fail(op, KD_ERR_OVERFLOW, "q %S with %zu keys is too large", (size_t)3, q->shape, a->tk);
        return false;
    }
    return true;
}

kd_tensor *kd_attention(kd_tape *tape, kd_tensor *q, kd_tensor *k, kd_tensor *v, size_t heads, float scale, int32_t causal,
                        kd_tensor *mask)
{
    kd__op_scope op;
    attention a;
    if (!kd__op_begin_masks(&op, tape, KD__OP_attention, (kd_tensor *[]){ q, k, v, mask }, 4, 1u << 1 | 1u << 2 | 1u << 3, 0))
        return kd__poison(tape);
    if (!attention_sizes(&op, heads, scale, &a)) return kd__poison(tape);
    a.causal = causal != 0;
    kd_tensor *y = kd__op_output(&op, 3, (size_t[]){ a.n, a.tq, a.heads * a.width });
    if (!y) return kd__poison(tape);
    attention_job job = { .y = y->data };
    operands_of_attention(op.in, &a, &job);
    if (!a.tk && y->count) memset(y->data, 0, y->count * sizeof(float));
    if (!every_head(tape, &job)) return kd__poison(tape);
    tape->multiply_adds += (uint64_t)2 * a.n * a.tq * a.tk * a.heads * a.width;
    op.unread_out = 1;
    if (op.recording) {
        attention *saved = kd__op_save(&op, sizeof *saved);
        if (saved) *saved = a;
    }
    return kd__op_end(&op);
}

void kd__backward_attention(kd_tape *tape, kd__node *node)
{
    attention_job job = { .dy = kd__grad_out(tape, node->out[0]) };
    operands_of_attention(node->in, node->saved, &job);
    const size_t d = job.a.heads * job.a.width;
    float **grads[] = { &job.dq, &job.dk, &job.dv };
    for (size_t i = 0; i < 3; i++) {
        bool accumulate;
        if (i && !node->in[1]) {   /* the parts of one tensor */
            *grads[i] = job.dq ? job.dq + i * d : NULL;
            job.clear[i] = job.clear[0];
        } else {
            *grads[i] = kd__grad_open(tape, node->in[i], &accumulate);
            job.clear[i] = *grads[i] && !accumulate;
            if (!kd__tape_ok(tape)) return;
        }
    }
    for (size_t i = 0; i < 3; i++)   /* without queries or keys no task clears them */
        if (job.clear[i] && node->in[i] && (!job.a.tk || !job.a.tq)) memset(*grads[i], 0, node->in[i]->count * sizeof(float));
    (void)every_head(tape, &job);
}
