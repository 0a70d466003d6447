/* method_cosine_logits.c - one minus the cosine of logits.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    const double *s = x->student + r * n, *t = x->teacher + r * n;
    double ss = 0, tt = 0, st = 0;
    for (size_t c = 0; c < n; c++)
        if (s[c] > -INFINITY && t[c] > -INFINITY) ss += s[c] * s[c], tt += t[c] * t[c], st += s[c] * t[c];
    return 1 - st / fmax(sqrt(ss) * sqrt(tt), 1e-8);
}

static double size(const method_in *x)
{
    (void)x;
    return 2;
}

const method_output method_output_COSINE_LOGITS = {
    .row = row, .size = size,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
};
