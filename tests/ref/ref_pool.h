/* ref_pool.h - pooling from the formula, NHWC.
 * SPDX-License-Identifier: MIT */
#ifndef REF_POOL_H
#define REF_POOL_H
#include <stddef.h>

typedef struct ref_pool { size_t n, h, w, c, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w; } ref_pool;

/* y and, if not NULL, the index into x of each maximum: the first, or the first NaN. */
void ref_max_pool(const ref_pool *s, const double *x, double *y, size_t *from);
/* y; size, if not NULL: the mean of magnitudes. */
void ref_avg_pool(const ref_pool *s, const double *x, double *y, double *size);
/* The gradient of sum dy y for the average. */
void ref_avg_pool_backward(const ref_pool *s, const double *dy, double *dx);
#endif
