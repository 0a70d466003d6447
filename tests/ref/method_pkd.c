/* method_pkd.c - Pearson correlation of feature maps.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* channels over batch and positions: (x - mean) / (unbiased deviation + 1e-6) */
static double *standard(const method_tap *f, size_t rows)
{
    size_t c = f->size[2], m = rows * f->size[0] * f->size[1];
    double *out = mr_new(m * c);
    for (size_t k = 0; k < c && m > 1; k++) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < m; i++) mean += f->data[i * c + k] / (double)m;
        for (size_t i = 0; i < m; i++) var += pow(f->data[i * c + k] - mean, 2) / (double)(m - 1);
        for (size_t i = 0; i < m; i++) out[i * c + k] = (f->data[i * c + k] - mean) / (sqrt(var) + 1e-6);
    }
    return out;
}

static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++)
        total += mr_mean_square(standard(&x->s[k], x->rows), standard(&x->t[k], x->rows), x->rows * x->s[k].each) / 2;
    return total;
}

static double size(const method_in *x) { return (double)x->taps; }

/* From one position to more than 256 in a batch. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        size_t high = k ? 3 : 12;
        x->s[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, high), draw(rand, 1, high), draw(rand, 1, k ? 9 : 3) } };
        x->t[k] = x->s[k];
    }
}

const method_feature method_feature_PKD = {
    .loss = loss, .size = size, .shapes = shapes,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
