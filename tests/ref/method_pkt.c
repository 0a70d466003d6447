/* method_pkt.c - probabilistic knowledge transfer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double *probabilities(const method_tap *f, size_t rows)
{
    double *x = mr_new(rows * f->each), *p = mr_new(rows * rows);
    for (size_t i = 0; i < rows; i++) {
        double norm = mr_norm2(f->data + i * f->each, f->each);
        for (size_t c = 0; c < f->each; c++) x[i * f->each + c] = f->data[i * f->each + c] / (norm + 1e-7);
    }
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < rows; j++) p[i * rows + j] = (mr_dot(x + i * f->each, x + j * f->each, f->each) + 1) / 2;
        double sum = mr_sum(p + i * rows, rows);
        for (size_t j = 0; j < rows; j++) p[i * rows + j] /= sum;
    }
    return p;
}

/* mean over B^2 of p log((p + e) / (q + e)) */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const double *p = probabilities(&x->t[k], x->rows), *q = probabilities(&x->s[k], x->rows);
        for (size_t i = 0; i < x->rows * x->rows; i++) total += p[i] * log((p[i] + 1e-7) / (q[i] + 1e-7));
    }
    return total / (double)(x->rows * x->rows);
}

/* rows of p sum to 1, logarithms of numbers from 1/rows to 1e-7 */
static double size(const method_in *x) { return (double)x->taps * (1 + log((double)x->rows)) / (double)x->rows; }

/* Vectors of four and more: of fewer some are opposite, p + 1e-7 is nothing but rounding there. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        x->s[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 3), draw(rand, 1, 3), draw(rand, 4, 9) } };
        x->t[k] = (method_tap){ .rank = 1, .size = { draw(rand, 4, 20) } };
    }
}

const method_feature method_feature_PKT = {
    .loss = loss, .size = size,
    .shapes = shapes,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
