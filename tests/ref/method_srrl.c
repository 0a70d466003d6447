/* method_srrl.c - softmax regression representation learning.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double *head(const method_in *x, const double *f, size_t c)
{
    double *w = mr_new(c * x->classes), *b = mr_new(x->classes);
    for (size_t i = 0; i < c * x->classes; i++) w[i] = (double)x->feature->teacher_weight[i];
    for (size_t i = 0; i < x->classes; i++) b[i] = (double)x->feature->teacher_bias[i];
    return mr_affine(f, x->rows, c, w, b, x->classes);
}

static double loss(const method_in *x)
{
    const method_tap *s = &x->s[0], *t = &x->t[0];
    const size_t hw = s->each / s->size[s->rank - 1], c = t->size[t->rank - 1];
    const double *w = mr_data(x, "s0.0.weight");
    double *f = mr_affine(s->data, x->rows * hw, s->size[s->rank - 1], w, NULL, c);
    mr_adapter_norm(x, "s0.1", f, x->rows * hw, 1e-5);
    mr_relu(f, x->rows * hw * c);
    const double *g = t->data;
    if (s->rank == 3) {
        f = mr_adaptive_pool(f, x->rows, s->size[0], s->size[1], c, 1, 1);
        g = mr_adaptive_pool(g, x->rows, t->size[0], t->size[1], c, 1, 1);
    }
    return x->alpha * mr_mean_square(f, g, x->rows * c) +
           (x->beta > 0 ? x->beta * mr_mean_square(head(x, f, c), head(x, g, c), x->rows * x->classes) : 0);
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = 1;
    if (draw(rand, 0, 2) == 0) {
        x->s[0] = (method_tap){ .rank = 1, .size = { draw(rand, 1, 8) } };
        x->t[0] = (method_tap){ .rank = 1, .size = { draw(rand, 1, 8) } };
        return;
    }
    x->s[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 4), draw(rand, 1, 4), draw(rand, 1, 6) } };
    x->t[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 4), draw(rand, 1, 4), draw(rand, 1, 6) } };
}

static void cifar(kd_loss_feature_desc *d) { d->beta = 5; }
static void features(kd_loss_feature_desc *d) { d->beta = 0; }

const method_feature method_feature_SRRL = {
    .loss = loss, .shapes = shapes, .needs = METHOD_CLASSIFIER,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "beta 5", cifar }, { "beta 0", features } },
};
