/* method_hard.c - the teacher's class as a label.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* CE(student, argmax teacher) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    return mr_cross_entropy_label(x->student + r * n, n, mr_argmax(x->teacher + r * n, n));
}

const method_output method_output_HARD = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .but = METHOD_NO_TEMPERATURE,
};
