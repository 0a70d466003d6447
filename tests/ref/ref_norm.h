/* ref_norm.h - the normalisations and their gradients, in double, from the formulas.
 * SPDX-License-Identifier: MIT
 *
 * One definition serves batch, layer and group norm: element i belongs to set set[i] (its mean and variance) and to
 * channel channel[i] (its weight and bias). */
#ifndef REF_NORM_H
#define REF_NORM_H
#include <stddef.h>

typedef struct ref_norm {
    size_t count, sets, channels;
    const size_t *set, *channel;   /* [count] each */
    const double *x;               /* [count] */
    const double *weight, *bias;   /* [channels] or NULL */
    const double *mean, *var;      /* [sets] given (constants), or NULL: of the data, variance biased */
    double eps;
} ref_norm;

/* y [count]; mean, var [sets] (may be NULL) get the statistics used. */
void ref_norm_forward(const ref_norm *n, double *y, double *mean, double *var);
/* Gradients of sum(dy y): dx [count], dweight, dbias [channels]. */
void ref_norm_backward(const ref_norm *n, const double *dy, double *dx, double *dweight, double *dbias);

/* y = x / max(|x|, eps) for each row of n, and dx for given dy (NULL: not wanted). */
void ref_l2_normalize(size_t rows, size_t n, const double *x, double eps, double *y, const double *dy, double *dx);
#endif
