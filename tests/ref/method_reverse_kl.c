/* method_reverse_kl.c - reverse Kullback-Leibler divergence.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 KL(q || p) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    return (x->desc->temperature_squared ? x->T * x->T : 1) * mr_kl_logits(x->student + r * n, x->teacher + r * n, n, x->T);
}

const method_output method_output_REVERSE_KL = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
};
