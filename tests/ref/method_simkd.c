/* method_simkd.c - the teacher's classifier reused.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double loss(const method_in *x)
{
    const method_tap *s = &x->s[0], *t = &x->t[0];
    const size_t h = s->size[0] < t->size[0] ? s->size[0] : t->size[0], w = s->size[1] < t->size[1] ? s->size[1] : t->size[1];
    const size_t positions = x->rows * h * w, c = t->size[2];
    const double *target = mr_adaptive_pool(t->data, x->rows, t->size[0], t->size[1], c, h, w);
    double *y = mr_adaptive_pool(s->data, x->rows, s->size[0], s->size[1], s->size[2], h, w);
    for (size_t k = 0; k < 3; k++) {
        static const char *const conv[] = { "s0.0", "s0.3", "s0.6" }, *const norm[] = { "s0.1", "s0.4", "s0.7" };
        size_t oh, ow;
        char bias[16];
        snprintf(bias, sizeof bias, "%s.bias", norm[k]);
        y = mr_adapter_conv(x, conv[k], y, x->rows, h, w, 1, k == 1, &oh, &ow);
        mr_adapter_norm(x, norm[k], y, positions, 1e-5);
        mr_relu(y, positions * mr_param(x, bias)->count);
    }
    return mr_mean_square(y, target, positions * c);
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = 1;
    x->s[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 5), draw(rand, 1, 5), draw(rand, 1, 6) } };
    x->t[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 5), draw(rand, 1, 5), draw(rand, 1, 7) } };
}

static void wide(kd_loss_feature_desc *d) { d->width = 5; }

const method_feature method_feature_SIMKD = {
    .loss = loss, .shapes = shapes,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "width 5", wide } },
};
