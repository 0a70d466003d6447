/* method_crd.c - contrastive representation distillation: the first batch of a loss.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* The own sample, then negatives: all others in order, or K draws with replacement (K < N - 1) from a stream of the row's own. */
static size_t *samples_of(const method_in *x, size_t b, size_t *terms)
{
    size_t count = x->feature->samples, most = count - 1, own = (size_t)x->indices[b];
    size_t K = x->feature->negatives ? x->feature->negatives : 16384, *out;
    K = K < most ? K : most;
    out = (size_t *)mr_new(K + 1);
    kd_rng seed = kd_rng_make(x->feature->seed), draws = kd_rng_split(&seed, 0x63726402), row = kd_rng_split(&draws, b);
    out[0] = own;
    for (size_t k = 0; k < K; k++) {
        size_t other = K == most ? k : (size_t)((uint64_t)kd_rng_u32(&row) * most >> 32);
        out[k + 1] = other + (other >= own);
    }
    *terms = K + 1;
    return out;
}

/* embeddings of length 1 */
static double *embedding(const method_in *x, const char *name, const double *tap, size_t w)
{
    double *e = mr_adapter_linear(x, name, tap, x->rows);
    for (size_t b = 0; b < x->rows; b++) mr_unit(e + b * w, w, 1e-12, e + b * w);
    return e;
}

/* exp of the scores beside a memory, over T */
static double *scores(const method_in *x, const double *e, const double *memory, size_t w, size_t *terms)
{
    double *a = NULL;
    for (size_t b = 0; b < x->rows; b++) {
        size_t *index = samples_of(x, b, terms);
        if (!a) a = mr_new(x->rows * *terms);
        for (size_t k = 0; k < *terms; k++) a[b * *terms + k] = mr_dot(e + b * w, memory + index[k] * w, w) / x->T;
    }
    return a;
}

static double side(const method_in *x, const method_in *fixed, const char *name, size_t which)
{
    size_t w = mr_param(x, "s0.linear.bias")->count, N = x->feature->samples, terms = 0;
    const double *memory = mr_data(x, "state") + (which ? 0 : N * w);
    double *now = scores(x, embedding(x, name, which ? x->t[0].data : x->s[0].data, w), memory, w, &terms), total = 0;
    double *then = scores(fixed, embedding(fixed, name, which ? fixed->t[0].data : fixed->s[0].data, w), memory, w, &terms);
    double log_z = mr_log_sum_exp(then, x->rows * terms) + log((double)N / (double)(x->rows * terms));
    double m = (double)(terms - 1) / (double)N;
    for (size_t i = 0; i < x->rows * terms; i++) {
        double P = exp(now[i] - log_z);
        total += i % terms ? log1p((P + 1e-7) / m) : log(P + m + 1e-7) - (now[i] - log_z);
    }
    return total / (double)x->rows;
}

static double loss(const method_in *x)
{
    method_in fixed = *x;   /* Z is a constant of this batch */
    fixed.s[0] = x->s_fixed[0];
    for (size_t i = 0; i < x->params; i++) fixed.param[i].data = x->param[i].fixed;
    return side(x, &fixed, "s0.linear", 0) + side(x, &fixed, "t0.linear", 1);
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = 1;
    x->s[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 3), draw(rand, 1, 3), draw(rand, 2, 6) } };
    x->t[0] = (method_tap){ .rank = 1, .size = { draw(rand, 2, 12) } };
}

static void all(kd_loss_feature_desc *d) { d->width = 9; }
static void drawn(kd_loss_feature_desc *d) { d->width = 6, d->negatives = 11; }
static void one(kd_loss_feature_desc *d) { d->width = 20, d->negatives = 1; }

const method_feature method_feature_CRD = {
    .loss = loss, .shapes = shapes, .needs = METHOD_INDICES,
    .options = { { "all", all }, { "11 drawn", drawn }, { "1 drawn", one } },
};
