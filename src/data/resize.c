/* resize.c - u8 [height, width, 3] to another size as Pillow does it: columns first, then rows, each rounded.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"
#include <math.h>

/* One axis: `n` numbers, `step` apart, become `count`, as far apart; output i lies at (i + 0.5) scale + begin of the input. */
typedef struct axis {
    size_t n, step, count;
    double begin, scale;
    bool   cubic;
} axis;

/* The filter at a distance: a triangle, or Keys' cubic with a = -1/2. */
static double filter(double x, bool cubic)
{
    x = fabs(x);
    if (!cubic) return x < 1 ? 1 - x : 0;
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/* Of `rows` lines, each [n] of `inner` numbers side by side.  The filter is as wide as a pixel of the coarser of the two. */
static void stretch(const axis *a, const uint8_t *in, size_t in_row, uint8_t *out, size_t out_row, size_t rows, size_t inner)
{
    enum { KEPT = 32 };   /* weights, of few that are computed once */
    double kept[KEPT], reach = a->scale > 1 ? a->scale : 1, support = a->cubic ? 2 * reach : reach;
    for (size_t i = 0; i < a->count; i++) {
        double centre = ((double)i + 0.5) * a->scale + a->begin, total = 0;
        double low = centre - support + 0.5, high = centre + support + 0.5;
        size_t from = low > 0 ? (size_t)low : 0, to = high < (double)a->n ? (size_t)high : a->n;
#define WEIGHT(k) filter(((double)(k) + 0.5 - centre) / reach, a->cubic)
        for (size_t k = from; k < to; k++) {
            double w = WEIGHT(k);
            if (k - from < KEPT) kept[k - from] = w;
            total += w;
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < inner; c++) {
                double sum = 0;
                for (size_t k = from; k < to; k++)
                    sum += (k - from < KEPT ? kept[k - from] : WEIGHT(k)) * in[r * in_row + k * a->step + c];
                sum = sum / total + 0.5;
                out[r * out_row + i * a->step + c] = sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
            }
#undef WEIGHT
    }
}

void kd__resize(const uint8_t *in, size_t in_row, const size_t from[2], const size_t whole[2], const size_t to[2], bool cubic,
                uint8_t *half, uint8_t *out)
{
    axis a[2];
    for (int i = 0; i < 2; i++) {
        double scale = (double)from[i] / (double)whole[i];
        a[i] = (axis){ from[i], i ? 3 : 3 * to[1], to[i], (double)((whole[i] - to[i]) / 2) * scale, scale, cubic };
    }
    stretch(&a[1], in, in_row, half, 3 * to[1], from[0], 3);
    stretch(&a[0], half, 0, out, 0, 1, 3 * to[1]);
}
