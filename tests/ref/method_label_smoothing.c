/* method_label_smoothing.c - cross-entropy with a uniform teacher.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* CODE: -1/K sum log q; PAPER: KL(uniform || q) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *q = mr_new(n), sum = 0;
    mr_log_softmax(x->student + r * n, n, 1, q);
    for (size_t c = 0; c < n; c++) sum -= q[c] / (double)n;
    return x->form == KD_FORM_PAPER ? sum - log((double)n) : sum;
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }

const method_output method_output_LABEL_SMOOTHING = {
    .row = row,
    .needs = METHOD_NO_TEACHER,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .but = METHOD_NO_TEMPERATURE | METHOD_NO_MASKS,
    .options = { { "default", NULL }, { "paper", paper } },
};
