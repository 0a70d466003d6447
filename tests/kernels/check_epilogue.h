/* check_epilogue.h - the epilogue of products and convolutions, as a part of their kernels' checks.
 * SPDX-License-Identifier: MIT */
#ifndef CHECK_EPILOGUE_H
#define CHECK_EPILOGUE_H
#include "checkkd.h"
#include "kernels/epilogue.h"

enum { BIAS = 1, SCALE = 2, RESIDUAL = 4, RELU = 8, EVERYTHING = 15 };

/* Adds four operands for rows x n results, the first of them a[first]. */
static inline int epilogue_make(ck_case *c, int parts, size_t rows, size_t n)
{
    static const char *const names[] = { "bias", "scale", "shift" };
    static const int wanted[] = { BIAS, SCALE, SCALE };
    const int first = (int)c->arrays;
    for (int i = 0; i < 3; i++) {
        ck_floats(c, CK_IN, names[i], 1, parts & wanted[i] ? n : 0, 1);
        ck_shared(c);
    }
    ck_floats(c, CK_IN, "residual", parts & RESIDUAL ? rows : 0, n, 1);
    ck_strided(c);
    return first;
}

static inline kd__epilogue epilogue_args(const ck_case *c, int first, int parts)
{
    return (kd__epilogue){ .bias = parts & BIAS ? F(first) : NULL, .scale = parts & SCALE ? F(first + 1) : NULL,
                           .shift = parts & SCALE ? F(first + 2) : NULL, .residual = parts & RESIDUAL ? F(first + 3) : NULL,
                           .residual_row = ROW(first + 3), .relu = (parts & RELU) != 0 };
}

/* The end of result s at (i, j), operation by operation. */
static inline float epilogue_of(const ck_case *c, int first, int parts, size_t i, size_t j, float s)
{
    if (parts & BIAS) s = s + BEFORE(first)[j];
    if (parts & SCALE) s = fmaf(s, BEFORE(first + 1)[j], BEFORE(first + 2)[j]);
    if (parts & RESIDUAL) s = s + BEFORE(first + 3)[i * c->a[first + 3].n + j];
    return parts & RELU && 0 > s ? 0 : s;   /* NaN passes */
}

/* The same of the exact s, and what rounding errors are relative to. */
static inline double epilogue_exact(const ck_case *c, int first, int parts, size_t i, size_t j, double s, double *size)
{
    if (parts & BIAS) {
        s += (double)BEFORE(first)[j];
        *size += fabs((double)BEFORE(first)[j]);
    }
    if (parts & SCALE) {
        s = s * (double)BEFORE(first + 1)[j] + (double)BEFORE(first + 2)[j];
        *size = *size * fabs((double)BEFORE(first + 1)[j]) + fabs((double)BEFORE(first + 2)[j]);
    }
    if (parts & RESIDUAL) {
        const double r = (double)BEFORE(first + 3)[i * c->a[first + 3].n + j];
        s += r;
        *size += fabs(r);
    }
    return parts & RELU && 0 > s ? 0 : s;
}

/* What the kernels' ways do at the end: nothing, add, some parts, all. */
#define ENDS(way) way, way " add", way " bias relu", way " add and everything"
static inline bool ends_by_adding(const ck_case *c) { return c->way & 1; }
static inline int  ends_with(const ck_case *c) { return c->way % 4 == 2 ? BIAS | RELU : c->way % 4 == 3 ? EVERYTHING : 0; }
#endif
