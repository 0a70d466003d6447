/* srd.c - a linear projection and a log-sum distance (Miles, Mikolajczyk 2024, arXiv 2303.11098).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = log max(sum over all elements of |N(x) - N(t)|^alpha, 1e-12)
 *     x = s W + b, each sample's tap flattened; N: each column minus its mean over the batch, over sqrt(its variance + 1e-4)
 * Gradient: alpha |d|^(alpha - 1) sign(d) / sum, d = N(x) - N(t), through N and the projection; none where the sum is
 *     below 1e-12.
 * Divides by: nothing: a logarithm of a sum over the batch.
 * Detached: the teacher.
 * Taps: one pair of any shapes: the pooled vectors of the last layer.
 * Adapters: s0.linear, the projection.
 * Defaults: weight 2, alpha 4 (1 to 8).  The published runs add KL of the logits at weight 1 without T^2 (`kd_loss_distill`).
 * Forms: one.
 * Traps: the logarithm divides the gradient by the sum: its scale does not grow with batch or width.  N has no parameters
 *     and uses the batch's own statistics on every tape, the EVAL ones too, on both sides.  One sample: every column is its
 *     own mean, the sum is 0 and the loss log 1e-12 with no gradient, where the public code has log 0.
 * Published: ImageNet ResNet34 -> 18 71.63.
 * Cost: the projection; four matrices of the teacher's tap as scratch. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 2, d->alpha = 4; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, ~0u));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps: it takes one", d->student_count);
    return d->alpha >= 1 && d->alpha <= 8 ? KD_OK : kd__fail(KD_ERR_ARG, "alpha %g is not in [1, 8]", (double)d->alpha);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    kd_layer_linear(kd__holder(root, "s0"), "linear", kd__feature_size(&d->student[0]), kd__feature_size(&d->teacher[0]), 1);
}

static kd__operand rows_of(const float *x, size_t m) { return (kd__operand){ x, m, 1 }; }
static kd__operand row_of(const float *x) { return (kd__operand){ x, 0, 1 }; }

/* out = N(x), its columns' 1 / deviation in rstd [m]; square [n, m], mean [m] are room.  Centred twice: once leaves the rounding
 * of the mean, which is all there is in a column whose numbers are equal. */
static void standard(const kd__kernels *k, const float *x, size_t n, size_t m, float *out, float *rstd, float *square,
                     float *mean)
{
    kd__centre(k, x, n, m, mean, out);
    kd__centre(k, out, n, m, mean, out);
    k->binary_f32(KD_BINARY_MUL, square, m, rows_of(out, m), rows_of(out, m), n, m);
    k->column_sums_f32(rstd, square, n, m, m, 0);
    for (size_t j = 0; j < m; j++) rstd[j] = (float)(1 / sqrt((double)rstd[j] / (double)n + 1e-4));
    k->binary_f32(KD_BINARY_MUL, out, m, rows_of(out, m), row_of(rstd), n, m);
}

/* g = alpha |d|^(alpha - 1) sign d; the sum of |d|^alpha.  size is room. */
static double powers(const kd__kernels *k, const float *d, size_t n, double alpha, float *g, float *size)
{
    const uint64_t whole = alpha >= 2 ? (uint64_t)alpha : 0;
    double sum = 0;
    if ((double)whole == alpha) {
        memcpy(g, d, n * sizeof *g);
        k->unary_f32(KD_UNARY_ABS, size, d, n, 0, 0);
        for (uint64_t i = 2; i < whole; i++) k->binary_f32(KD_BINARY_MUL, g, n, rows_of(g, n), rows_of(size, n), 1, n);
        k->dot_f32(&sum, g, d, n);
        k->unary_f32(KD_UNARY_SCALE_ADD, g, g, n, (float)alpha, 0);
        return sum;
    }
    for (size_t i = 0; i < n; i++) {
        const double x = fabs((double)d[i]), p = x > 0 ? kd__fixed_exp(alpha * kd__fixed_log(x)) : 0;
        sum += p;
        g[i] = x > 0 ? (float)(alpha * p / (double)d[i]) : 0;
    }
    return sum;
}

static void run(const kd__core *c, float *x, double *value)
{
    const kd_loss_feature_desc *desc = c->user;
    const kd__kernels *k = c->kernels;
    const size_t all = c->in[0]->count, n = c->in[0]->shape[0], m = all / n;
    float *d = x + all, *g = d + all, *room = g + all, *rstd = room + all, *mean = rstd + m, *along = mean + m;
    standard(k, c->x[1], n, m, d, rstd, g, mean);
    standard(k, c->x[0], n, m, x, rstd, g, mean);
    k->binary_f32(KD_BINARY_SUB, d, all, rows_of(x, all), rows_of(d, all), 1, all);
    const double sum = powers(k, d, all, (double)desc->alpha, g, room), share = sum >= 1e-12 ? 1 / sum : 0;
    *value = kd__fixed_log(KD_MAX(sum, 1e-12));
    if (!c->grad[0]) return;
    k->column_sums_f32(mean, g, n, m, m, 0);
    k->binary_f32(KD_BINARY_MUL, d, m, rows_of(g, m), rows_of(x, m), n, m);
    k->column_sums_f32(along, d, n, m, m, 0);
    for (size_t j = 0; j < m; j++) {
        mean[j] /= (float)n;
        along[j] /= (float)n;
        rstd[j] = (float)((double)rstd[j] * share);
    }
    k->binary_f32(KD_BINARY_MUL, d, m, rows_of(x, m), row_of(along), n, m);
    k->binary_f32(KD_BINARY_SUB, g, m, rows_of(g, m), rows_of(d, m), n, m);
    k->binary_f32(KD_BINARY_SUB, g, m, rows_of(g, m), row_of(mean), n, m);
    k->binary_f32(KD_BINARY_MUL, c->grad[0], m, rows_of(g, m), row_of(rstd), n, m);
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t all = c->in[0]->count, m = all / c->in[0]->shape[0];
    float *scratch = kd__scratch_get(c->ctx, (4 * all + 3 * m) * sizeof *scratch);
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
