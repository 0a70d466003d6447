/* method_fitnet.c - regression of a hint layer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* sum over pairs of mean (ReLU(regressor(student)) - teacher)^2; the paper's form is without the ReLU */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        size_t n = x->rows * x->t[k].each;
        char name[16];
        snprintf(name, sizeof name, "reg%zu", k);
        double *y = mr_conv_reg(x, name, &x->s[k], &x->t[k], x->rows);
        if (x->form == KD_FORM_CODE) mr_relu(y, n);
        total += mr_mean_square(y, x->t[k].data, n);
    }
    return total;
}

/* Maps of all three regressors: half as large, twice, and larger by some. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 2);
    for (size_t k = 0; k < x->taps; k++) {
        size_t t = draw(rand, 1, 3), kind = draw(rand, 0, 3), s = kind == 0 ? 2 * t : kind == 1 ? t : t + kind - 1;
        if (kind == 1) t *= 2;
        x->s[k] = (method_tap){ .rank = 3, .size = { s, s, draw(rand, 1, 5) } };
        x->t[k] = (method_tap){ .rank = 3, .size = { t, t, draw(rand, 1, 6) } };
    }
}

static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER; }

const method_feature method_feature_FITNET = {
    .loss = loss, .shapes = shapes,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "paper", paper } },
};
