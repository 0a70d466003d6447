/* method_wsld.c - soft labels weighted by the difficulty of each row.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 w (- sum p log q), w = 1 - exp(-CE_s / (CE_t + 1e-7)) a constant */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, y = (size_t)x->labels[r];
    double *p = mr_new(n), *q = mr_new(n), sum = 0;
    double of_student = mr_cross_entropy_label(x->student_fixed + r * n, n, y);
    double of_teacher = mr_cross_entropy_label(x->teacher + r * n, n, y);
    double w = isinf(of_teacher) ? 0 : 1 - exp(-fmax(of_student, 0) / (of_teacher + 1e-7));
    mr_softmax(x->teacher + r * n, n, x->T, p);
    mr_log_softmax(x->student + r * n, n, x->T, q);
    for (size_t c = 0; c < n; c++)
        if (p[c] > 0) sum -= p[c] * q[c];
    return w == 0 ? 0 : (x->desc->temperature_squared ? x->T * x->T : 1) * w * sum;
}

const method_output method_output_WSLD = {
    .row = row,
    .needs = METHOD_LABELS,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
};
