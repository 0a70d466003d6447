/* method_skew_kl.c - divergence from a mixture with the student.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* - T^2 sum p log m; PAPER: T^2 KL(p || m) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *lp = mr_new(n), *lq = mr_new(n), *p = mr_new(n);
    double *q = mr_new(n), squared = x->desc->temperature_squared ? x->T * x->T : 1, sum = 0;
    mr_log_softmax(x->teacher + r * n, n, x->T, lp);
    mr_log_softmax(x->student + r * n, n, x->T, lq);
    for (size_t c = 0; c < n; c++) p[c] = exp(lp[c]), q[c] = exp(lq[c]);
    for (size_t c = 0; c < n; c++)
        if (p[c] > 0) sum += p[c] * ((x->form == KD_FORM_PAPER ? lp[c] : 0) - log(x->alpha * p[c] + (1 - x->alpha) * q[c]));
    return squared * sum;
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }
static void half(kd_loss_distill_desc *d) { d->alpha = 0.5f; }

const method_output method_output_SKEW_KL = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .options = { { "default", NULL }, { "paper", paper }, { "alpha .5", half } },
};
