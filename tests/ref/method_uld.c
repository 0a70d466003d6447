/* method_uld.c - distance of sorted probabilities.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 sum |sorted p - sorted q|, the shorter filled with zeros */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, m = x->teacher_width, wide = n > m ? n : m;
    double *p = mr_new(wide), *q = mr_new(wide), sum = 0;
    mr_softmax(x->teacher + r * m, m, x->T, p);
    mr_softmax(x->student + r * n, n, x->T, q);
    mr_sort(p, wide);
    mr_sort(q, wide);
    for (size_t i = 0; i < wide; i++) sum += fabs(p[i] - q[i]);
    return (x->desc->temperature_squared ? x->T * x->T : 1) * sum;
}

const method_output method_output_ULD = {
    .row = row,
    .needs = METHOD_WIDTH,
    .holds = METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .but = METHOD_KINKS,
};
