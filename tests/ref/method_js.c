/* method_js.c - generalised Jensen-Shannon divergence.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 [b KL(p || m) + (1 - b) KL(q || m)] */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *lp = mr_new(n), *lq = mr_new(n), *p = mr_new(n);
    double *q = mr_new(n), squared = x->desc->temperature_squared ? x->T * x->T : 1, sum = 0;
    mr_log_softmax(x->teacher + r * n, n, x->T, lp);
    mr_log_softmax(x->student + r * n, n, x->T, lq);
    for (size_t c = 0; c < n; c++) p[c] = exp(lp[c]), q[c] = exp(lq[c]);
    double b = x->desc->js_beta;
    for (size_t c = 0; c < n; c++) {
        double m = b * p[c] + (1 - b) * q[c];
        if (p[c] > 0) sum += b * p[c] * (lp[c] - log(m));
        if (q[c] > 0) sum += (1 - b) * q[c] * (lq[c] - log(m));
    }
    return squared * sum;
}

static void near_p(kd_loss_distill_desc *d) { d->js_beta = 0.9f; }
static void near_q(kd_loss_distill_desc *d) { d->js_beta = 0.1f; }

const method_output method_output_JS = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .options = { { "default", NULL }, { "beta .9", near_p }, { "beta .1", near_q } },
};
