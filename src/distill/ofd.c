/* ofd.c - a comprehensive overhaul of feature distillation (Heo, Kim, Yun, Park, Kwak, Choi 2019, arXiv 1904.01866).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs l = 0 .. L - 1 of 2^(l - L + 1) / B sum over elements of (x - t')^2 where x > t' or t > 0, else 0
 *     x = BN(conv 1x1(s)), t' = max(t, margin of the channel)
 *     margin = what the channel is on average where it is negative, from its batch norm (weight g, bias m), z = m / |g|:
 *              m - |g| phi(z) / Phi(-z) where Phi(-z) > 0.001, else -3 |g|
 * Gradient: 2 (x - t') where counted, through batch norm and convolution.
 * Divides by: samples (B).
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels}, shallow to deep, before the ReLU of each stage.  A teacher's map
 *     of another size is average-pooled to the student's.  The descriptor's teacher_bn_weight and teacher_bn_bias are those of
 *     the batch norm that made each teacher tap.
 * Adapters: s0, s1, ..: 0, a 1x1 convolution without bias to the teacher's channels; 1, batch norm.
 * State: the margins.
 * Defaults: weight 0.001 (CIFAR-100; ImageNet: 0.0001).
 * Forms: one.
 * Traps: the public code computes the margins with scipy and keeps them outside the model's state; here they come from the
 *     descriptor when the loss is made, with the same bits on every machine, and are part of a checkpoint.  A batch norm of
 *     weight 0 gives a constant channel: margin min(m, 0), not 0 / 0.  The published runs keep the teacher's batch norm in
 *     training mode on purpose: run the teacher's forward on a TRAIN tape, detached, if you want to follow them; an evaluated
 *     teacher is the default everywhere else.  The published weight belongs to sums over the map: it is not one of a mean.
 * Published: CIFAR-100 with a WRN-28-4 teacher, errors of six students: 20.89, 21.98, 24.08, 24.44, 17.80, 18.89.
 * Cost: the adapters' convolutions; a float a teacher channel; no scratch beside the gradient. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 0.001f; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 3));
    for (size_t i = 0; i < d->teacher_count; i++)
        if (!d->teacher_bn_weight || !d->teacher_bn_weight[i] || !d->teacher_bn_bias || !d->teacher_bn_bias[i])
            return kd__fail(KD_ERR_ARG, "teacher tap %zu: teacher_bn_weight or teacher_bn_bias is NULL, and both are needed", i);
    return KD_OK;
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    for (size_t i = 0; i < d->student_count; i++) kd__conv1x1_bn(root, i, d->student[i].size[2], d->teacher[i].size[2]);
}

static size_t margins_before(const kd_loss_feature_desc *d, size_t pair)
{
    size_t n = 0;
    for (size_t i = 0; i < pair; i++) n += d->teacher[i].size[2];
    return n;
}

static size_t state_floats(const kd_loss_feature_desc *d) { return margins_before(d, d->teacher_count); }

/* phi(z) / Phi(-z), or 0 where Phi(-z) <= 0.001.  Phi(y) = 1/2 + phi(y) (y + y^3/3 + y^5/15 + ..). */
static double mills(double z)
{
    const double y = KD_MIN(fabs(z), 9.0), phi = kd__fixed_exp(-y * y / 2) * 0x1.9884533d43651p-2;   /* 1 / sqrt(2 pi) */
    double term = y, sum = y;
    for (int k = 3; term > sum * 0x1p-60; k += 2) sum += term *= y * y / k;
    const double tail = z > 0 ? 0.5 - phi * sum : 0.5 + phi * sum;
    return tail > 0.001 ? phi / tail : 0;
}

static kd_status begin(kd_loss_feature *loss)
{
    const kd_loss_feature_desc *d = &loss->desc;
    float *margin = loss->state;
    for (size_t i = 0; i < d->teacher_count; i++)
        for (size_t k = 0; k < d->teacher[i].size[2]; k++) {
            const double m = (double)d->teacher_bn_bias[i][k], s = fabs((double)d->teacher_bn_weight[i][k]);
            const double share = s > 0 ? mills(m / s) : 0;
            *margin++ = (float)(s > 0 ? share > 0 ? m - s * share : -3 * s : KD_MIN(m, 0.0));
        }
    return KD_OK;
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const kd__pair *pair = c->user;
    const size_t n = c->in[0]->count / c->in[0]->shape[0], channels = c->in[0]->shape[3];
    const float *x = c->x[0] + r * n, *t = c->x[1] + r * n;
    const float *margin = pair->loss->state + margins_before(&pair->loss->desc, pair->i);
    float *d = c->grad[0] ? c->grad[0] + r * n : scratch;
    for (size_t p = 0; p < n; p += channels)
        for (size_t k = 0; k < channels; k++) {
            const float to = margin[k] > t[p + k] ? margin[k] : t[p + k], at = x[p + k] - to;
            d[p + k] = kd__keep(at, !(at <= 0) | (t[p + k] > 0));   /* NaN passes */
        }
    *value = kd__row_squares(c, d, n, 1);
    return true;
}

static kd_status core(const kd__core *c, double *value) { return kd__core_squares(c, row, value); }

static void connect(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t)
{
    char name[24];
    const size_t *size = loss->desc.student[i].size;
    *s = kd__adapter_forward(loss, tape, kd__pair_name(name, i), *s);
    *t = kd__adaptive_avg_pool(tape, *t, size[0], size[1]);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, connect, core);
}

const kd__feature_method kd__feature_OFD = {
    .formula = "sum_l 2^(l-L+1)/B sum (x - t')^2 (x > t' or t > 0), t' = max(t, margin)", .defaults = defaults, .check = check,
    .adapters = adapters, .state_floats = state_floats, .begin = begin, .apply = apply
};
