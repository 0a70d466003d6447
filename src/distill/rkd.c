/* rkd.c - distances and angles between samples (Park, Kim, Lu, Cho 2019, arXiv 1904.05068).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of alpha / B^2 sum_ij h(D_ij - D'_ij) + beta / B^3 sum_ijk h(A_ijk - A'_ijk)
 *     D_ij = d_ij / mean of d_kl over k != l,  d_ij = |s_i - s_j|, at least 1e-6 where i != j;  A_ijk = cos of the angle at s_i
 *     between s_j and s_k, 0 where one of them is s_i;  h(x) = x^2 / 2, |x| - 1/2 from 1 on (smooth L1); D', A' of the teacher
 * Gradient: the mean distance is not detached; duplicates of a sample have no direction and give none.
 * Divides by: pairs (B^2) and triples (B^3), those counted whose distance or angle is 0 by definition.
 * Detached: the teacher.
 * Taps: one or more pairs of any shapes, as many of each, each sample flattened.
 * Defaults: weight 1, alpha 25 (distances), beta 50 (angles) (CIFAR-100, the pooled vector); 1 and 2 for metric learning.
 * Forms: one.
 * Traps: public code keeps B^3 cosines and B^2 D differences; here everything comes from the B^2 products of centred features,
 *     in double, where |a|^2 + |b|^2 - 2ab does not cancel.  Duplicate samples: there the root of a clamp has a slope of 5e5 and
 *     a normalised zero one of 1e12; here samples nearer than 1e-12 add nothing.  One port normalises features first: another
 *     loss.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 71.90, WRN-40-2 -> 16-2 73.35.
 * Cost: 7 B^2 doubles and B D floats of scratch; B^3 time. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->alpha = 25, d->beta = 50; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (d->alpha < 0 || d->beta < 0)
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g: both must be at least 0", (double)d->alpha, (double)d->beta);
    return kd__feature_pairs(d, 1, ~0u);
}

/* One side of a batch, [n, stride], zeros behind n: products of its centred samples, and 1 / distance, 0 for duplicates: nearer
 * than 1e-12. */
typedef struct rkd_side { double *gram, *inverse, mean; } rkd_side;

typedef struct rkd_job {
    size_t   n, stride;
    rkd_side s, t;
    double   alpha, beta;   /* divided by pairs and triples */
    double  *grad;          /* d loss / d s.gram; NULL: not wanted */
    double  *apex, *side;   /* of the angles at i with j on a side, at [j, i]: the gradient of their product, and of d_ij^2 */
    double  *value;         /* [n]: the angles' of each row */
} rkd_job;

/* At least 1e-6, where it is constant. */
static bool rkd_is_clamped(double inverse) { return inverse == 0 || inverse > 1e6; }
static double rkd_distance(double inverse) { return rkd_is_clamped(inverse) ? 1e-6 : 1 / inverse; }

static void rkd_measure(rkd_side *side, size_t n, size_t stride)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double d = i == j ? 0 : kd__gram_distance(side->gram, stride, i, j), *inverse = &side->inverse[i * stride + j];
            *inverse = d > 1e-24 ? 1 / sqrt(d) : 0;
            if (i != j) sum += rkd_distance(*inverse);
        }
    side->mean = n > 1 ? sum / ((double)n * (double)(n - 1)) : 1;
}

static double clamped(double x) { return x < -1 ? -1 : x > 1 ? 1 : x; }

static double rkd_distances(const rkd_job *job)
{
    const size_t n = job->n;
    const double ms = job->s.mean, mt = job->t.mean;
    double value = 0, through_mean = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0, at = i * job->stride; j < n; j++, at++) {
            if (i == j) continue;
            double d = rkd_distance(job->s.inverse[at]) / ms, x = d - rkd_distance(job->t.inverse[at]) / mt, g = clamped(x);
            value += g * (x - 0.5 * g);
            through_mean += g * d;
        }
    through_mean /= n > 1 ? (double)n * (double)(n - 1) : 1;
    for (size_t i = 0; job->grad && i < n; i++)
        for (size_t j = 0, at = i * job->stride; j < n; j++, at++) {
            const double inverse = job->s.inverse[at];
            if (i == j || rkd_is_clamped(inverse)) continue;
            double g = clamped(1 / inverse / ms - rkd_distance(job->t.inverse[at]) / mt);
            double by_square = job->alpha * (g - through_mean) / ms * 0.5 * inverse;   /* d_ij^2 = G_ii + G_jj - 2 G_ij */
            job->grad[i * job->stride + i] += by_square;
            job->grad[j * job->stride + j] += by_square;
            job->grad[at] -= 2 * by_square;
        }
    return value * job->alpha;
}

/* Two angles at once, in registers that every machine has: the same bits everywhere. */
typedef __attribute__((vector_size(16))) double rkd_f64x2;
typedef __attribute__((vector_size(16))) long long rkd_i64x2;
typedef __attribute__((vector_size(16), aligned(8), may_alias)) double rkd_loose;

/* The angles with s_j on the first side: at all i, with all k on the second. */
static void rkd_angles(size_t j, void *arg)
{
    const rkd_job *job = arg;
    const size_t n = job->n, stride = job->stride;
    const double *gs = job->s.gram + j * stride, *gt = job->t.gram + j * stride;
    double *grad = job->grad ? job->grad + j * stride : NULL;
    rkd_f64x2 value = { 0 };
    const rkd_f64x2 one = { 1, 1 }, beta = { job->beta, job->beta };
    for (size_t i = 0; i < n; i++) {
        const double *as = job->s.gram + i * stride, *at = job->t.gram + i * stride;
        const double *rs = job->s.inverse + i * stride, *rt = job->t.inverse + i * stride;
        const double us = as[i] - as[j], ut = at[i] - at[j];   /* (s_j - s_i)(s_k - s_i) = G_jk - G_ik + (G_ii - G_ij) */
        rkd_f64x2 q_sum = { 0 }, a_sum = { 0 };
        for (size_t k = 0; k < stride; k += 2) {
            rkd_f64x2 r = *(const rkd_loose *)(rs + k) * rs[j], r_t = *(const rkd_loose *)(rt + k) * rt[j];
            rkd_f64x2 a = (*(const rkd_loose *)(gs + k) - *(const rkd_loose *)(as + k) + us) * r;
            rkd_f64x2 x = a - (*(const rkd_loose *)(gt + k) - *(const rkd_loose *)(at + k) + ut) * r_t;
            rkd_i64x2 over = x > one, under = x < -one;
            rkd_f64x2 g = (rkd_f64x2)(((rkd_i64x2)x & ~(over | under)) | ((rkd_i64x2)one & over) | ((rkd_i64x2)-one & under));
            value += g * (x - 0.5 * g);
            if (!grad) continue;
            rkd_f64x2 q = g * r;
            *(rkd_loose *)(grad + k) += beta * q;
            q_sum += q;
            a_sum += g * a;
        }
        if (!grad) continue;
        job->apex[j * stride + i] = job->beta * (q_sum[0] + q_sum[1]);
        job->side[j * stride + i] = -job->beta * rs[j] * rs[j] * (a_sum[0] + a_sum[1]);
    }
    job->value[j] = job->beta * (value[0] + value[1]);
}

/* What the angles' other products, those with their apex, and lengths add to the gradient. */
static void rkd_gather(const rkd_job *job)
{
    const size_t stride = job->stride;
    for (size_t j = 0; j < job->n; j++)
        for (size_t i = 0; i < job->n; i++) {
            double apex = job->apex[j * stride + i], side = job->side[j * stride + i];
            job->grad[j * stride + i] -= 2 * (apex + side);
            job->grad[i * stride + i] += apex + side;
            job->grad[j * stride + j] += side;
        }
}

static kd_status run(const kd__core *c, rkd_job *job, double *memory, float *centred, double *value)
{
    const size_t n = job->n, stride = job->stride, square = n * stride, d = c->in[0]->count / n, dt = c->in[1]->count / n;
    double **const part[] = { &job->s.gram, &job->s.inverse, &job->t.gram, &job->t.inverse, &job->grad, &job->apex, &job->side };
    memset(memory, 0, 7 * square * sizeof *memory);
    for (size_t i = 0; i < KD_COUNT(part); i++) *part[i] = memory + i * square;
    if (!c->grad[0]) job->grad = NULL;
    job->value = memory + 7 * square;
    float *mean = centred + n * KD_MAX(d, dt);
    kd__centre(c->kernels, c->x[1], n, dt, mean, centred);
    kd__gram_f64(c->ctx, centred, n, dt, job->t.gram, stride);
    rkd_measure(&job->t, n, stride);
    kd__centre(c->kernels, c->x[0], n, d, mean, centred);
    kd__gram_f64(c->ctx, centred, n, d, job->s.gram, stride);
    rkd_measure(&job->s, n, stride);
    *value = job->alpha > 0 ? rkd_distances(job) : 0;
    if (job->beta > 0) {
        kd__parallel(c->ctx, n, rkd_angles, job);
        for (size_t i = 0; i < n; i++) *value += job->value[i];
        if (job->grad) rkd_gather(job);
    }
    if (!job->grad) return KD_OK;
    float *g = (float *)(void *)job->s.inverse;   /* done with */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) g[i * n + j] = (float)job->grad[i * stride + j];
    return kd__gram_backward(c->ctx, g, centred, n, d, c->grad[0]);
}

static kd_status core(const kd__core *c, double *value)
{
    const kd_loss_feature_desc *d = c->user;
    const size_t n = c->in[0]->shape[0], widest = KD_MAX(c->in[0]->count, c->in[1]->count) / n;
    const double pairs = (double)n * (double)n;
    rkd_job job = { .n = n, .stride = (n + 1) & ~(size_t)1, .alpha = (double)d->alpha / pairs,
                    .beta = (double)d->beta / (pairs * (double)n) };
    double *memory = kd__scratch_get(c->ctx, (7 * n * job.stride + n) * sizeof *memory);
    float *centred = kd__scratch_get(c->ctx, (n + 1) * widest * sizeof *centred);
    kd_status status = memory && centred ? run(c, &job, memory, centred, value) : kd__fail(KD_ERR_NOMEM, "rkd: out of memory");
    kd__scratch_put(c->ctx, centred);
    kd__scratch_put(c->ctx, memory);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__core_pairs(loss, tape, in, core);
}

const kd__feature_method kd__feature_RKD = {
    .formula = "alpha mean_ij h(D - D') + beta mean_ijk h(A - A'), D: distances, A: cosines of angles, h: smooth L1",
    .defaults = defaults, .check = check, .apply = apply
};
