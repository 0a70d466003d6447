/* method_ickd.c - inter-channel correlation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* rows of the matrix of channels, each of length 1: [rows, c, c] */
static double *correlations(const double *f, size_t rows, size_t p, size_t c)
{
    double *g = mr_new(rows * c * c);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < c; i++) {
            double *at = g + (r * c + i) * c;
            for (size_t q = r * p; q < (r + 1) * p; q++)
                for (size_t j = 0; j < c; j++) at[j] += f[q * c + i] * f[q * c + j];
            mr_unit(at, c, 1e-12, at);
        }
    return g;
}

static double loss(const method_in *x)
{
    double total = 0, rows = (double)x->rows;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        size_t h = s->size[0], w = s->size[1], p = h * w, c = t->size[2];
        const double *y = s->data;
        if (s->size[2] != c) {
            char conv[16], norm[16];
            snprintf(conv, sizeof conv, "s%zu.0", k), snprintf(norm, sizeof norm, "s%zu.1", k);
            double *z = mr_adapter_conv(x, conv, y, x->rows, h, w, 1, 0, &h, &w);
            mr_adapter_norm(x, norm, z, x->rows * p, 1e-5);
            y = z;
        }
        double square = mr_distance2(correlations(y, x->rows, p, c), correlations(t->data, x->rows, p, c), x->rows * c * c);
        total += square / ((double)c * rows * (x->form == KD_FORM_THIRD ? rows : 1));
    }
    return total;
}

static double size(const method_in *x) { return (double)x->taps; }
static void third(kd_loss_feature_desc *d) { d->form = KD_FORM_THIRD; }

const method_feature method_feature_ICKD = {
    .loss = loss, .size = size,
    .kind = METHOD_MAPS, .same = METHOD_SAME_SIZE, .taps_high = 2,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "third", third } },
};
