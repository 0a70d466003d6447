/* ref_pool.c - pooling from the formula.
 * SPDX-License-Identifier: MIT */
#include "ref_pool.h"
#include <math.h>

/* The index into x under tap (i, j) of output (n, r, q, c); 0 if it is padding. */
static int under(const ref_pool *s, size_t n, size_t r, size_t q, size_t c, size_t i, size_t j, size_t *at)
{
    const size_t a = r * s->stride_h + i, b = q * s->stride_w + j;
    if (a < s->pad_h || a >= s->h + s->pad_h || b < s->pad_w || b >= s->w + s->pad_w) return 0;
    *at = ((n * s->h + a - s->pad_h) * s->w + b - s->pad_w) * s->c + c;
    return 1;
}

#define EACH_OUTPUT                                              \
    for (size_t n = 0; n < s->n; n++)                            \
        for (size_t r = 0; r < s->oh; r++)                       \
            for (size_t q = 0; q < s->ow; q++)                   \
                for (size_t c = 0; c < s->c; c++)
#define EACH_TAP                          \
    for (size_t i = 0; i < s->kh; i++)    \
        for (size_t j = 0; j < s->kw; j++)

void ref_max_pool(const ref_pool *s, const double *x, double *y, size_t *from)
{
    EACH_OUTPUT {
        const size_t o = ((n * s->oh + r) * s->ow + q) * s->c + c;
        size_t at, best = 0;
        int any = 0;
        EACH_TAP {
            if (!under(s, n, r, q, c, i, j, &at)) continue;
            if (!any || x[at] > x[best] || (isnan(x[at]) && !isnan(x[best]))) best = at;
            any = 1;
        }
        y[o] = x[best];
        if (from) from[o] = best;
    }
}

void ref_avg_pool(const ref_pool *s, const double *x, double *y, double *size)
{
    EACH_OUTPUT {
        const size_t o = ((n * s->oh + r) * s->ow + q) * s->c + c;
        size_t at, count = 0;
        double sum = 0, all = 0;
        EACH_TAP {
            if (!under(s, n, r, q, c, i, j, &at)) continue;
            sum += x[at];
            all += fabs(x[at]);
            count++;
        }
        y[o] = sum / (double)count;
        if (size) size[o] = all / (double)count;
    }
}

void ref_avg_pool_backward(const ref_pool *s, const double *dy, double *dx)
{
    for (size_t k = 0; k < s->n * s->h * s->w * s->c; k++) dx[k] = 0;
    EACH_OUTPUT {
        const size_t o = ((n * s->oh + r) * s->ow + q) * s->c + c;
        size_t at, count = 0;
        EACH_TAP count += (size_t)under(s, n, r, q, c, i, j, &at);
        EACH_TAP if (under(s, n, r, q, c, i, j, &at)) dx[at] += dy[o] / (double)count;
    }
}
