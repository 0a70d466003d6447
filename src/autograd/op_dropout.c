/* op_dropout.c - some elements to zero, the others larger by as much.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

enum { GRAIN = 8192, BUFFER = 256 };   /* multiples of 8: a byte of the mask has one writer */

typedef struct saved {
    float    scale;
    uint8_t *mask;      /* bit i % 8 of byte i / 8: element i was kept */
} saved;

typedef struct drop {
    const float *in;    /* forward: x; backward: dy */
    float       *out;   /* forward: y; backward: dx */
    uint8_t     *mask;  /* forward without recording: NULL */
    size_t       n;
    kd_rng       stream;
    float        p, scale;
    bool         accumulate;
} drop;

/* y[i] = u[i] < p ? 0 : x[i] / (1 - p), u[i] number i of the op's own stream */
static void dropout_forward(size_t begin, size_t end, void *arg)
{
    const drop *d = arg;
    float u[BUFFER];
    for (size_t i = begin; i < end; i += BUFFER) {
        const size_t n = KD_MIN(end - i, (size_t)BUFFER);
        kd_rng rng = { d->stream.key, i };
        kd__rng_fill_uniform(&rng, u, n);
        for (size_t k = 0; k < n; k++) d->out[i + k] = u[k] < d->p ? 0.0f : d->in[i + k] * d->scale;
        for (size_t k = 0; d->mask && k < n; k++) {
            if (k % 8 == 0) d->mask[(i + k) / 8] = 0;
            d->mask[(i + k) / 8] |= (uint8_t)((u[k] >= d->p) << k % 8);
        }
    }
}

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
    saved *s = y && op.recording ? kd__op_save(&op, sizeof *s) : NULL;
    if (s) *s = (saved){ 1.0f / (1.0f - p), kd__tape_alloc(tape, x->count / 8 + 1) };
    if (kd__tape_ok(tape)) {
        drop d = { .in = x->data, .out = y->data, .mask = s ? s->mask : NULL, .n = x->count, .p = p, .scale = 1.0f / (1.0f - p),
                   .stream = kd_rng_split(&tape->rng, tape->rng.index++) };
        kd__parallel_range(tape->ctx, x->count, GRAIN, dropout_forward, &d);
    }
    return kd__op_end(&op);
}

/* forward: y[i] = kept[i] ? x[i] scale : 0, so dx[i] = kept[i] ? dy[i] scale : 0 */
static void dropout_backward(size_t begin, size_t end, void *arg)
{
    const drop *d = arg;
    for (size_t i = begin; i < end; i++) {
        float g = d->mask[i / 8] >> i % 8 & 1 ? d->in[i] * d->scale : 0.0f;
        d->out[i] = d->accumulate ? d->out[i] + g : g;
    }
}

void kd__backward_dropout(kd_tape *tape, kd__node *node)
{
    const saved *s = node->saved;
    drop d = { .in = kd__grad_out(tape, node->out[0]), .mask = s->mask, .n = node->in[0]->count, .scale = s->scale };
    d.out = kd__grad_open(tape, node->in[0], &d.accumulate);
    if (d.out) kd__parallel_range(tape->ctx, d.n, GRAIN, dropout_backward, &d);
}
