/* method_top_k.c - a teacher known at k classes.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 sum p' (log p' - log q); PAPER: the mass that is left as one more event */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, k = x->teacher_width, rest = 0;
    const int32_t *which = x->teacher_classes + r * k;
    double *lp = mr_new(k), *lq = mr_new(n), *others = mr_new(n), sum = 0, mass = 0;
    mr_log_softmax(x->student + r * n, n, x->T, lq);
    if (x->form == KD_FORM_PAPER)
        for (size_t j = 0; j < k; j++)
            lp[j] = x->desc->teacher_form == KD_TEACHER_PROBS ? log(x->teacher[r * k + j]) : x->teacher[r * k + j];
    else
        mr_log_softmax(x->teacher + r * k, k, x->T, lp);
    for (size_t j = 0; j < k; j++)
        if (exp(lp[j]) > 0) sum += exp(lp[j]) * (lp[j] - lq[which[j]]), mass += exp(lp[j]);
    for (size_t c = 0; c < n; c++) {
        int kept = 0;
        for (size_t j = 0; j < k; j++) kept |= which[j] == (int32_t)c;
        if (!kept) others[rest++] = lq[c];
    }
    if (x->form == KD_FORM_PAPER && rest && mass < 1) sum += (1 - mass) * (log(1 - mass) - mr_log_sum_exp(others, rest));
    return (x->desc->temperature_squared ? x->T * x->T : 1) * sum;
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER, d->teacher_form = KD_TEACHER_PROBS; }

const method_output method_output_TOP_K = {
    .row = row,
    .needs = METHOD_SPARSE,
    .holds = METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .options = { { "default", NULL }, { "paper", paper } },
};
