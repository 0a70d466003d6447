/* ab.c - activation boundaries (Heo, Lee, Yun, Choi 2019, arXiv 1811.03233).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs l = 0 .. L - 1 of 2^(l - L + 1) 3 / (1000 B) sum over elements of d^2
 *     d = s + m where s > -m and t <= 0;  s - m where s <= m and t > 0;  else 0
 *     s, t: maps before the ReLU, s through the connector; m: the margin
 * Gradient: 2 d by the pair's factor; d is continuous in s.
 * Divides by: samples (B), times 1000 / 3.
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels}, shallow to deep, taken before the ReLU of each stage.
 * Adapters: s0, s1, ..: the connector of each pair whose shapes differ: conv and bn as in FitNet's regressor, without its ReLU;
 *     none where the shapes agree.
 * Defaults: weight 1, margin (alpha) 1.
 * Stages: this is an initialisation.  First train the student's stages (not its classifier) and the connectors with this loss
 *     alone, 30 epochs in the public code; then throw the loss away and train the whole student with cross-entropy
 *     (kd_loss_distill with soft_weight 0) from there.  Nothing prevents adding the two, but no published number belongs to
 *     that.
 * Forms: one.
 * Traps: taps behind the ReLU carry no boundary (t <= 0 would be t = 0, and s > -m always).  The public code reads a weight for
 *     the second stage and multiplies 0 with it.  The factor 3 / 1000 is the code's, kept because its learning rates belong to
 *     it.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 73.17, WRN-40-2 -> 16-2 72.50 (student 73.26).
 * Cost: the connectors' convolutions; no scratch beside the gradient. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->alpha = 1; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (!(d->alpha >= 0)) return kd__fail(KD_ERR_ARG, "alpha %g, the margin, is negative", (double)d->alpha);
    KD_TRY(kd__feature_pairs(d, 1, 1u << 3));
    for (size_t i = 0; i < d->student_count; i++)
        if (!kd__feature_shape_same(&d->student[i], &d->teacher[i]) && !kd__conv_reg_fits(&d->student[i], &d->teacher[i]))
            return kd__feature_misfit(d, i, "the connector needs the student's map to be twice, half, or at least as large");
    return KD_OK;
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    for (size_t i = 0; i < d->student_count; i++)
        if (!kd__feature_shape_same(&d->student[i], &d->teacher[i]))
            kd__conv_reg(root, kd__pair_name(name, i), &d->student[i], &d->teacher[i], false);
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const kd__pair *pair = c->user;
    const size_t n = c->in[0]->count / c->in[0]->shape[0];
    const float *s = c->x[0] + r * n, *t = c->x[1] + r * n, m = pair->loss->desc.alpha;
    float *d = c->grad[0] ? c->grad[0] + r * n : scratch;
    for (size_t i = 0; i < n; i++) {
        const bool active = t[i] > 0;
        const float below = s[i] - m, above = s[i] + m;
        d[i] = kd__keep(below, active & !(below >= 0)) + kd__keep(above, !active & !(above <= 0));   /* NaN passes */
    }
    *value = kd__row_squares(c, d, n, 0.003);
    return true;
}

static kd_status core(const kd__core *c, double *value) { return kd__core_squares(c, row, value); }

static void connect(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t)
{
    char name[24];
    (void)t;
    if (!kd__feature_shape_same(&loss->desc.student[i], &loss->desc.teacher[i]))
        *s = kd__conv_reg_forward(loss, tape, kd__pair_name(name, i), *s, i);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, connect, core);
}

const kd__feature_method kd__feature_AB = {
    .formula = "sum_l 2^(l-L+1) 3/(1000 B) sum [(s+m)^2 (s > -m, t <= 0) + (s-m)^2 (s <= m, t > 0)]", .defaults = defaults,
    .check = check, .adapters = adapters, .apply = apply
};
