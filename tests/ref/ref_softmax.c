/* ref_softmax.c - see ref_softmax.h.
 * SPDX-License-Identifier: MIT */
#include "ref_softmax.h"
#include <math.h>
#include <stdlib.h>

void ref_log_softmax(size_t n, const double *x, double t, double *out)
{
    double top = -INFINITY, sum = 0;
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(x[i] <= 1e300)) bad = 1;
        if (x[i] > top) top = x[i];
    }
    for (size_t i = 0; i < n; i++) sum += exp((x[i] - top) / t);
    for (size_t i = 0; i < n; i++) out[i] = bad ? NAN : top == -INFINITY ? -INFINITY : (x[i] - top) / t - log(sum);
}

void ref_softmax(size_t n, const double *x, double t, double *out)
{
    ref_log_softmax(n, x, t, out);
    for (size_t i = 0; i < n; i++) out[i] = exp(out[i]);
}

void ref_softmax_grad(size_t n, const double *x, double t, const double *dy, double *dx)
{
    double *p = malloc((n + 1) * sizeof *p), dot = 0;
    ref_softmax(n, x, t, p);
    for (size_t i = 0; i < n; i++) dot += dy[i] * p[i];
    for (size_t i = 0; i < n; i++) dx[i] = p[i] * (dy[i] - dot) / t;
    free(p);
}

void ref_log_softmax_grad(size_t n, const double *x, double t, const double *dy, double *dx)
{
    double *p = malloc((n + 1) * sizeof *p), sum = 0;
    ref_softmax(n, x, t, p);
    for (size_t i = 0; i < n; i++) sum += dy[i];
    for (size_t i = 0; i < n; i++) dx[i] = (dy[i] - p[i] * sum) / t;
    free(p);
}
