/* ref_loss.c - see ref_loss.h.
 * SPDX-License-Identifier: MIT */
#include "ref_loss.h"
#include "ref_softmax.h"
#include <math.h>
#include <stdlib.h>

double ref_smooth_l1(double d, double beta)
{
    return fabs(d) < beta ? d * d / (2 * beta) : fabs(d) - beta / 2;
}

double ref_smooth_l1_slope(double d, double beta)
{
    return fabs(d) < beta ? d / beta : d > 0 ? 1 : -1;
}

double ref_cross_entropy(size_t n, const double *logits, const double *target, double *grad)
{
    double *l = malloc((n + 1) * sizeof *l), loss = 0, mass = 0;
    ref_log_softmax(n, logits, 1, l);
    for (size_t i = 0; i < n; i++) {
        if (target[i] != 0) loss -= target[i] * l[i];
        mass += target[i];
    }
    for (size_t i = 0; grad && i < n; i++) grad[i] = mass * exp(l[i]) - target[i];
    free(l);
    return loss;
}

void ref_smooth_target(size_t n, size_t label, double s, double *target)
{
    for (size_t i = 0; i < n; i++) target[i] = s / (double)n + (i == label ? 1 - s : 0);
}

double ref_kl(size_t n, const double *p, const double *q, double t, double *grad_q)
{
    double *lp = malloc((2 * n + 1) * sizeof *lp), *lq = lp + n, kl = 0;
    ref_log_softmax(n, p, t, lp);
    ref_log_softmax(n, q, t, lq);
    for (size_t i = 0; i < n; i++)
        if (lp[i] != -INFINITY) kl += exp(lp[i]) * (lp[i] - lq[i]);
    for (size_t i = 0; grad_q && i < n; i++) grad_q[i] = (exp(lq[i]) - exp(lp[i])) / t;
    free(lp);
    return kl;
}

double ref_cosine_similarity(size_t n, const double *a, const double *b, double eps, double *da, double *db)
{
    double dot = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        dot += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    double norms = sqrt(aa) * sqrt(bb), d = norms > eps ? norms : eps;
    int free_norms = norms >= eps;   /* else the denominator is a constant */
    for (size_t i = 0; da && i < n; i++) da[i] = b[i] / d - (free_norms ? dot / d * a[i] / aa : 0);
    for (size_t i = 0; db && i < n; i++) db[i] = a[i] / d - (free_norms ? dot / d * b[i] / bb : 0);
    return dot / d;
}
