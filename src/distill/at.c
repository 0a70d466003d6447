/* at.c - attention transfer (Zagoruyko, Komodakis 2017, arXiv 1612.03928).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of 1 / (B H W) sum_b |A_b(s) - A_b(t)|^2
 *     A(f) = a / max(|a|, 1e-12), a[h, w] = mean over channels of f[h, w, c]^2: where a map is active
 * Gradient: through A's length and the squares; to the student's map.
 * Divides by: samples times positions (B H W); PAPER: samples (B).
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels}; channels may differ.  Where heights or widths differ the larger
 *     map is average-pooled to the smaller one (PyTorch's adaptive windows) before it is squared.  Behind the ReLU of a stage.
 * Defaults: weight 1000 (CIFAR-100, maps of the three stages).
 * Forms: CODE: above.  PAPER: 1 / B sum_b |A_b(s) - A_b(t)|, the length and not its square; the paper's weight is then beta / 2
 *     = 500.
 * Traps: the two forms have other gradients, not only another scale, and the weight of one is wrong for the other by orders of
 *     magnitude; the division by H W is why CODE's weight is so large.  Summing channels instead of averaging them changes
 *     nothing but the 1e-12.  A map that is 0 throughout has A = 0 and no gradient; PAPER has none either where both maps
 *     agree.
 * Published: CIFAR-100 WRN-40-2 -> 16-2 74.08 (student 73.26), ResNet32x4 -> 8x4 73.44; ImageNet ResNet34 -> 18 70.70.
 * Cost: 2 H W doubles of scratch a thread. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 1000; }
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_pairs(d, 1, 1u << 3); }

/* a = A of row r, and how long it was. */
static double attention(const kd__core *c, size_t i, size_t r, size_t hw, double *a)
{
    const size_t channels = c->in[i]->shape[3];
    double square = 0;
    for (size_t p = 0; p < hw; p++) {
        const float *x = c->x[i] + (r * hw + p) * channels;
        c->kernels->dot_f32(&a[p], x, x, channels);
        a[p] /= (double)channels;
        square += a[p] * a[p];
    }
    const double length = sqrt(square), share = 1 / KD_MAX(length, 1e-12);
    for (size_t p = 0; p < hw; p++) a[p] *= share;
    return length;
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const kd__pair *pair = c->user;
    const size_t hw = c->in[0]->shape[1] * c->in[0]->shape[2], channels = c->in[0]->shape[3];
    const double n = (double)c->in[0]->shape[0];
    double *a = scratch, *d = a + hw, square = 0, along = 0, length = attention(c, 0, r, hw, a);
    attention(c, 1, r, hw, d);
    for (size_t p = 0; p < hw; p++) {
        d[p] = a[p] - d[p];
        square += d[p] * d[p];
        along += d[p] * a[p];
    }
    const double far = sqrt(square);
    const bool paper = pair->loss->desc.form == KD_FORM_PAPER;
    *value = paper ? far / n : square / (n * (double)hw);
    if (!c->grad[0]) return true;
    double scale = paper ? (far > 0 ? 1 / (far * n) : 0) : 2 / (n * (double)hw);   /* d value / d a = scale d */
    if (length < 1e-12) along = 0, scale = length > 0 ? scale / 1e-12 : 0;
    else scale /= length;
    for (size_t p = 0; p < hw; p++) {
        const size_t at = (r * hw + p) * channels;
        c->kernels->unary_f32(KD_UNARY_SCALE_ADD, c->grad[0] + at, c->x[0] + at, channels,
                              (float)(2 * scale * (d[p] - a[p] * along) / (double)channels), 0);
    }
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    return kd__core_rows(c, c->in[0]->shape[0], 2 * c->in[0]->shape[1] * c->in[0]->shape[2] * sizeof(double), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, kd__match_maps, core);
}

const kd__feature_method kd__feature_AT = {
    .formula = "1/(B H W) sum |A(s) - A(t)|^2, A: mean square over channels, of length 1", .defaults = defaults, .check = check,
    .apply = apply, .forms = 2
};
