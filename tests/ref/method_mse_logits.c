/* method_mse_logits.c - squared difference of logits.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    const double *s = x->student + r * n, *t = x->teacher + r * n;
    double sum = 0;
    for (size_t c = 0; c < n; c++)
        if (s[c] > -INFINITY && t[c] > -INFINITY) sum += (s[c] - t[c]) * (s[c] - t[c]);
    return x->form == KD_FORM_CODE ? sum / (double)n : x->form == KD_FORM_PAPER ? sum / 2 : sum;
}

static double size(const method_in *x)
{
    double most = 0;
    for (size_t r = 0; r < x->rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < x->classes; c++) {
            double s = x->student[r * x->classes + c], t = x->teacher[r * x->classes + c];
            if (s > -INFINITY && t > -INFINITY) sum += (fabs(s) + fabs(t)) * (fabs(s) + fabs(t));
        }
        most = fmax(most, sum);
    }
    return x->form == KD_FORM_CODE ? most / (double)x->classes : most;
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }
static void third(kd_loss_distill_desc *d) { d->form = KD_FORM_THIRD; }

const method_output method_output_MSE_LOGITS = {
    .row = row, .size = size,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "paper", paper }, { "third", third } },
};
