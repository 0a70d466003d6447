/* method_deit_soft.c - two heads, soft labels on the second.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 / K KL(p || q), q of the second head; PAPER: not divided by K */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double squared = x->desc->temperature_squared ? x->T * x->T : 1;
    return (x->form == KD_FORM_CODE ? squared / (double)n : squared) * mr_kl_logits(x->teacher + r * n, x->second + r * n, n, x->T);
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER, d->temperature = 3; }

const method_output method_output_DEIT_SOFT = {
    .row = row,
    .needs = METHOD_SECOND,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .options = { { "default", NULL }, { "paper", paper } },
};
