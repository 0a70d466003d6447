/* method_semckd.c - layers matched by attention.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* [rows, w], rows of length 1 */
static double *embed(const method_in *x, const char *name, const method_tap *f)
{
    const size_t n = x->rows, w = x->feature->width ? x->feature->width : n / 4 ? n / 4 : 1;
    double *gram = mr_new(n * n);
    for (size_t i = 0; i < n * n; i++) gram[i] = mr_dot(f->data + i / n * f->each, f->data + i % n * f->each, f->each);
    char layer[48];
    snprintf(layer, sizeof layer, "%s.linear1", name);
    double *y = mr_adapter_linear(x, layer, gram, n);
    mr_relu(y, n * 2 * w);
    snprintf(layer, sizeof layer, "%s.linear2", name);
    y = mr_adapter_linear(x, layer, y, n);
    for (size_t r = 0; r < n; r++) mr_unit(y + r * w, w, 1e-12, y + r * w);
    return y;
}

static double *project(const method_in *x, size_t i, size_t j, double *y, size_t h, size_t w, size_t c)
{
    for (size_t k = 0; k < 3; k++) {
        char conv[80], norm[80];
        size_t oh, ow;
        snprintf(conv, sizeof conv, "s%zu.proj%zu.%zu", i, j, 3 * k);
        snprintf(norm, sizeof norm, "s%zu.proj%zu.%zu", i, j, 3 * k + 1);
        y = mr_adapter_conv(x, conv, y, x->rows, h, w, 1, k == 1, &oh, &ow);
        if (k == 2) break;
        mr_adapter_norm(x, norm, y, x->rows * h * w, 1e-5);
        mr_relu(y, x->rows * h * w * 2 * c);
    }
    return y;
}

static double loss(const method_in *x)
{
    const size_t n = x->rows, width = x->feature->width ? x->feature->width : n / 4 ? n / 4 : 1;
    double *key[METHOD_TAPS], total = 0;
    char name[48];
    for (size_t j = 0; j < x->teacher_taps; j++) snprintf(name, sizeof name, "t%zu.key", j), key[j] = embed(x, name, &x->t[j]);
    for (size_t i = 0; i < x->taps; i++) {
        snprintf(name, sizeof name, "s%zu.query", i);
        const double *query = embed(x, name, &x->s[i]);
        double *a = mr_new(n * x->teacher_taps);
        for (size_t b = 0; b < n; b++) {
            double *row = a + b * x->teacher_taps;
            for (size_t j = 0; j < x->teacher_taps; j++) row[j] = mr_dot(query + b * width, key[j] + b * width, width);
            mr_softmax(row, x->teacher_taps, x->T, row);
        }
        for (size_t j = 0; j < x->teacher_taps; j++) {
            const method_tap *s = &x->s[i], *t = &x->t[j];
            const size_t h = s->size[0] < t->size[0] ? s->size[0] : t->size[0];
            const size_t w = s->size[1] < t->size[1] ? s->size[1] : t->size[1];
            const size_t c = t->size[2], each = h * w * c;
            double *y = project(x, i, j, mr_adaptive_pool(s->data, n, s->size[0], s->size[1], s->size[2], h, w), h, w, c);
            const double *z = mr_adaptive_pool(t->data, n, t->size[0], t->size[1], c, h, w);
            for (size_t b = 0; b < n; b++)
                total += a[b * x->teacher_taps + j] * mr_mean_square(y + b * each, z + b * each, each);
        }
    }
    return total / (double)(n * x->taps);
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = draw(rand, 1, 2), x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < 2; k++) {
        x->s[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 4), draw(rand, 1, 4), draw(rand, 1, 4) } };
        x->t[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 4), draw(rand, 1, 4), draw(rand, 1, 4) } };
    }
}

static void wide(kd_loss_feature_desc *d) { d->width = 3; }

const method_feature method_feature_SEMCKD = {
    .loss = loss, .shapes = shapes, .needs = METHOD_BATCH,
    .but = METHOD_KINKS,
    .options = { { "width 3", wide }, { "default", NULL } },
};
