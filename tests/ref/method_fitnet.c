/* method_fitnet.c - regression of a hint layer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* mean (ReLU(regressor(student)) - teacher)^2 */
static double loss(const method_in *x)
{
    const method_tap *s = &x->s[0], *t = &x->t[0];
    size_t n = x->rows * t->each;
    double *y = ref_conv_reg(x, "s0", s, t, x->rows);
    if (x->form != KD_FORM_THIRD) ref_relu(y, n);
    return x->form == KD_FORM_PAPER ? ref_distance2(y, t->data, n) / (2 * (double)x->rows) : ref_mean_square(y, t->data, n);
}

static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER; }
static void third(kd_loss_feature_desc *d) { d->form = KD_FORM_THIRD; }

const method_feature method_feature_FITNET = {
    .loss = loss,
    .kind = METHOD_MAPS, .same = METHOD_SAME_SIZE,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS,
    .options = { { "default", NULL }, { "paper", paper }, { "third", third } },
};
