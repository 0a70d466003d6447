/* method_cwd.c - channel-wise distillation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* sum over pairs of T^2 / (B C) sum KL(softmax of t / T over positions || of s / T), a channel at a time */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        size_t h = s->size[0], w = s->size[1], p = h * w, c = t->size[2];
        char name[16];
        snprintf(name, sizeof name, "s%zu", k);
        const double *y = s->size[2] == c ? s->data : mr_adapter_conv(x, name, s->data, x->rows, h, w, 1, 0, &h, &w);
        double *a = mr_new(p), *b = mr_new(p);
        for (size_t r = 0; r < x->rows; r++)
            for (size_t i = 0; i < c; i++) {
                for (size_t q = 0; q < p; q++) a[q] = t->data[(r * p + q) * c + i], b[q] = y[(r * p + q) * c + i];
                total += x->T * x->T * mr_kl_logits(a, b, p, x->T) / (double)(x->rows * c);
            }
    }
    return total;
}

/* T^2 (1 + logits / T) */
static double size(const method_in *x) { return (double)x->taps * x->T * (x->T + 4); }

/* With an adapter and without; more channels than sixteen. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        size_t h = draw(rand, 1, 4), w = draw(rand, 1, 4), c = draw(rand, 1, k ? 5 : 37);
        x->s[k] = (method_tap){ .rank = 3, .size = { h, w, draw(rand, 0, 1) ? c : draw(rand, 1, 5) } };
        x->t[k] = (method_tap){ .rank = 3, .size = { h, w, c } };
    }
}

const method_feature method_feature_CWD = {
    .loss = loss, .size = size, .shapes = shapes,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
};
