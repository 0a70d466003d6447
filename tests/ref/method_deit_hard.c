/* method_deit_hard.c - two heads, the teacher's class on the second.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    return mr_cross_entropy_label(x->second + r * n, n, mr_argmax(x->teacher + r * n, n));
}

const method_output method_output_DEIT_HARD = {
    .row = row,
    .needs = METHOD_SECOND,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .but = METHOD_NO_TEMPERATURE,
};
