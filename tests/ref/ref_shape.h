/* ref_shape.h - shape ops in double, one element at a time.
 * SPDX-License-Identifier: MIT */
#ifndef REF_SHAPE_H
#define REF_SHAPE_H
#include <stddef.h>

/* Row-major position of an index, and back. */
size_t ref_position(size_t rank, const size_t *shape, const size_t *index);
void   ref_index(size_t rank, const size_t *shape, size_t position, size_t *index);

/* y[i] = x[j], j[perm[k]] = i[k]; shape is x's */
void ref_permute(const double *x, size_t rank, const size_t *shape, const size_t *perm, double *y);
/* y[i] = x[i + begin along axis], the axis cut to [begin, end) */
void ref_slice(const double *x, size_t rank, const size_t *shape, size_t axis, size_t begin, size_t end, double *y);
/* Part of `shape` written into y of `whole` at offset `at` along axis. */
void ref_place(const double *part, size_t rank, const size_t *shape, size_t axis, size_t at, const size_t *whole, double *y);
/* y[i] = value outside, x[i - before] inside; sizes are before + shape + after */
void ref_pad(const double *x, size_t rank, const size_t *shape, const size_t *before, const size_t *after, double value,
             double *y);
void ref_embedding(const double *table, size_t width, const double *ids, size_t count, double *y);
#endif
