/* op_matmul.c - matmul: products by kd__gemm.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

/* ---- matmul: c = op(a) op(b) --------------------------------------------------------------------------- */
typedef struct matmul_saved {
    size_t   batch, m, n, k;
    size_t   a_step, b_step;   /* from matrix to matrix; 0: one for all */
    uint32_t flags;
} matmul_saved;

/* Sizes of op(a) op(b); false: the op has failed. */
static bool matmul_sizes(kd__op_scope *op, uint32_t flags, matmul_saved *s)
{
    const kd_tensor *a = op->in[0], *b = op->in[1];
    const size_t ra = a->rank, rb = b->rank;
    if (flags & ~(KD_TRANSPOSE_A | KD_TRANSPOSE_B)) {
        kd__op_fail(op, KD_ERR_ARG, "flags: %u has bits that are no KD_TRANSPOSE_*", flags);
        return false;
    }
    if (ra < 2 || rb < 2) {
        kd__op_fail(op, KD_ERR_SHAPE, "a %S x b %S: both need two axes or more", ra, a->shape, rb, b->shape);
        return false;
    }
    const bool ta = flags & KD_TRANSPOSE_A, tb = flags & KD_TRANSPOSE_B;
    const size_t *ma = a->shape + ra - 2, *mb = b->shape + rb - 2;
    *s = (matmul_saved){ .m = ma[ta], .k = ma[!ta], .n = mb[!tb], .flags = flags };
    if (s->k != mb[tb]) {
        kd__op_fail(op, KD_ERR_SHAPE, "a %S%s x b %S%s: inner sizes %zu and %zu differ", ra, a->shape, ta ? " transposed" : "", rb,
                    b->shape, tb ? " transposed" : "", s->k, mb[tb]);
        return false;
    }
    bool same = ra == rb;
    for (size_t i = 0; same && i + 2 < ra; i++) same = a->shape[i] == b->shape[i];
    if (!same && ra != 2 && rb != 2) {
        kd__op_fail(op, KD_ERR_SHAPE, "a %S x b %S: the leading sizes differ", ra, a->shape, rb, b->shape);
        return false;
    }
    const kd_tensor *leading = ra >= rb ? a : b;
    if (!kd__shape_count(leading->rank - 2u, leading->shape, &s->batch)) s->batch = 0;   /* the matrices are empty */
    s->a_step = ra == 2 ? 0 : s->m * s->k;
    s->b_step = rb == 2 ? 0 : s->k * s->n;
    return true;
}

kd_tensor *kd_matmul(kd_tape *tape, kd_tensor *a, kd_tensor *b, uint32_t flags)
{
    kd__op_scope op;
    matmul_saved s;
    if (!kd__op_begin(&op, tape, KD__OP_matmul, (kd_tensor *[]){ a, b }, 2)) return kd__poison(tape);
    if (!matmul_sizes(&op, flags, &s)) return kd__poison(tape);
    a = op.in[0];
    b = op.in[1];
    const kd_tensor *leading = a->rank >= b->rank ? a : b;
    size_t shape[KD_MAX_RANK];
    memcpy(shape, leading->shape, sizeof shape);
    shape[leading->rank - 2] = s.m;
    shape[leading->rank - 1] = s.n;
    kd_tensor *c = kd__op_output(&op, leading->rank, shape);
    if (!c) return kd__op_end(&op);

    const bool ta = flags & KD_TRANSPOSE_A, tb = flags & KD_TRANSPOSE_B;
    kd__gemm_args g = { .m = s.m, .n = s.n, .k = s.k, .a = a->data, .a_stride = ta ? s.m : s.k, .a_transposed = ta,
                        .b = b->data, .b_stride = tb ? s.k : s.n, .b_transposed = tb, .c = c->data, .c_stride = s.n };
    kd_status status = kd__gemm_batch(tape->ctx, &g, s.batch, s.a_step, s.b_step, s.m * s.n);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    tape->multiply_adds += (uint64_t)s.batch * s.m * s.n * s.k;
    if (op.recording) {
        matmul_saved *saved = kd__op_save(&op, sizeof *saved);
        if (saved) *saved = s;
        op.unread_out = 1;
    }
    return kd__op_end(&op);
}

/* c = op(a) op(b), so op(a)' = c' op(b)^T and op(b)' = op(a)^T c'; a transposed operand takes the transpose of that. */
void kd__backward_matmul(kd_tape *tape, kd__node *node)
{
    const matmul_saved *s = node->saved;
    kd_tensor *a = node->in[0], *b = node->in[1];
    const float *dc = kd__grad_out(tape, node->out[0]);
    const bool ta = s->flags & KD_TRANSPOSE_A, tb = s->flags & KD_TRANSPOSE_B;
    const size_t m = s->m, n = s->n, k = s->k, c_step = m * n;
    /* One b for all, a by rows: the batch is one tall matrix. */
    const bool tall = s->b_step == 0 && !ta;
    kd_status status = KD_OK;
    bool accumulate;
    float *da = kd__grad_open(tape, a, &accumulate);
    if (da) {
        kd__gemm_args g = { .c = da, .accumulate = accumulate };
        if (ta) {   /* a' = op(b) c'^T: [k, n] x [n, m] */
            g.m = k, g.n = m, g.k = n, g.c_stride = m;
            g.a = b->data, g.a_stride = tb ? k : n, g.a_transposed = tb;
            g.b = dc, g.b_stride = n, g.b_transposed = true;
            status = kd__gemm_batch(tape->ctx, &g, s->batch, s->b_step, c_step, s->a_step);
        } else {    /* a' = c' op(b)^T: [m, n] x [n, k] */
            g.m = m, g.n = k, g.k = n, g.c_stride = k;
            g.a = dc, g.a_stride = n;
            g.b = b->data, g.b_stride = tb ? k : n, g.b_transposed = !tb;
            status = kd__gemm_batch(tape->ctx, &g, s->batch, c_step, s->b_step, s->a_step);
        }
    }
    float *db = status == KD_OK ? kd__grad_open(tape, b, &accumulate) : NULL;
    if (db) {
        kd__gemm_args g = { .c = db, .accumulate = accumulate };
        const size_t batch = tall ? 1 : s->batch, rows = tall ? s->batch * m : m;
        if (tb) {   /* b' = c'^T op(a): [n, m] x [m, k] */
            g.m = n, g.n = k, g.k = rows, g.c_stride = k;
            g.a = dc, g.a_stride = n, g.a_transposed = true;
            g.b = a->data, g.b_stride = ta ? m : k, g.b_transposed = ta;
            status = kd__gemm_batch(tape->ctx, &g, batch, c_step, s->a_step, s->b_step);
        } else {    /* b' = op(a)^T c': [k, m] x [m, n] */
            g.m = k, g.n = n, g.k = rows, g.c_stride = n;
            g.a = a->data, g.a_stride = ta ? m : k, g.a_transposed = !ta;
            g.b = dc, g.b_stride = n;
            status = kd__gemm_batch(tape->ctx, &g, batch, s->a_step, c_step, s->b_step);
        }
    }
    if (status != KD_OK) kd__tape_fail(tape, status);
}
