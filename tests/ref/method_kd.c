/* method_kd.c - soft labels at a temperature.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 D(p, q) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double *p = mr_new(n), *q = mr_new(n), *m = mr_new(n), beta = x->desc->js_beta, d;
    mr_log_softmax(x->teacher + r * n, n, x->T, p);
    mr_log_softmax(x->student + r * n, n, x->T, q);
    for (size_t c = 0; c < n; c++) m[c] = log(beta * exp(p[c]) + (1 - beta) * exp(q[c]));
    if (x->desc->direction == KD_DIRECTION_FORWARD) d = mr_kl_logs(p, q, n);
    else if (x->desc->direction == KD_DIRECTION_REVERSE) d = mr_kl_logs(q, p, n);
    else d = beta * mr_kl_logs(p, m, n) + (1 - beta) * mr_kl_logs(q, m, n);
    return (x->desc->temperature_squared ? x->T * x->T : 1) * d;
}

static void reverse(kd_loss_distill_desc *d) { d->direction = KD_DIRECTION_REVERSE; }
static void js(kd_loss_distill_desc *d) { d->direction = KD_DIRECTION_JS, d->js_beta = .2f; }
static void unscaled(kd_loss_distill_desc *d) { d->temperature_squared = 0; }

const method_output method_output_KD = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .options = { { "default", NULL }, { "reverse", reverse }, { "js", js }, { "no T^2", unscaled } },
};
