/* method_ab.c - activation boundaries.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* sum over pairs of 2^(l - L + 1) 3 / (1000 B) [ (s + m)^2 where s > -m, t <= 0; (s - m)^2 where s <= m, t > 0 ]; or, for how
 * large the numbers are that this is made of, of all (|s| + m)^2 */
static double squares(const method_in *x, int all)
{
    double total = 0, m = x->alpha;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        char name[16];
        snprintf(name, sizeof name, "s%zu", k);
        int same = s->size[0] == t->size[0] && s->size[1] == t->size[1] && s->size[2] == t->size[2];
        const double *y = same ? s->data : mr_conv_reg(x, name, s, t, x->rows);
        double sum = 0;
        for (size_t i = 0; i < x->rows * t->each; i++) {
            if (all) sum += (fabs(y[i]) + m) * (fabs(y[i]) + m);
            else if (t->data[i] <= 0 && y[i] > -m) sum += (y[i] + m) * (y[i] + m);
            else if (t->data[i] > 0 && y[i] <= m) sum += (y[i] - m) * (y[i] - m);
        }
        total += sum * 3 / 1000 / (double)x->rows * ldexp(1, (int)k - (int)x->taps + 1);
    }
    return total;
}

static double loss(const method_in *x) { return squares(x, 0); }
static double size(const method_in *x) { return squares(x, 1); }

/* What comes out of batch norm's backward is larger by 1 / deviation.  Without `train` the connector's norm leaves the
 * convolution's result as it is (running mean 0, variance 1). */
static double grad_size(const method_in *x)
{
    double most = 1;
    method_in plain = *x;
    plain.train = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *t = &x->t[k];
        size_t c = t->size[2], n = x->rows * t->size[0] * t->size[1];
        char name[16];
        snprintf(name, sizeof name, "s%zu", k);
        if (memcmp(x->s[k].size, t->size, sizeof t->size) == 0) continue;
        const double *z = mr_conv_reg(&plain, name, &x->s[k], t, x->rows);
        for (size_t i = 0; i < c; i++) {
            double mean = 0, var = 1e-5;
            for (size_t p = 0; p < n; p++) mean += z[p * c + i] / (double)n;
            for (size_t p = 0; p < n; p++) var += pow(z[p * c + i] - mean, 2) / (double)n;
            most = fmax(most, 1 / sqrt(var));
        }
    }
    return most * size(x) / (double)x->rows;
}

/* Maps of all connectors, and of none. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = draw(rand, 1, 3);
    for (size_t k = 0; k < x->taps; k++) {
        size_t t = draw(rand, 1, 3), kind = draw(rand, 0, 4), c = draw(rand, 1, 5);
        size_t s = kind == 0 ? 2 * t : kind == 1 || kind == 4 ? t : t + kind - 1;
        if (kind == 1) t *= 2;
        x->s[k] = (method_tap){ .rank = 3, .size = { s, s, c } };
        x->t[k] = (method_tap){ .rank = 3, .size = { t, t, kind == 4 ? c : draw(rand, 1, 6) } };
    }
}

static void wide(kd_loss_feature_desc *d) { d->alpha = .25f; }

const method_feature method_feature_AB = {
    .loss = loss, .size = size, .grad_size = grad_size, .shapes = shapes,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "margin .25", wide } },
};
