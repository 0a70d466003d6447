/* epilogue.h - what happens to a result of a product or convolution before it is stored, in this order:
 *
 *     y(i, j) = max(0, fma(s(i, j) + bias(j), scale(j), shift(j)) + residual(i, j))
 *
 * each part where its pointer is given (`relu`: the maximum).  Each step rounds once, as the op of its own does, so a fused
 * layer has the bits of the separate ones.
 * SPDX-License-Identifier: MIT */
#ifndef KD__EPILOGUE_H
#define KD__EPILOGUE_H
#include <stddef.h>

typedef struct kd__epilogue {
    const float *bias;             /* NULL or [n] */
    const float *scale, *shift;    /* NULL or [n]: batch norm by running statistics */
    const float *residual;         /* NULL or rows of n, residual_row floats apart */
    size_t       residual_row;
    int          relu;
} kd__epilogue;

static inline int kd__epilogue_any(const kd__epilogue *e) { return e->bias || e->scale || e->residual || e->relu; }

/* The epilogue of the part that begins at row i and column j. */
static inline kd__epilogue kd__epilogue_at(const kd__epilogue *e, size_t i, size_t j)
{
    kd__epilogue part = *e;
    if (e->bias) part.bias += j;
    if (e->scale) part.scale += j, part.shift += j;
    if (e->residual) part.residual += i * e->residual_row + j;
    return part;
}
#endif
