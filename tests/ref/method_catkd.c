/* method_catkd.c - class attention transfer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double loss(const method_in *x)
{
    const size_t g = x->feature->width, area = g * g;
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        const size_t classes = s->size[2];
        const double *b = t->data;
        if (x->feature->teacher_weight) {
            const size_t c = t->size[2];
            double *w = mr_new(c * classes), *bias = mr_new(classes);
            for (size_t i = 0; i < c * classes; i++) w[i] = (double)x->feature->teacher_weight[i];
            for (size_t i = 0; x->feature->teacher_bias && i < classes; i++) bias[i] = (double)x->feature->teacher_bias[i];
            b = mr_affine(b, x->rows * t->size[0] * t->size[1], c, w, bias, classes);
        }
        const double *a = mr_adaptive_pool(s->data, x->rows, s->size[0], s->size[1], classes, g, g);
        b = mr_adaptive_pool(b, x->rows, t->size[0], t->size[1], classes, g, g);
        double *u = mr_new(area), *v = mr_new(area), sum = 0;
        for (size_t r = 0; r < x->rows; r++)
            for (size_t j = 0; j < classes; j++) {
                for (size_t p = 0; p < area; p++)
                    u[p] = a[(r * area + p) * classes + j], v[p] = b[(r * area + p) * classes + j];
                if (x->form == KD_FORM_PAPER) mr_unit(u, area, 1e-12, u), mr_unit(v, area, 1e-12, v);
                sum += mr_distance2(u, v, area);
            }
        total += sum / (double)(x->rows * classes * area);
    }
    return total;
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        const size_t classes = draw(rand, 1, 6);
        x->s[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 5), draw(rand, 1, 5), classes } };
        x->t[k] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 5), draw(rand, 1, 5), classes } };
    }
}

/* With a classifier for the teacher: the golden lines. */
static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER; }
static void wide(kd_loss_feature_desc *d) { d->width = 3; }
static void wide_paper(kd_loss_feature_desc *d) { d->width = 3, d->form = KD_FORM_PAPER; }

const method_feature method_feature_CATKD = {
    .loss = loss, .shapes = shapes,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "paper", paper }, { "width 3", wide }, { "width 3, paper", wide_paper } },
};
