/* method_tvd.c - total variation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 / 2 sum |p - q| */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *lp = mr_new(n), *lq = mr_new(n), *p = mr_new(n);
    double *q = mr_new(n), squared = x->desc->temperature_squared ? x->T * x->T : 1, sum = 0;
    mr_log_softmax(x->teacher + r * n, n, x->T, lp);
    mr_log_softmax(x->student + r * n, n, x->T, lq);
    for (size_t c = 0; c < n; c++) p[c] = exp(lp[c]), q[c] = exp(lq[c]);
    for (size_t c = 0; c < n; c++) sum += fabs(p[c] - q[c]);
    return squared * sum / 2;
}

const method_output method_output_TVD = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_KINKS,
};
