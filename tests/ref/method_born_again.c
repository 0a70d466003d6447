/* method_born_again.c - the generation before teaches.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    return (x->desc->temperature_squared ? x->T * x->T : 1) * mr_kl_logits(x->teacher + r * n, x->student + r * n, n, x->T);
}

const method_output method_output_BORN_AGAIN = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
};
