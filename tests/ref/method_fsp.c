/* method_fsp.c - flow of solution procedure.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* row r of G [c, c'] = sum over positions of f g / positions, the larger of the two pooled */
static double *flow(const method_tap *f, const method_tap *g, size_t rows)
{
    size_t h = f->size[0] < g->size[0] ? f->size[0] : g->size[0], w = f->size[1] < g->size[1] ? f->size[1] : g->size[1];
    size_t a = f->size[2], b = g->size[2];
    double *x = mr_adaptive_pool(f->data, rows, f->size[0], f->size[1], a, h, w);
    double *y = mr_adaptive_pool(g->data, rows, g->size[0], g->size[1], b, h, w);
    double *out = mr_new(rows * a * b);
    for (size_t r = 0; r < rows; r++)
        for (size_t p = r * h * w; p < (r + 1) * h * w; p++)
            for (size_t i = 0; i < a; i++)
                for (size_t j = 0; j < b; j++) out[(r * a + i) * b + j] += x[p * a + i] * y[p * b + j] / (double)(h * w);
    return out;
}

static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k + 1 < x->taps; k++) {
        size_t n = x->rows * x->s[k].size[2] * x->s[k + 1].size[2];
        double square = mr_distance2(flow(&x->s[k], &x->s[k + 1], x->rows), flow(&x->t[k], &x->t[k + 1], x->rows), n);
        total += square / (double)(x->form == KD_FORM_PAPER ? x->rows : n);
    }
    return total;
}

static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER; }

const method_feature method_feature_FSP = {
    .loss = loss,
    .kind = METHOD_MAPS, .same = METHOD_SAME_WIDTH | METHOD_HALVING, .taps_low = 2, .taps_high = 3,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE | METHOD_NO_VALUE_1E4,
    .options = { { "default", NULL }, { "paper", paper } },
};
