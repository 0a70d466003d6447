/* cc.c - correlation congruence (Peng, Jin, Liu, Zhou, Wu, Liu, Zhang, Tian, Wang 2019, arXiv 1904.01802).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE:  loss = 1 / (B - 1) sum_{i < B - 1} sum_k d_ik d_{i+1,k},  d = |e_s - e_t|;  0 for one row
 *     PAPER: loss = 1 / B^2 sum_ij (K(e_s)_ij - K(e_t)_ij)^2,  embeddings of length 1,
 *            K_ij = exp(-2 g) sum_{p = 0 .. 2} (2 g)^p / p! (e_i . e_j)^p: the series of a Gaussian kernel exp(-g |e_i - e_j|^2)
 *     e = linear(tap) to `width`, g = gamma
 * Gradient: CODE: sign(e_s - e_t) (d_{i-1} + d_{i+1}) / (B - 1), negated for the teacher's embedding.  PAPER: through
 *     K'(dot), the products and the lengths.
 * Divides by: CODE: neighbouring rows (B - 1).  PAPER: pairs of samples (B^2).
 * Detached: the teacher's tap; its embedding is trained.
 * Taps: one pair of any shapes, each sample flattened.
 * Adapters: "s0.linear", "t0.linear" to `width`.
 * Defaults: weight 0.02, gamma 0.4, width 128 (CIFAR-100, the pooled vector).
 * Forms: CODE the public code of the CIFAR-100 tables; PAPER the paper's kernel matrices.
 * Traps: the public code is not the paper's loss: it multiplies neighbours of the batch, so it depends on the order of
 *     rows, and the weight belongs to it.  Both train the teacher's embedding, which can make either loss 0 by mapping
 *     everything to one point: the other terms must hold the student.  A zero embedding has no gradient in the PAPER form.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 72.97, WRN-40-2 -> 16-2 73.56.
 * Cost: CODE 3 B width, PAPER 3 B^2 + 2 B width floats of scratch. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 0.02f, d->gamma = 0.4f; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, ~0u));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps, it takes 1", d->student_count);
    if (!(d->gamma >= 0 && d->gamma <= 100)) return kd__fail(KD_ERR_ARG, "gamma %g is not in [0, 100]", (double)d->gamma);
    if (!d->width) d->width = 128;
    return KD_OK;
}

static kd_status neighbours(const kd__core *c, double *value)
{
    const kd__kernels *k = c->kernels;
    const size_t n = c->in[0]->shape[0], w = c->in[0]->shape[1], all = n * w, pairs = all - w;
    float *d = kd__scratch_get(c->ctx, 3 * all * sizeof *d), *size = d + all, *sum = size + all;
    if (!d) return kd__fail(KD_ERR_NOMEM, "cc: out of memory");
    const double by = n > 1 ? 1 / (double)(n - 1) : 0;
    k->binary_f32(KD_BINARY_SUB, d, all, (kd__operand){ c->x[0], all, 1 }, (kd__operand){ c->x[1], all, 1 }, 1, all);
    k->unary_f32(KD_UNARY_ABS, size, d, all, 0, 0);
    k->dot_f32(value, size, size + w, pairs);
    *value *= by;
    memset(sum, 0, w * sizeof *sum);   /* of the neighbours before and after */
    memcpy(sum + w, size, pairs * sizeof *sum);
    k->axpy_f32(sum, size + w, pairs, 1);
    k->unary_f32(KD_UNARY_SCALE_ADD, sum, sum, all, (float)by, 0);
    k->unary_backward_f32(KD_UNARY_ABS, sum, sum, d, all, 0, 0, 0);
    if (c->grad[0]) memcpy(c->grad[0], sum, all * sizeof *sum);
    if (c->grad[1]) k->unary_f32(KD_UNARY_NEG, c->grad[1], sum, all, 0, 0);
    kd__scratch_put(c->ctx, d);
    return KD_OK;
}

/* exp(-2 g) (2 g)^p / p! */
static void coefficients(double gamma, double out[3])
{
    out[0] = kd__fixed_exp(-2 * gamma);
    out[1] = out[0] * 2 * gamma;
    out[2] = out[1] * gamma;
}

static kd_status kernels_run(const kd__core *c, size_t n, size_t w, float *scratch, double *value)
{
    float *dot[2] = { scratch, scratch + n * n }, *g = scratch + 2 * n * n, *unit[2], *norm[2];
    double co[3];
    coefficients((double)((const kd_loss_feature_desc *)c->user)->gamma, co);
    for (size_t side = 0; side < 2; side++) {
        unit[side] = g + n * n + side * n * w;
        norm[side] = g + n * n + 2 * n * w + side * n;
        c->kernels->l2_normalize_rows_f32(n, w, c->x[side], 1e-12f, unit[side], norm[side]);
        KD_TRY(kd__gram(c->ctx, unit[side], n, w, dot[side]));
    }
    *value = 0;
    for (size_t side = 0; side < 2; side++) {
        if (side && !c->grad[1]) return KD_OK;
        for (size_t i = 0; i < n * n; i++) {   /* K_s - K_t without its constant */
            double s = (double)dot[0][i], t = (double)dot[1][i], d = (s - t) * (co[1] + co[2] * (s + t));
            double own = side ? t : s, by = (side ? -2 : 2) / ((double)n * (double)n);
            if (!side) *value += d * d;
            g[i] = (float)(by * d * (co[1] + 2 * co[2] * own));
        }
        if (!side) *value /= (double)n * (double)n;
        if (!c->grad[side]) continue;
        KD_TRY(kd__gram_backward(c->ctx, g, unit[side], n, w, c->grad[side]));
        kd__unit_backward(c->kernels, n, w, unit[side], norm[side], c->grad[side]);
    }
    return KD_OK;
}

static kd_status kernel_matrices(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[0], w = c->in[0]->shape[1];
    float *scratch = kd__scratch_get(c->ctx, (3 * n * n + 2 * n * (w + 1)) * sizeof *scratch);
    kd_status status = scratch ? kernels_run(c, n, w, scratch, value) : kd__fail(KD_ERR_NOMEM, "cc: out of memory");
    kd__scratch_put(c->ctx, scratch);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *e[2];
    kd__embed_pair_forward(loss, tape, in, e);
    return kd__core_run(tape, "cc", e, 2, loss->desc.form == KD_FORM_PAPER ? kernel_matrices : neighbours, &loss->desc);
}

const kd__feature_method kd__feature_CC = {
    .formula = "mean_i sum_k d_i d_{i+1}, d = |e_s - e_t| (CODE); |K(e_s) - K(e_t)|^2 / B^2 (PAPER)", .defaults = defaults,
    .check = check, .adapters = kd__embed_pair, .apply = apply, .forms = 2
};
