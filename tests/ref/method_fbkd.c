/* method_fbkd.c - attention-guided and non-local distillation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double *conv(const method_in *x, const char *side, const char *layer, const double *in, size_t padding)
{
    char name[40];
    size_t oh, ow;
    snprintf(name, sizeof name, "%s.%s", side, layer);
    return mr_adapter_conv(x, name, in, x->rows, x->s[0].size[0], x->s[0].size[1], 1, padding, &oh, &ow);
}

/* [rows, hw] */
static double *importance(const method_in *x, const double *f, size_t hw, size_t c)
{
    double *a = mr_new(x->rows * hw);
    for (size_t i = 0; i < x->rows * hw * c; i++) a[i / c] += fabs(f[i]) / (double)c;
    for (size_t r = 0; r < x->rows; r++) mr_softmax(a + r * hw, hw, x->T, a + r * hw);
    for (size_t i = 0; i < x->rows * hw; i++) a[i] *= (double)hw;
    return a;
}

static double *means_over_channels(const double *f, size_t n, size_t c)
{
    double *m = mr_new(n);
    for (size_t i = 0; i < n; i++) m[i] = mr_mean(f + i * c, c);
    return m;
}

static double *non_local(const method_in *x, const char *side, const double *f, size_t hw, size_t c)
{
    const double *g = conv(x, side, "g", f, 0), *theta = conv(x, side, "theta", f, 0), *phi = conv(x, side, "phi", f, 0);
    char name[40];
    snprintf(name, sizeof name, "%s.g.bias", side);
    const size_t h = mr_param(x, name)->count;
    double *y = mr_new(x->rows * hw * h);
    for (size_t r = 0; r < x->rows; r++)
        for (size_t i = r * hw; i < (r + 1) * hw; i++)
            for (size_t j = r * hw; j < (r + 1) * hw; j++) {
                const double pair = mr_dot(theta + i * h, phi + j * h, h) / (double)hw;
                for (size_t k = 0; k < h; k++) y[i * h + k] += pair * g[j * h + k];
            }
    y = conv(x, side, "conv_out", y, 0);
    snprintf(name, sizeof name, "%s.bn", side);
    mr_adapter_norm(x, name, y, x->rows * hw, 1e-5);
    for (size_t i = 0; i < x->rows * hw * c; i++) y[i] += f[i];
    return y;
}

static double loss(const method_in *x)
{
    const method_tap *s = &x->s[0], *t = &x->t[0];
    const size_t h = s->size[0], w = s->size[1], hw = h * w, n = x->rows * hw, c = s->size[2], d = t->size[2];
    const double *a = importance(x, x->s_fixed[0].data, hw, c), *b = importance(x, t->data, hw, d);
    const double *f = conv(x, "s0", "feature", s->data, 0);
    double square = 0;
    for (size_t i = 0; i < n * d; i++) square += (a[i / d] + b[i / d]) / 2 * (t->data[i] - f[i]) * (t->data[i] - f[i]);
    double total = x->alpha * sqrt(square);
    const double *pooled = mr_adapter_linear(x, "s0.channel", mr_adaptive_pool(s->data, x->rows, h, w, c, 1, 1), x->rows);
    total += x->beta * sqrt(mr_distance2(mr_adaptive_pool(t->data, x->rows, h, w, d, 1, 1), pooled, x->rows * d));
    const double *spatial = conv(x, "s0", "spatial", means_over_channels(s->data, n, c), 1);
    total += x->beta * sqrt(mr_distance2(means_over_channels(t->data, n, d), spatial, n));
    const double *relation = conv(x, "s0", "relation", non_local(x, "s0.non_local", s->data, hw, c), 0);
    return total + x->gamma * sqrt(mr_distance2(non_local(x, "t0", t->data, hw, d), relation, n * d));
}

static void large(kd_loss_feature_desc *d) { d->alpha = .5f, d->beta = 1, d->gamma = 2, d->width = 3; }

const method_feature method_feature_FBKD = {
    .loss = loss,
    .kind = METHOD_MAPS, .same = METHOD_SAME_SIZE, .memory = 32,   /* eleven convolutions, forth and back */
    .holds = METHOD_ROW_ORDER,
    .options = { { "default", NULL }, { "large", large } },
};
