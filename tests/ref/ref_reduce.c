/* ref_reduce.c - see ref_reduce.h.
 * SPDX-License-Identifier: MIT */
#include "ref_reduce.h"
#include <math.h>

size_t ref_reduce_index(size_t rank, const size_t *shape, uint32_t axes, size_t index)
{
    size_t at = 0, step = 1;
    for (size_t i = rank; i-- > 0;) {
        size_t k = index % shape[i];
        index /= shape[i];
        if (axes == 0 || (axes >> i & 1u)) continue;
        at += k * step;
        step *= shape[i];
    }
    return at;
}

void ref_reduce(char kind, size_t rank, const size_t *shape, uint32_t axes, const double *x, size_t count, double *out,
                size_t outs, double *weight)
{
    double each = outs ? (double)count / (double)outs : 0;   /* elements summed into one */
    for (size_t o = 0; o < outs; o++) out[o] = kind == 'x' ? -INFINITY : 0;
    for (size_t i = 0; i < count; i++) {
        size_t o = ref_reduce_index(rank, shape, axes, i);
        if (kind != 'x') out[o] += x[i];
        else if (x[i] > out[o]) out[o] = x[i];
    }
    if (kind == 'm')
        for (size_t o = 0; o < outs; o++) out[o] /= each;
    if (!weight) return;
    for (size_t i = 0; i < count; i++) {
        size_t o = ref_reduce_index(rank, shape, axes, i);
        weight[i] = kind == 's' ? 1 : kind == 'm' ? 1 / each : 0;
        if (kind != 'x' || x[i] != out[o]) continue;
        size_t first = 0;   /* the maximum in memory order */
        while (ref_reduce_index(rank, shape, axes, first) != o || x[first] != out[o]) first++;
        weight[i] = first == i;
    }
}
