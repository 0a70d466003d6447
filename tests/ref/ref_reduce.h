/* ref_reduce.h - sum, mean and maximum over axes, in double.
 * SPDX-License-Identifier: MIT */
#ifndef REF_REDUCE_H
#define REF_REDUCE_H
#include <stddef.h>
#include <stdint.h>

/* The element of the result (flat) that element `index` of x goes to.  axes: bit i is axis i; 0 is all. */
size_t ref_reduce_index(size_t rank, const size_t *shape, uint32_t axes, size_t index);
/* kind: 's'um, 'm'ean, 'x' maximum.  x has `count` elements, out `outs`; weight (may be NULL) gets, for each
 * element of x, d out / d x. */
void ref_reduce(char kind, size_t rank, const size_t *shape, uint32_t axes, const double *x, size_t count, double *out,
                size_t outs, double *weight);
#endif
