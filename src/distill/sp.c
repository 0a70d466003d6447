/* sp.c - similarity-preserving distillation (Tung, Mori 2019, arXiv 1907.09682).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of |N(S S^T) - N(T T^T)|_F^2 / B^2
 *     S, T: a tap of student and teacher, each sample flattened [B, ..]; N: each row over max(its length, 1e-12)
 * Gradient: by the matrix of similarities, through the rows' lengths, then (G + G^T) S.
 * Divides by: pairs of samples (B^2).
 * Detached: the teacher.
 * Taps: one or more pairs of any shapes, as many of each; the shapes of a pair need not agree.
 * Defaults: weight 3000 (CIFAR-100, the last stage's map).
 * Forms: one.
 * Traps: one port normalises the rows by their sum of magnitudes: its weight does not carry over.  A sample that is zero
 *     throughout has no direction: its row stays 0 and has no gradient, where division by 1e-12 would give 1e12.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 72.94, WRN-40-2 -> 16-2 73.83.
 * Cost: 3 B^2 floats of scratch. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 3000; }
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_pairs(d, 1, ~0u); }

/* The similarities of a tap, rows of length 1; gram [n, n] is room. */
static kd_status similarities(const kd__core *c, size_t i, size_t n, float *gram, float *out, float *norm)
{
    KD_TRY(kd__gram(c->ctx, c->x[i], n, c->in[i]->count / n, gram));
    c->kernels->l2_normalize_rows_f32(n, n, gram, 1e-12f, out, norm);
    return KD_OK;
}

static kd_status run(const kd__core *c, size_t n, float *scratch, double *value)
{
    const kd__kernels *k = c->kernels;
    float *g = scratch, *s = g + n * n, *t = s + n * n, *norm = t + n * n;
    KD_TRY(similarities(c, 1, n, g, t, norm));
    KD_TRY(similarities(c, 0, n, g, s, norm));
    k->difference_sum_f32(0, s, t, n * n, value);
    *value /= (double)n * (double)n;
    if (!c->grad[0]) return KD_OK;
    const kd__operand a = { s, n, 1 }, b = { t, n, 1 };
    k->binary_f32(KD_BINARY_SUB, t, n, a, b, n, n);
    k->unary_f32(KD_UNARY_SCALE_ADD, t, t, n * n, (float)(2 / ((double)n * (double)n)), 0);
    for (size_t i = 0; i < n; i++)
        if (norm[i] < 1e-12f) memset(t + i * n, 0, n * sizeof *t);
    k->l2_normalize_backward_rows_f32(n, n, t, s, norm, 1e-12f, g, 0);
    return kd__gram_backward(c->ctx, g, c->x[0], n, c->in[0]->count / n, c->grad[0]);
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[0];
    float *scratch = kd__scratch_get(c->ctx, (3 * n * n + n) * sizeof *scratch);
    kd_status status = scratch ? run(c, n, scratch, value) : kd__fail(KD_ERR_NOMEM, "sp: out of memory");
    kd__scratch_put(c->ctx, scratch);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__core_pairs(loss, tape, in, core);
}

const kd__feature_method kd__feature_SP = {
    .formula = "|N(S S^T) - N(T T^T)|^2 / B^2, N: rows of length 1", .defaults = defaults, .check = check, .apply = apply
};
