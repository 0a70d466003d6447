/* row_ops.h - pieces of several methods on outputs: sums under a mask, rows without a class, fixed targets, ranks.
 * SPDX-License-Identifier: MIT */
#ifndef KD__ROW_OPS_H
#define KD__ROW_OPS_H
#include "distill/loss.h"

/* sum a b; where a is 0 whatever b is, infinities included, adds 0. */
double kd__dot_masked(const kd__kernels *k, const float *a, const float *b, size_t n);
/* out = row, its entry `hole` -inf. */
void   kd__row_without(float *out, const float *row, size_t n, size_t hole);
/* y += a x + b */
void   kd__row_add(const kd__kernels *k, float *y, const float *x, size_t n, float a, float b);
/* -sum target log softmax(row / T) of row r for the target `yes` at the class `label`, `no` at the others, yes + (classes - 1) no = 1; no
 * class differs if label is SIZE_MAX.  coef / T (softmax - target) is added to the row's gradient.  scratch: 2 classes floats. */
double kd__two_level_row(const kd__soft *s, size_t r, size_t label, double yes, double no, float temperature, float *scratch);
/* -sum p log q for q = softmax(logits / T) that is there already: one pass without exponentials.  work: n floats; afterwards the logits
 * less the largest, whose log q is *top (may be NULL). */
double kd__cross_row(const kd__kernels *k, const float *p, const float *logits, const float *q, size_t n, float temperature, float *work,
                     double *top);
/* The row's gradient += coef / T q (g - sum q g), which is dD / d logits for g = dD / dq (of classes with q 0: anything finite); g is
 * overwritten. */
void   kd__through_softmax(const kd__soft *s, size_t r, float *g, const float *q);
/* One of the two without a branch, which what is random would mispredict. */
static inline float kd__choose(bool first, float a, float b)
{
    union { float f; uint32_t u; } x = { a }, y = { b };
    const uint32_t mask = 0u - (uint32_t)first;
    x.u = (x.u & mask) | (y.u & ~mask);
    return x.f;
}
/* order[i] = the column of the i-th largest of key[n], equal ones from left to right, NaN before +inf; key comes back sorted.
 * scratch: KD__SORT_FLOATS(n) floats, none of which is key or order. */
#define KD__SORT_FLOATS(n) (4 * (n) + 2)
void   kd__sort_descending(float *key, uint32_t *order, size_t n, float *scratch);
#endif
