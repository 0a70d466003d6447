/* method_rkd.c - distances and angles between samples.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* d_ij / mean of the positive ones */
static double *distances(const double *e, size_t rows, size_t n)
{
    double *d = mr_new(rows * rows), sum = 0;
    size_t positive = 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < rows; j++) {
            double square = mr_distance2(e + i * n, e + j * n, n);
            d[i * rows + j] = i == j ? 0 : sqrt(square > 1e-12 ? square : 1e-12);
            if (d[i * rows + j] > 0) sum += d[i * rows + j], positive++;
        }
    for (size_t i = 0; i < rows * rows && positive; i++) d[i] /= sum / (double)positive;
    return d;
}

/* cosine of the angle at j between i and k: e_ij . e_kj */
static double angle(const double *e, size_t n, size_t i, size_t j, size_t k)
{
    double dot = 0, ii = sqrt(mr_distance2(e + i * n, e + j * n, n)), kk = sqrt(mr_distance2(e + k * n, e + j * n, n));
    for (size_t c = 0; c < n; c++) dot += (e[i * n + c] - e[j * n + c]) * (e[k * n + c] - e[j * n + c]);
    return dot / ((ii > 1e-12 ? ii : 1e-12) * (kk > 1e-12 ? kk : 1e-12));
}

static double loss(const method_in *x)
{
    size_t rows = x->rows;
    double B = (double)rows, distance = 0, angles = 0;
    for (size_t tap = 0; tap < x->taps; tap++) {
        size_t ns = x->s[tap].each, nt = x->t[tap].each;
        const double *s = x->s[tap].data, *t = x->t[tap].data, *ds = distances(s, rows, ns), *dt = distances(t, rows, nt);
        for (size_t i = 0; i < rows * rows; i++) distance += mr_huber(ds[i] - dt[i]) / (B * B);
        for (size_t j = 0; j < rows; j++)
            for (size_t i = 0; i < rows; i++)
                for (size_t k = 0; k < rows; k++)
                    angles += mr_huber(angle(s, ns, i, j, k) - angle(t, nt, i, j, k)) / (B * B * B);
    }
    return x->alpha * distance + x->beta * angles;
}

/* smooth L1 of numbers about 1 */
static double size(const method_in *x) { return (double)x->taps * (x->alpha + x->beta); }

const method_feature method_feature_RKD = {
    .loss = loss, .size = size,
    .kind = METHOD_VECTORS, .taps_low = 1, .taps_high = 2, .width_low = 3,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
