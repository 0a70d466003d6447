/* pkt.c - probabilistic knowledge transfer (Passalis, Tefas 2018, arXiv 1803.10837).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of 1 / B^2 sum_ij p_ij log((p_ij + e) / (q_ij + e)),  e = 1e-7
 *     q_ij = k_ij / sum_j k_ij,  k_ij = (x_i . x_j + 1) / 2,  x_i = s_i / (|s_i| + e); p likewise of the teacher; the diagonal
 *     is in it
 * Gradient: -p / ((q + e) B^2) by q, through the division of rows, (G + G^T) x, and the length.
 * Divides by: pairs of samples (B^2).
 * Detached: the teacher.
 * Taps: one or more pairs of any shapes, as many of each, each sample flattened.
 * Defaults: weight 30000 (CIFAR-100, the pooled vector).
 * Forms: one.
 * Traps: the weight belongs to the mean over B^2: for a sum or a mean over rows divide it by B^2 or B.  A sample that is zero
 *     throughout counts as orthogonal to all and has no gradient, where the public code has NaN.  Another port's e is 1e-6.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 73.64, WRN-40-2 -> 16-2 74.54.
 * Cost: 3 B^2 + B D floats of scratch. */
#include "distill/feature.h"
#include <math.h>

static const float pkt_e = 1e-7f;

static void defaults(kd_loss_feature_desc *d) { d->weight = 30000; }
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_pairs(d, 1, ~0u); }

/* (cos + 1) / 2 of nearly opposite samples, in double: what single precision leaves of it is as large as e. */
static float opposite(const kd__kernels *k, const float *a, const float *b, size_t d)
{
    double aa, bb, ab;
    k->dot_f32(&aa, a, a, d);
    k->dot_f32(&bb, b, b, d);
    k->dot_f32(&ab, a, b, d);
    return (float)((ab / ((sqrt(aa) + 1e-7) * (sqrt(bb) + 1e-7)) + 1) / 2);
}

/* x = rows / (length + e), lengths, and the rows' probabilities with the sums they were divided by. */
static kd_status probabilities(const kd__core *c, size_t i, size_t n, float *x, float *length, float *p, float *sum)
{
    const kd__kernels *k = c->kernels;
    const size_t d = c->in[i]->count / n;
    k->l2_normalize_rows_f32(n, d, c->x[i], 1e-12f, x, length);
    for (size_t r = 0; r < n; r++)
        k->unary_f32(KD_UNARY_SCALE_ADD, x + r * d, x + r * d, d, length[r] / (length[r] + pkt_e), 0);
    KD_TRY(kd__gram(c->ctx, x, n, d, p));
    k->unary_f32(KD_UNARY_SCALE_ADD, p, p, n * n, 0.5f, 0.5f);
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < n; j++)
            if (p[r * n + j] < 0x1p-10f) p[r * n + j] = opposite(k, c->x[i] + r * d, c->x[i] + j * d, d);
    k->row_sums_f32(sum, p, n, n, n, 1, 0);
    k->binary_f32(KD_BINARY_DIV, p, n, (kd__operand){ p, n, 1 }, (kd__operand){ sum, 1, 0 }, n, n);
    return KD_OK;
}

static kd_status run(const kd__core *c, size_t n, size_t widest, float *scratch, double *value)
{
    const kd__kernels *k = c->kernels;
    const size_t d = c->in[0]->count / n;
    float *p = scratch, *q = p + n * n, *u = q + n * n, *x = u + n * n, *length = x + n * widest, *sum = length + n, *w = sum + n;
    const double pairs = (double)n * (double)n;
    KD_TRY(probabilities(c, 1, n, x, length, p, sum));
    KD_TRY(probabilities(c, 0, n, x, length, q, sum));
    *value = 0;
    for (size_t r = 0; r < n; r++) {   /* log((p + e) / (q + e)) as log(1 + (p - q) / (q + e)) */
        const kd__operand pr = { p + r * n, n, 1 }, qr = { q + r * n, n, 1 }, ur = { u + r * n, n, 1 }, wr = { w, n, 1 };
        float *out = u + r * n;
        double dot;
        k->unary_f32(KD_UNARY_SCALE_ADD, w, qr.data, n, 1, pkt_e);
        k->binary_f32(KD_BINARY_SUB, out, n, pr, qr, 1, n);
        k->binary_f32(KD_BINARY_DIV, out, n, ur, wr, 1, n);
        k->unary_f32(KD_UNARY_LOG1P, out, out, n, 0, 0);
        k->dot_f32(&dot, pr.data, out, n);
        *value += dot / pairs;
        if (!c->grad[0]) continue;
        k->binary_f32(KD_BINARY_DIV, out, n, pr, wr, 1, n);   /* -d/dq, without 1 / B^2 */
        k->dot_f32(&dot, out, qr.data, n);
        const double by = -0.5 / pairs / (double)sum[r];
        k->unary_f32(KD_UNARY_SCALE_ADD, out, out, n, (float)by, (float)(-by * dot));
    }
    if (!c->grad[0]) return KD_OK;
    KD_TRY(kd__gram_backward(c->ctx, u, x, n, d, c->grad[0]));
    for (size_t r = 0; r < n; r++) {   /* x = s / (|s| + e): (g - x (x . g) (|s| + e) / |s|) / (|s| + e) */
        float *g = c->grad[0] + r * d, m = length[r], by = m > 0 ? 1 / (m + pkt_e) : 0;
        double dot;
        k->dot_f32(&dot, x + r * d, g, d);
        if (m > 0) k->axpy_f32(g, x + r * d, d, (float)(-dot * ((double)m + (double)pkt_e) / (double)m));
        k->unary_f32(KD_UNARY_SCALE_ADD, g, g, d, by, 0);
    }
    return KD_OK;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[0], widest = KD_MAX(c->in[0]->count, c->in[1]->count) / n;
    float *scratch = kd__scratch_get(c->ctx, (3 * n * n + n * widest + 3 * n) * sizeof *scratch);
    kd_status status = scratch ? run(c, n, widest, scratch, value) : kd__fail(KD_ERR_NOMEM, "pkt: out of memory");
    kd__scratch_put(c->ctx, scratch);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__core_pairs(loss, tape, in, core);
}

const kd__feature_method kd__feature_PKT = {
    .formula = "mean_ij p log(p / q), p and q: rows of (cos + 1) / 2 over their sum", .defaults = defaults, .check = check,
    .apply = apply
};
