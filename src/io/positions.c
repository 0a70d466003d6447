/* positions.c - the positions of a vision transformer for a grid of another size.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"

bool kd__positions_grid(const size_t *shape, size_t rank, size_t *side, size_t *special)
{
    if (rank != 3 || shape[0] != 1 || shape[1] < 2 || shape[1] > (size_t)1 << 30) return false;
    for (*side = 1; (*side + 1) * (*side + 1) <= shape[1]; ++*side) { }
    *special = shape[1] - *side * *side;
    return *special == 1 || *special == 2;
}

/* Keys' cubic with a = -1/2. */
static double cubic(double x)
{
    x = x < 0 ? -x : x;
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

typedef struct resample { size_t from, to; double scale, wide; } resample;   /* wide: how far the filter is stretched */

/* The weight of point j for point i of the new grid, before they are made to add up to 1. */
static double tap_weight(const resample *r, size_t i, size_t j)
{
    return cubic(((double)j + 0.5 - r->scale * ((double)i + 0.5)) / r->wide);
}

/* One axis: out[.., i, ..] from in[.., j, ..], `inner` floats apart, `outer` times. */
static void resample_axis(const resample *r, size_t outer, size_t inner, const double *in, double *out)
{
    for (size_t i = 0; i < r->to; i++) {
        double sum = 0;
        for (size_t j = 0; j < r->from; j++) sum += tap_weight(r, i, j);
        for (size_t o = 0; o < outer; o++) memset(out + (o * r->to + i) * inner, 0, inner * sizeof *out);
        for (size_t j = 0; j < r->from; j++) {
            const double w = tap_weight(r, i, j) / sum;
            if (w == 0) continue;
            for (size_t o = 0; o < outer; o++)
                for (size_t c = 0; c < inner; c++) out[(o * r->to + i) * inner + c] += w * in[(o * r->from + j) * inner + c];
        }
    }
}

kd_status kd__positions_resize(kd_context *ctx, const float *in, size_t from, size_t special, size_t width, float *out, size_t to)
{
    const resample r = { from, to, (double)from / (double)to, from > to ? (double)from / (double)to : 1 };
    const size_t largest = KD_MAX(from, to);
    size_t floats;
    if (!kd__mul(largest * largest, width, &floats) || floats > SIZE_MAX / 32) return kd__fail(KD_ERR_OVERFLOW, "positions");
    double *a = kd__alloc_array(ctx, 2 * floats, sizeof *a), *b = a + (a ? floats : 0);
    if (!a) return KD_ERR_NOMEM;
    memcpy(out, in, special * width * sizeof *out);
    for (size_t i = 0; i < from * from * width; i++) a[i] = (double)in[special * width + i];
    resample_axis(&r, from, width, a, b);          /* [from, from] -> [from, to] */
    resample_axis(&r, 1, to * width, b, a);        /* -> [to, to] */
    for (size_t i = 0; i < to * to * width; i++) out[special * width + i] = (float)a[i];
    kd__free(ctx, a);
    return KD_OK;
}
