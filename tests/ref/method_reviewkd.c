/* method_reviewkd.c - knowledge review.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double *conv_norm(const method_in *x, size_t pair, const char *which, const double *in, size_t h, size_t w, size_t padding,
                         size_t *c)
{
    char conv[32], norm[32], weight[48];
    size_t oh, ow;
    snprintf(conv, sizeof conv, "s%zu.%s.0", pair, which), snprintf(norm, sizeof norm, "s%zu.%s.1", pair, which);
    snprintf(weight, sizeof weight, "%s.weight", conv);
    *c = mr_param(x, weight)->size[3];
    double *y = mr_adapter_conv(x, conv, in, x->rows, h, w, 1, padding, &oh, &ow);
    mr_adapter_norm(x, norm, y, x->rows * h * w, 1e-5);
    return y;
}

static double pyramid(const double *a, const double *b, size_t n, size_t h, size_t w, size_t c)
{
    double sum = mr_mean_square(a, b, n * h * w * c), factor = 1, factors = 1;
    for (size_t k = 4; k >= 1; k /= 2) {
        if (k >= h) continue;
        factor /= 2, factors += factor;
        const double *u = mr_adaptive_pool(a, n, h, w, c, k, k), *v = mr_adaptive_pool(b, n, h, w, c, k, k);
        sum += factor * mr_mean_square(u, v, n * k * k * c);
    }
    return sum / factors;
}

static double loss(const method_in *x)
{
    double total = 0, *before = NULL;
    size_t bh = 0, bw = 0;
    for (size_t i = x->taps; i-- > 0;) {
        const method_tap *s = &x->s[i], *t = &x->t[i];
        const size_t sh = s->rank == 3 ? s->size[0] : 1, sw = s->rank == 3 ? s->size[1] : 1;
        const size_t th = t->rank == 3 ? t->size[0] : 1, tw = t->rank == 3 ? t->size[1] : 1;
        size_t mid, out;
        double *y = conv_norm(x, i, "conv1", s->data, sh, sw, 0, &mid);
        if (before) {
            const size_t positions = x->rows * sh * sw;
            const double *up = mr_nearest(before, x->rows, bh, bw, mid, sh, sw);
            double *both = mr_new(positions * 2 * mid);
            for (size_t p = 0; p < positions; p++) {
                memcpy(both + p * 2 * mid, y + p * mid, mid * sizeof *y);
                memcpy(both + p * 2 * mid + mid, up + p * mid, mid * sizeof *y);
            }
            char weight[40], bias[40];
            snprintf(weight, sizeof weight, "s%zu.att_conv.0.weight", i), snprintf(bias, sizeof bias, "s%zu.att_conv.0.bias", i);
            const double *z = mr_affine(both, positions, 2 * mid, mr_data(x, weight), mr_data(x, bias), 2);
            for (size_t p = 0; p < positions * mid; p++)
                y[p] = y[p] * mr_sigmoid(z[p / mid * 2]) + up[p] * mr_sigmoid(z[p / mid * 2 + 1]);
        }
        before = mr_nearest(y, x->rows, sh, sw, mid, th, tw), bh = th, bw = tw;
        y = conv_norm(x, i, "conv2", before, th, tw, 1, &out);
        total += pyramid(y, t->data, x->rows, th, tw, out);
    }
    return total;
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 3);
    for (size_t k = 0; k < x->taps; k++) {
        const size_t side = draw(rand, 1, 2) << (x->taps - k - 1), other = draw(rand, 0, 2) ? side : draw(rand, 1, 6);
        x->s[k] = (method_tap){ .rank = 3, .size = { side, side, draw(rand, 1, 5) } };
        x->t[k] = (method_tap){ .rank = 3, .size = { other, other, draw(rand, 1, 5) } };
    }
    if (draw(rand, 0, 1)) {
        x->s[x->taps - 1] = (method_tap){ .rank = 1, .size = { draw(rand, 1, 6) } };
        x->t[x->taps - 1] = (method_tap){ .rank = 1, .size = { draw(rand, 1, 6) } };
    }
}

static void wide(kd_loss_feature_desc *d) { d->width = 7; }

const method_feature method_feature_REVIEWKD = {
    .loss = loss, .shapes = shapes, .memory = 8,   /* three levels, each resized, pooled and through two convolutions */
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "width 7", wide } },
};
