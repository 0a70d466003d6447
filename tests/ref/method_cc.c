/* method_cc.c - correlation congruence.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* K(a, b) = e^(-2 g) sum_p (2 g)^p / p! (a . b)^p of embeddings of length 1 */
static double kernel(const double *a, const double *b, size_t w, double g)
{
    double na = mr_norm2(a, w), nb = mr_norm2(b, w), dot = mr_dot(a, b, w);
    dot /= (na > 1e-12 ? na : 1e-12) * (nb > 1e-12 ? nb : 1e-12);
    return exp(-2 * g) * (1 + 2 * g * dot + 2 * g * g * dot * dot);
}

static double loss(const method_in *x)
{
    double *s = mr_adapter_linear(x, "s0.linear", x->s[0].data, x->rows), total = 0;
    double *t = mr_adapter_linear(x, "t0.linear", x->t[0].data, x->rows);
    size_t n = x->rows, w = mr_param(x, "s0.linear.bias")->count;
    if (x->form == KD_FORM_PAPER) {
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double d = kernel(s + i * w, s + j * w, w, x->gamma) - kernel(t + i * w, t + j * w, w, x->gamma);
                total += d * d;
            }
        return total / (double)(n * n);
    }
    for (size_t i = 0; i + 1 < n; i++)
        for (size_t k = i * w; k < (i + 1) * w; k++) total += fabs(s[k] - t[k]) * fabs(s[k + w] - t[k + w]);
    return n > 1 ? total / (double)(n - 1) : 0;
}

static double size(const method_in *x) { return x->form == KD_FORM_PAPER ? 1 : fabs(loss(x)) + 1e-12; }

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = 1;
    x->s[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 3), draw(rand, 1, 3), draw(rand, 2, 6) } };
    x->t[0] = (method_tap){ .rank = 1, .size = { draw(rand, 2, 12) } };
}

static void wide(kd_loss_feature_desc *d) { d->width = 9; }
static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER, d->width = 6; }

const method_feature method_feature_CC = {
    .loss = loss, .size = size, .shapes = shapes,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "width 9", wide }, { "paper", paper } },
};
