/* method_mutual.c - peers teach each other.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 KL(mean of the peers' probabilities || student's) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *p = mr_new(n), *q = mr_new(n), *one = mr_new(n);
    for (size_t i = 0; i <= x->more_count; i++) {
        mr_softmax((i ? x->more[i - 1] : x->teacher) + r * n, n, x->T, one);
        for (size_t c = 0; c < n; c++) p[c] += one[c] / (double)(x->more_count + 1);
    }
    for (size_t c = 0; c < n; c++) p[c] = log(p[c]);
    mr_log_softmax(x->student + r * n, n, x->T, q);
    return (x->desc->temperature_squared ? x->T * x->T : 1) * mr_kl_logs(p, q, n);
}

const method_output method_output_MUTUAL = {
    .row = row,
    .needs = METHOD_MORE,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
};
