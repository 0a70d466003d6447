/* method_at.c - attention transfer.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* a map [h, w, c] pooled to [oh, ow, c], squared, averaged over channels, of length 1: [rows, oh ow] */
static double *attention(const method_tap *f, size_t rows, size_t oh, size_t ow)
{
    size_t c = f->size[2], p = oh * ow;
    double *pooled = mr_adaptive_pool(f->data, rows, f->size[0], f->size[1], c, oh, ow), *a = mr_new(rows * p);
    for (size_t i = 0; i < rows * p; i++) a[i] = mr_dot(pooled + i * c, pooled + i * c, c) / (double)c;
    for (size_t r = 0; r < rows; r++) mr_unit(a + r * p, p, 1e-12, a + r * p);
    return a;
}

static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        size_t h = s->size[0] < t->size[0] ? s->size[0] : t->size[0], w = s->size[1] < t->size[1] ? s->size[1] : t->size[1];
        double *a = attention(s, x->rows, h, w), *b = attention(t, x->rows, h, w);
        for (size_t r = 0; r < x->rows; r++) {
            double square = mr_distance2(a + r * h * w, b + r * h * w, h * w);
            total += (x->form == KD_FORM_PAPER ? sqrt(square) : square / (double)(h * w)) / (double)x->rows;
        }
    }
    return total;
}

static double size(const method_in *x) { return (double)x->taps; }
static void paper(kd_loss_feature_desc *d) { d->form = KD_FORM_PAPER; }

const method_feature method_feature_AT = {
    .loss = loss, .size = size,
    .kind = METHOD_MAPS, .taps_high = 3,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "paper", paper } },
};
