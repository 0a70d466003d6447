/* method_taid.c - a teacher between student and teacher.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* - T^2 sum v log q; PAPER: KL(v || q);  v = softmax((1 - a) student + a teacher), a constant; before the first batch a = alpha */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *z = mr_new(n), *lv = mr_new(n), *lq = mr_new(n), sum = 0;
    for (size_t c = 0; c < n; c++) {
        double s = x->student_fixed[r * n + c], t = x->teacher[r * n + c];
        z[c] = x->alpha == 0 ? s : x->alpha == 1 ? t : (1 - x->alpha) * s + x->alpha * t;
    }
    mr_log_softmax(z, n, x->T, lv);
    mr_log_softmax(x->student + r * n, n, x->T, lq);
    for (size_t c = 0; c < n; c++)
        if (exp(lv[c]) > 0) sum += exp(lv[c]) * ((x->form == KD_FORM_PAPER ? lv[c] : 0) - lq[c]);
    return (x->desc->temperature_squared ? x->T * x->T : 1) * sum;
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }
static void teacher(kd_loss_distill_desc *d) { d->alpha = 1; }

const method_output method_output_TAID = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .options = { { "default", NULL }, { "paper", paper }, { "alpha 1", teacher } },
};
