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

/* The student's map before its batch norm, and behind it. */
static double *student(const method_in *x, size_t k, int norm)
{
    const method_tap *s = &x->s[k];
    size_t h = s->size[0], w = s->size[1];
    char conv[16], bn[16];
    if (s->size[2] == x->t[k].size[2]) return s->data;
    snprintf(conv, sizeof conv, "s%zu.0", k), snprintf(bn, sizeof bn, "s%zu.1", k);
    double *z = mr_adapter_conv(x, conv, s->data, x->rows, h, w, 1, 0, &h, &w);
    if (norm) mr_adapter_norm(x, bn, z, x->rows * h * w, 1e-5);
    return z;
}

static double loss(const method_in *x)
{
    double total = 0, rows = (double)x->rows;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *t = &x->t[k];
        size_t p = t->size[0] * t->size[1], c = t->size[2];
        const double *a = correlations(student(x, k, 1), x->rows, p, c), *b = correlations(t->data, x->rows, p, c);
        double square = mr_distance2(a, b, x->rows * c * c);
        total += square / ((double)c * rows * (x->form == KD_FORM_THIRD ? rows : 1));
    }
    return total;
}

static double size(const method_in *x) { return (double)x->taps; }

/* A channel that is nearly 0 has a row of nearly nothing, whose direction is divided by its length; where the map is one position
 * all that cancels.  4 / (C B) |map| / |row|, larger by 1 / deviation through batch norm. */
static double grad_size(const method_in *x)
{
    double most = 0;
    for (size_t k = 0; k < x->taps; k++) {
        size_t p = x->t[k].size[0] * x->t[k].size[1], c = x->t[k].size[2], n = x->rows * p;
        const double *y = student(x, k, 1), *z = student(x, k, 0);
        double norm = 1;
        for (size_t i = 0; i < c && x->s[k].size[2] != c; i++) {
            double mean = 0, var = 1e-5;
            for (size_t q = 0; q < n; q++) mean += z[q * c + i] / (double)n;
            for (size_t q = 0; q < n; q++) var += pow(z[q * c + i] - mean, 2) / (double)n;
            norm = fmax(norm, 1 / sqrt(var));
        }
        for (size_t r = 0; r < x->rows; r++)
            for (size_t i = 0; i < c; i++) {
                double row = 0;
                for (size_t j = 0; j < c; j++) {
                    double g = 0;
                    for (size_t q = r * p; q < (r + 1) * p; q++) g += y[q * c + i] * y[q * c + j];
                    row += g * g;
                }
                if (row > 0) most = fmax(most, norm * 4 * mr_norm2(y + r * p * c, p * c) / sqrt(row) / (double)(c * x->rows));
            }
    }
    return most;
}

static void third(kd_loss_feature_desc *d) { d->form = KD_FORM_THIRD; }

const method_feature method_feature_ICKD = {
    .loss = loss, .size = size, .grad_size = grad_size,
    .kind = METHOD_MAPS, .same = METHOD_SAME_SIZE, .taps_high = 2,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "third", third } },
};
