/* ref_shape.c - shape ops in double, one element at a time.
 * SPDX-License-Identifier: MIT */
#include "ref_shape.h"

enum { RANK = 8 };

size_t ref_position(size_t rank, const size_t *shape, const size_t *index)
{
    size_t p = 0;
    for (size_t k = 0; k < rank; k++) p = p * shape[k] + index[k];
    return p;
}

void ref_index(size_t rank, const size_t *shape, size_t position, size_t *index)
{
    for (size_t k = rank; k > 0; k--) {
        index[k - 1] = position % shape[k - 1];
        position /= shape[k - 1];
    }
}

static size_t count_of(size_t rank, const size_t *shape)
{
    size_t n = 1;
    for (size_t k = 0; k < rank; k++) n *= shape[k];
    return n;
}

void ref_permute(const double *x, size_t rank, const size_t *shape, const size_t *perm, double *y)
{
    size_t j[RANK], i[RANK], to[RANK];
    for (size_t k = 0; k < rank; k++) to[k] = shape[perm[k]];
    for (size_t p = 0; p < count_of(rank, shape); p++) {
        ref_index(rank, shape, p, j);
        for (size_t k = 0; k < rank; k++) i[k] = j[perm[k]];
        y[ref_position(rank, to, i)] = x[p];
    }
}

void ref_slice(const double *x, size_t rank, const size_t *shape, size_t axis, size_t begin, size_t end, double *y)
{
    size_t i[RANK], to[RANK];
    for (size_t k = 0; k < rank; k++) to[k] = k == axis ? end - begin : shape[k];
    for (size_t p = 0; p < count_of(rank, to); p++) {
        ref_index(rank, to, p, i);
        i[axis] += begin;
        y[p] = x[ref_position(rank, shape, i)];
    }
}

void ref_place(const double *part, size_t rank, const size_t *shape, size_t axis, size_t at, const size_t *whole, double *y)
{
    size_t i[RANK];
    for (size_t p = 0; p < count_of(rank, shape); p++) {
        ref_index(rank, shape, p, i);
        i[axis] += at;
        y[ref_position(rank, whole, i)] = part[p];
    }
}

void ref_pad(const double *x, size_t rank, const size_t *shape, const size_t *before, const size_t *after, double value,
             double *y)
{
    size_t i[RANK], to[RANK];
    for (size_t k = 0; k < rank; k++) to[k] = before[k] + shape[k] + after[k];
    for (size_t p = 0; p < count_of(rank, to); p++) {
        int inside = 1;
        ref_index(rank, to, p, i);
        for (size_t k = 0; k < rank; k++) {
            inside = inside && i[k] >= before[k] && i[k] < before[k] + shape[k];
            i[k] -= before[k];
        }
        y[p] = inside ? x[ref_position(rank, shape, i)] : value;
    }
}

void ref_embedding(const double *table, size_t width, const double *ids, size_t count, double *y)
{
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < width; k++) y[i * width + k] = table[(size_t)ids[i] * width + k];
}
