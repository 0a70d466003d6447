/* method_fitnet.c - regression of a hint layer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* mean (regressor(student) - teacher)^2 */
static double loss(const method_in *x)
{
    const method_tap *s = &x->s[0], *t = &x->t[0];
    size_t h, w;
    double *y = ref_adapter_conv(x, "conv", s->data, x->rows, s->size[0], s->size[1], 1, 0, &h, &w);
    size_t c = t->size[2];
    ref_adapter_norm(x, "bn", y, x->rows * h * w, 1e-5);
    ref_relu(y, x->rows * h * w * c);
    return ref_mean_square(y, t->data, x->rows * h * w * c);
}

const method_feature method_feature_FITNET = {
    .loss = loss,
    .kind = METHOD_MAPS, .same = METHOD_SAME_SIZE,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS,
};
