/* method_lskd.c - standardised logits, then soft labels.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* (z - mean) / (deviation + 1e-7) over what is not masked, unbiased */
static double *standard(const double *z, size_t n)
{
    double *out = mr_new(n), sum = 0, squares = 0, count = 0;
    for (size_t c = 0; c < n; c++)
        if (isfinite(z[c])) sum += z[c], count += 1;
    for (size_t c = 0; c < n; c++)
        if (isfinite(z[c])) squares += (z[c] - sum / count) * (z[c] - sum / count);
    double deviation = count > 1 ? sqrt(squares / (count - 1)) : 0;
    for (size_t c = 0; c < n; c++) out[c] = isfinite(z[c]) ? (z[c] - sum / count) / (deviation + 1e-7) : z[c];
    return out;
}

static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *s = standard(x->student + r * n, n), *t = standard(x->teacher + r * n, n);
    return (x->desc->temperature_squared ? x->T * x->T : 1) * mr_kl_logits(t, s, n, x->T);
}

const method_output method_output_LSKD = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
};
