/* op_dropout.c - some elements to zero, the others larger by as much.
 *
 * The mask is not stored: element i is dropped when number i of the op's own random stream is below p, and backward draws the
 * stream again, which costs less than a pass over memory.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

enum { GRAIN = 16384 };   /* a multiple of 4: the kernel begins at whole counters */

typedef struct drop {
    const kd__kernels *kernels;
    const float *in;      /* forward: x; backward: dy */
    float       *out;     /* forward: y; backward: dx */
    uint64_t     key;
    uint32_t     threshold;
    float        scale;
    bool         accumulate;
} drop;

static void drop_range(size_t begin, size_t end, void *arg)
{
    const drop *d = arg;
    d->kernels->dropout_f32(d->out + begin, d->in + begin, end - begin, d->key, begin, d->threshold, d->scale, d->accumulate);
}

/* y[i] = u[i] < p ? 0 : x[i] / (1 - p), u[i] number i of the stream, a multiple of 2^-24 */
kd_tensor *kd_dropout(kd_tape *tape, kd_tensor *x, float p)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_dropout, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    if (!(p >= 0.0f && p < 1.0f)) return kd__op_fail(&op, KD_ERR_ARG, "p %g is outside [0, 1)", (double)p);
    if (tape->mode != KD_TAPE_TRAIN || p == 0.0f) {
        if (op.copied) kd__tape_release(tape, op.in[0]);
        return x;
    }
    x = op.in[0];
    kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
    drop *saved = y && op.recording ? kd__op_save(&op, sizeof *saved) : NULL;
    if (kd__tape_ok(tape)) {
        const double units = (double)p * 0x1p24;   /* exact; u < p when u 2^24 < ceil(units) */
        const uint32_t whole = (uint32_t)units;
        drop d = { .kernels = tape->ctx->kernels, .in = x->data, .out = y->data,
                   .key = kd_rng_split(&tape->rng, tape->rng.index++).key,
                   .threshold = whole + ((double)whole < units), .scale = 1.0f / (1.0f - p) };
        kd__parallel_range(tape->ctx, x->count, GRAIN, drop_range, &d);
        if (saved) *saved = d;
        op.unread_in = op.unread_out = 1;
    }
    return kd__op_end(&op);
}

/* forward: y[i] = kept[i] ? x[i] scale : 0, so dx[i] = kept[i] ? dy[i] scale : 0 */
void kd__backward_dropout(kd_tape *tape, kd__node *node)
{
    drop d = *(const drop *)node->saved;
    d.in = kd__grad_out(tape, node->out[0]);
    d.out = kd__grad_take(tape, node->in[0], node->out[0]);
    if (!d.out) d.out = kd__grad_open(tape, node->in[0], &d.accumulate);
    if (d.out) kd__parallel_range(tape->ctx, node->in[0]->count, GRAIN, drop_range, &d);
}
