/* srd.c - a linear projection and a log-sum distance (Miles, Mikolajczyk 2024, arXiv 2303.11098).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = log max(sum over all elements of |N(x) - N(t)|^alpha, 1e-12)
 *     x = s W + b, each sample's tap flattened; N: each column minus its mean over the batch, over sqrt(its variance + 1e-4)
 * Gradient: alpha |d|^(alpha - 1) sign(d) / sum, d = N(x) - N(t), through N and the projection; none where the sum is below 1e-12.
 * Divides by: nothing: a logarithm of a sum over the batch.
 * Detached: the teacher.
 * Taps: one pair of any shapes: the pooled vectors of the last layer.
 * Adapters: s0.linear, the projection.
 * Defaults: weight 2, alpha 4.  The published runs add KL of the logits at weight 1 without T^2 (`kd_loss_distill`).
 * Forms: one.
 * Traps: the logarithm divides the gradient by the sum: its scale does not grow with batch or width.  N has no parameters and uses the
 *     batch's own statistics on every tape, the EVAL ones too, on both sides.  One sample: every column is its own mean, the sum is 0
 *     and the loss log 1e-12 with no gradient, where the public code has log 0.
 * Published: ImageNet ResNet34 -> 18 71.63.
 * Cost: the projection; two matrices of the teacher's tap in double as scratch. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 2, d->alpha = 4; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, ~0u));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps: it takes one", d->student_count);
    return d->alpha >= 1 && d->alpha <= 64 ? KD_OK : kd__fail(KD_ERR_ARG, "alpha %g is not in [1, 64]", (double)d->alpha);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    kd_layer_linear(kd__holder(root, "s0"), "linear", kd__feature_size(&d->student[0]), kd__feature_size(&d->teacher[0]), 1);
}

/* out = N(x); rstd [m]. */
static void standard(const float *x, size_t n, size_t m, double *out, double *rstd)
{
    memset(rstd, 0, m * sizeof *rstd);
    for (size_t i = 0; i < n * m; i += m)
        for (size_t j = 0; j < m; j++) rstd[j] += (double)x[i + j];
    for (size_t i = 0; i < n * m; i += m)
        for (size_t j = 0; j < m; j++) out[i + j] = (double)x[i + j] - rstd[j] / (double)n;
    memset(rstd, 0, m * sizeof *rstd);
    for (size_t i = 0; i < n * m; i += m)
        for (size_t j = 0; j < m; j++) rstd[j] += out[i + j] * out[i + j];
    for (size_t j = 0; j < m; j++) rstd[j] = 1 / sqrt(rstd[j] / (double)n + 1e-4);
    for (size_t i = 0; i < n * m; i += m)
        for (size_t j = 0; j < m; j++) out[i + j] *= rstd[j];
}

static double power(double x, double alpha)
{
    if (x <= 0) return 0;
    const uint64_t whole = (uint64_t)alpha;
    return (double)whole == alpha ? kd__fixed_pow(x, whole) : kd__fixed_exp(alpha * kd__fixed_log(x));
}

static void run(const kd__core *c, double *x, double *value)
{
    const kd_loss_feature_desc *desc = c->user;
    const double alpha = (double)desc->alpha;
    const size_t all = c->in[0]->count, n = c->in[0]->shape[0], m = all / n;
    double *d = x + all, *rstd = d + all, *g_sum = rstd + m, *gx_sum = g_sum + m, sum = 0;
    standard(c->x[1], n, m, d, rstd);
    standard(c->x[0], n, m, x, rstd);
    for (size_t i = 0; i < all; i++) {   /* d = derivative of the sum */
        const double difference = x[i] - d[i], size = fabs(difference), p = power(size, alpha);
        sum += p;
        d[i] = size > 0 ? alpha * p / difference : 0;
    }
    *value = kd__fixed_log(KD_MAX(sum, 1e-12));
    if (!c->grad[0]) return;
    const double share = sum >= 1e-12 ? 1 / sum : 0;
    memset(g_sum, 0, 2 * m * sizeof *g_sum);
    for (size_t i = 0; i < all; i += m)
        for (size_t j = 0; j < m; j++) g_sum[j] += d[i + j], gx_sum[j] += d[i + j] * x[i + j];
    for (size_t i = 0; i < all; i += m)
        for (size_t j = 0; j < m; j++)
            c->grad[0][i + j] = (float)(share * rstd[j] * (d[i + j] - (g_sum[j] + x[i + j] * gx_sum[j]) / (double)n));
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t all = c->in[0]->count, m = all / c->in[0]->shape[0];
    double *scratch = kd__scratch_get(c->ctx, (2 * all + 3 * m) * sizeof *scratch);
    if (!scratch) return kd__fail(KD_ERR_NOMEM, "out of memory");
    run(c, scratch, value);
    kd__scratch_put(c->ctx, scratch);
    return KD_OK;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *x = kd__adapter_forward(loss, tape, "s0.linear", kd_flatten(tape, in->student[0]));
    return kd__core_run(tape, loss->name, (kd_tensor *[]){ x, in->teacher[0] }, 2, core, &loss->desc);
}

const kd__feature_method kd__feature_SRD = {
    .formula = "log sum |N(S W + b) - N(T)|^alpha, N: columns standardised over the batch", .defaults = defaults, .check = check,
    .adapters = adapters, .apply = apply
};
