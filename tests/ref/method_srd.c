/* method_srd.c - a linear projection and a log-sum distance.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double *standard(const double *f, size_t n, size_t m)
{
    double *y = mr_new(n * m);
    for (size_t j = 0; j < m; j++) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < n; i++) mean += f[i * m + j] / (double)n;
        for (size_t i = 0; i < n; i++) var += (f[i * m + j] - mean) * (f[i * m + j] - mean) / (double)n;
        for (size_t i = 0; i < n; i++) y[i * m + j] = (f[i * m + j] - mean) / sqrt(var + 1e-4);
    }
    return y;
}

static double *difference(const method_in *x)
{
    const size_t m = x->t[0].each;
    double *a = standard(mr_adapter_linear(x, "s0.linear", x->s[0].data, x->rows), x->rows, m);
    const double *b = standard(x->t[0].data, x->rows, m);
    for (size_t i = 0; i < x->rows * m; i++) a[i] -= b[i];
    return a;
}

static double loss(const method_in *x)
{
    const double *d = difference(x);
    double sum = 0;
    for (size_t i = 0; i < x->rows * x->t[0].each; i++) sum += pow(fabs(d[i]), x->alpha);
    return log(sum > 1e-12 ? sum : 1e-12);
}

/* The logarithm turns the relative error of the sum, alpha times that of a difference, into an absolute one. */
static double size(const method_in *x) { return fabs(loss(x)) + x->alpha; }

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = 1;
    x->s[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 2), draw(rand, 1, 2), draw(rand, 1, 6) } };
    x->t[0] = (method_tap){ .rank = 1, .size = { draw(rand, 1, 9) } };
}

static void square(kd_loss_feature_desc *d) { d->alpha = 2; }
static void fraction(kd_loss_feature_desc *d) { d->alpha = 2.5f; }

const method_feature method_feature_SRD = {
    .loss = loss, .size = size, .shapes = shapes,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "alpha 2", square }, { "alpha 2.5", fraction } },
};
