/* method_kdsvd.c - singular vectors.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* Eigenvectors of X^T X [c, c] as columns of v, by Jacobi's largest off-diagonal entry; eigenvalues falling. */
static void eigen(const double *x, size_t pixels, size_t c, double *value, double *v)
{
    double *a = mr_new(c * c);
    for (size_t p = 0; p < pixels; p++)
        for (size_t i = 0; i < c * c; i++) a[i] += x[p * c + i / c] * x[p * c + i % c];
    for (size_t i = 0; i < c * c; i++) v[i] = i / c == i % c;
    for (size_t turns = 0; turns < 50 * c * c; turns++) {
        size_t p = 0, q = 0;
        for (size_t i = 0; i < c; i++)
            for (size_t j = i + 1; j < c; j++)
                if (p == q || fabs(a[i * c + j]) > fabs(a[p * c + q])) p = i, q = j;
        if (p == q || a[p * c + q] == 0) break;
        double angle = atan2(2 * a[p * c + q], a[p * c + p] - a[q * c + q]) / 2, co = cos(angle), si = sin(angle);
        for (size_t k = 0; k < c; k++) {
            double y = a[k * c + p], z = a[k * c + q];
            a[k * c + p] = co * y + si * z, a[k * c + q] = co * z - si * y;
            y = v[k * c + p], z = v[k * c + q];
            v[k * c + p] = co * y + si * z, v[k * c + q] = co * z - si * y;
        }
        for (size_t k = 0; k < c; k++) {
            double y = a[p * c + k], z = a[q * c + k];
            a[p * c + k] = co * y + si * z, a[q * c + k] = co * z - si * y;
        }
        a[p * c + q] = a[q * c + p] = 0;
    }
    for (size_t i = 0; i < c; i++) value[i] = a[i * c + i];
    for (size_t i = 0; i < c; i++)
        for (size_t j = i + 1; j < c; j++)
            if (value[j] > value[i]) {
                double y = value[i];
                value[i] = value[j], value[j] = y;
                for (size_t k = 0; k < c; k++) y = v[k * c + i], v[k * c + i] = v[k * c + j], v[k * c + j] = y;
            }
}

/* The vector of row b of a tap: the teacher's own, or the student's beside it. */
static double *vector(const method_tap *f, size_t b, const double *teacher)
{
    size_t c = f->size[2], pixels = f->size[0] * f->size[1];
    double *value = mr_new(c), *v = mr_new(c * c), *out = mr_new(c), sign = 1, most = 0;
    eigen(f->data + b * f->each, pixels, c, value, v);
    if (!(value[0] > 0)) {
        out[0] = 1;
        return out;
    }
    size_t best = 0;
    for (size_t j = 0; teacher && j < 4 && j < c && value[j] > 1e-10 * value[0]; j++) {
        double dot = 0;
        for (size_t k = 0; k < c; k++) dot += v[k * c + j] * teacher[k];
        if (j == 0 || fabs(dot) > most) best = j, most = fabs(dot), sign = dot < 0 ? -1 : 1;
    }
    for (size_t k = 0; !teacher && k < c; k++)
        if (fabs(v[k * c]) > most) most = fabs(v[k * c]), sign = v[k * c] < 0 ? -1 : 1;
    for (size_t k = 0; k < c; k++) out[k] = sign * v[k * c + best];
    return out;
}

static double loss(const method_in *x)
{
    double total = 0;
    for (size_t b = 0; b < x->rows; b++) {
        double *vs[METHOD_TAPS], *vt[METHOD_TAPS];
        for (size_t i = 0; i < x->taps; i++) vt[i] = vector(&x->t[i], b, NULL), vs[i] = vector(&x->s[i], b, vt[i]);
        for (size_t i = 0; i + 1 < x->taps; i++)
            for (size_t a = 0; a < x->s[i].size[2]; a++)
                for (size_t k = 0; k < x->s[i + 1].size[2]; k++) {
                    double ds = vs[i + 1][k] - vs[i][a], dt = vt[i + 1][k] - vt[i][a], d = exp(-ds * ds / 8) - exp(-dt * dt / 8);
                    total += d * d / (double)x->rows;
                }
    }
    return total;
}

static double size(const method_in *x)   /* differences of numbers of about 1 */
{
    double n = 0;
    for (size_t i = 0; i + 1 < x->taps; i++) n += (double)(x->s[i].size[2] * x->s[i + 1].size[2]);
    return sqrt(n * (loss(x) + 1e-12));
}

const method_feature method_feature_KDSVD = {
    .loss = loss, .size = size,
    .kind = METHOD_MAPS, .same = METHOD_SAME_WIDTH, .taps_low = 2, .taps_high = 3,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE | METHOD_KINKS,
};
