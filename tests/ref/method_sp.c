/* method_sp.c - similarity-preserving.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* rows of F F^T, each of length 1 */
static double *similarity(const method_tap *f, size_t rows)
{
    double *g = mr_new(rows * rows);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < rows; j++) g[i * rows + j] = mr_dot(f->data + i * f->each, f->data + j * f->each, f->each);
        mr_unit(g + i * rows, rows, 1e-12, g + i * rows);
    }
    return g;
}

/* sum over pairs of |Q_s - Q_t|^2 / B^2 */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++)
        total += mr_mean_square(similarity(&x->s[k], x->rows), similarity(&x->t[k], x->rows), x->rows * x->rows);
    return total;
}

const method_feature method_feature_SP = {
    .loss = loss,
    .kind = METHOD_MAPS, .taps_low = 1, .taps_high = 2,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
