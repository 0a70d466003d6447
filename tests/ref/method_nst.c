/* method_nst.c - neuron selectivity transfer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* channel i of row r, [h w], pooled and of length 1: [rows, c, oh ow] */
static double *channels(const method_tap *f, size_t rows, size_t oh, size_t ow)
{
    size_t c = f->size[2], p = oh * ow;
    double *pooled = mr_adaptive_pool(f->data, rows, f->size[0], f->size[1], c, oh, ow), *out = mr_new(rows * c * p);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < c; i++) {
            double *at = out + (r * c + i) * p;
            for (size_t q = 0; q < p; q++) at[q] = pooled[(r * p + q) * c + i];
            mr_unit(at, p, 1e-12, at);
        }
    return out;
}

/* mean over pairs of channels of (a . b)^2 */
static double kernel(const double *a, size_t na, const double *b, size_t nb, size_t p)
{
    double sum = 0;
    for (size_t i = 0; i < na; i++)
        for (size_t j = 0; j < nb; j++) sum += pow(mr_dot(a + i * p, b + j * p, p), 2) / ((double)na * (double)nb);
    return sum;
}

static double terms(const method_in *x, double cross)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        size_t h = s->size[0] < t->size[0] ? s->size[0] : t->size[0], w = s->size[1] < t->size[1] ? s->size[1] : t->size[1];
        size_t p = h * w;
        double *a = channels(s, x->rows, h, w), *b = channels(t, x->rows, h, w);
        for (size_t r = 0; r < x->rows; r++) {
            const double *u = a + r * s->size[2] * p, *v = b + r * t->size[2] * p;
            total += (kernel(u, s->size[2], u, s->size[2], p) + kernel(v, t->size[2], v, t->size[2], p) +
                      cross * kernel(u, s->size[2], v, t->size[2], p)) / (double)x->rows;
        }
    }
    return total;
}

static double loss(const method_in *x) { return terms(x, -2); }
static double size(const method_in *x) { return terms(x, 2); }

/* More positions than channels, and fewer; sizes that differ. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        size_t many = draw(rand, 0, 1), low = many ? 4 : 1, high = many ? 6 : 3, c = many ? 4 : 12;
        x->s[k] = (method_tap){ .rank = 3, .size = { draw(rand, low, high), draw(rand, low, high), draw(rand, 1, c) } };
        x->t[k] = (method_tap){ .rank = 3, .size = { draw(rand, low, high), draw(rand, low, high), draw(rand, 1, c) } };
    }
}

const method_feature method_feature_NST = {
    .loss = loss, .size = size, .shapes = shapes,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
