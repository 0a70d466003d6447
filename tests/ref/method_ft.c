/* method_ft.c - factor transfer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double *chain(const method_in *x, const char *side, size_t first, const method_tap *tap, const double *in,
                     size_t *channels)
{
    const size_t positions = x->rows * tap->size[0] * tap->size[1];
    double *y = NULL;
    for (size_t k = first; k < first + 3; k++) {
        char name[24];
        size_t h, w;
        snprintf(name, sizeof name, "%s.conv%zu", side, k);
        y = mr_adapter_conv(x, name, y ? y : in, x->rows, tap->size[0], tap->size[1], 1, 1, &h, &w);
        snprintf(name, sizeof name, "%s.conv%zu.bias", side, k);
        *channels = mr_param(x, name)->count;
        snprintf(name, sizeof name, "%s.bn%zu", side, k);
        if (*side == 's') mr_adapter_norm(x, name, y, positions, 1e-5);
        for (size_t i = 0; i < positions * *channels; i++) y[i] = y[i] > 0 ? y[i] : .1 * y[i];
    }
    return y;
}

/* [rows, m]: the mean squares over channels, or all of it; rows of length 1 */
static double *factor(const method_in *x, const double *f, size_t hw, size_t channels, size_t *m)
{
    *m = x->form == KD_FORM_PAPER ? hw * channels : hw;
    double *a = mr_new(x->rows * *m);
    for (size_t i = 0; i < x->rows * hw * channels; i++) {
        if (x->form == KD_FORM_PAPER) a[i] = f[i];
        else a[i / channels] += f[i] * f[i] / (double)channels;
    }
    for (size_t r = 0; r < x->rows; r++) mr_unit(a + r * *m, *m, 1e-12, a + r * *m);
    return a;
}

/* `part` 0: the loss; 1: the sum of the magnitudes of what the factor subtracts. */
static double total(const method_in *x, int part)
{
    const method_tap *s = &x->s[0], *t = &x->t[0];
    size_t k, m, h = s->size[0] < t->size[0] ? s->size[0] : t->size[0], w = s->size[1] < t->size[1] ? s->size[1] : t->size[1];
    const double *code = chain(x, "t0", 1, t, t->data, &k);
    double total = 0;
    if (x->alpha > 0) {
        const double *f = chain(x, "s0", 1, s, s->data, &k);
        f = mr_adaptive_pool(f, x->rows, s->size[0], s->size[1], k, h, w);
        const double *g = mr_adaptive_pool(code, x->rows, t->size[0], t->size[1], k, h, w);
        f = factor(x, f, h * w, k, &m), g = factor(x, g, h * w, k, &m);
        for (size_t i = 0; i < x->rows * m; i++)
            total += x->alpha * (part ? fabs(f[i]) + fabs(g[i]) : fabs(f[i] - g[i])) / (double)(x->rows * m);
    }
    if (x->beta > 0)
        total += x->beta * mr_mean_square(chain(x, "t0", 4, t, code, &k), t->data, x->rows * t->each);
    return total;
}

static double loss(const method_in *x) { return total(x, 0); }
static double size(const method_in *x) { return total(x, 1); }

/* The factor does not train the paraphraser; the options never have both parts. */
static double adapter(const method_in *x, const char *name) { return x->alpha > 0 && *name == 't' ? 0 : 1; }

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    x->taps = x->teacher_taps = 1;
    x->s[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 5), draw(rand, 1, 5), draw(rand, 1, 5) } };
    x->t[0] = (method_tap){ .rank = 3, .size = { draw(rand, 1, 5), draw(rand, 1, 5), draw(rand, 1, 6) } };
}

static void code(kd_loss_feature_desc *d) { d->beta = 0; }
static void paper(kd_loss_feature_desc *d) { d->beta = 0, d->form = KD_FORM_PAPER, d->alpha = .5f; }
static void paraphraser(kd_loss_feature_desc *d) { d->alpha = 0, d->beta = 1, d->gamma = .7f; }

const method_feature method_feature_FT = {
    .loss = loss, .size = size, .adapter = adapter, .shapes = shapes,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
    .options = { { "factor", code }, { "paper", paper }, { "paraphraser", paraphraser } },
};
