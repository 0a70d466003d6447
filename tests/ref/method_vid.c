/* method_vid.c - variational information distillation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* three linear layers over the positions, ReLU between */
static double *regressor(const method_in *x, size_t pair, const double *in, size_t n)
{
    double *y = NULL;
    for (size_t l = 0; l < 6; l += 2) {
        char name[64];
        snprintf(name, sizeof name, "s%zu.regressor.%zu.weight", pair, l);
        const method_param *w = mr_param(x, name);
        size_t a = w->size[w->rank - 2], b = w->size[w->rank - 1];
        y = mr_affine(l ? y : in, n, a, w->data, NULL, b);
        if (l < 4) mr_relu(y, n * b);
    }
    return y;
}

/* The mean of (m - t)^2 / v + log v over 2, or of the magnitudes of both. */
static double total(const method_in *x, int magnitudes)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        const double *a = s->data, *b = t->data;
        size_t n = x->rows * (t->rank == 2 ? t->size[0] : 1), c = t->size[t->rank - 1];
        if (s->rank == 3) {
            size_t h = s->size[0] < t->size[0] ? s->size[0] : t->size[0], w = s->size[1] < t->size[1] ? s->size[1] : t->size[1];
            a = mr_adaptive_pool(a, x->rows, s->size[0], s->size[1], s->size[2], h, w);
            b = mr_adaptive_pool(b, x->rows, t->size[0], t->size[1], c, h, w);
            n = x->rows * h * w;
        }
        char name[48];
        snprintf(name, sizeof name, "s%zu.log_scale", k);
        const double *r = mr_data(x, name), *m = regressor(x, k, a, n);
        double sum = 0;
        for (size_t i = 0; i < n * c; i++) {
            double v = log1p(exp(r[i % c])) + 1e-5, l = log(v), d = m[i] - b[i];
            sum += d * d / v + (magnitudes ? fabs(l) : l);
        }
        total += sum / 2 / (double)(n * c);
    }
    return total;
}

static double loss(const method_in *x) { return total(x, 0); }
static double size(const method_in *x) { return total(x, 1); }

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        size_t kind = draw(rand, 0, 3), l = draw(rand, 1, 5), a = draw(rand, 1, 6), b = draw(rand, 1, 6);
        if (kind == 0) {
            x->s[k] = (method_tap){ .rank = 1, .size = { a } };
            x->t[k] = (method_tap){ .rank = 1, .size = { b } };
        } else if (kind == 1) {
            x->s[k] = (method_tap){ .rank = 2, .size = { l, a } };
            x->t[k] = (method_tap){ .rank = 2, .size = { l, b } };
        } else {
            size_t h = draw(rand, 1, 4), w = draw(rand, 1, 4);
            x->s[k] = (method_tap){ .rank = 3, .size = { h, w, a } };
            x->t[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 4), draw(rand, 1, 4), b } };
        }
    }
}

static void wide(kd_loss_feature_desc *d) { d->width = 7; }

const method_feature method_feature_VID = {
    .loss = loss, .size = size, .shapes = shapes,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "width 7", wide } },
};
