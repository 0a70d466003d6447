/* method_akl.c - forward and reverse divergence, weighted by where the gaps are.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 [a KL(p || q) + (1 - a) KL(q || p)], a a constant: the head's share of |p - q| */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    const double *s = x->student + r * n, *t = x->teacher + r * n;
    double *p = mr_new(n), *q = mr_new(n), head = 0, all = 0;
    mr_softmax(t, n, x->T, p);
    mr_softmax(x->student_fixed + r * n, n, x->T, q);
    for (size_t c = 0; c < n; c++) {
        double before = 0;
        for (size_t k = 0; k < n; k++) before += p[k] > p[c] || (p[k] == p[c] && k < c) ? p[k] : 0;
        all += fabs(p[c] - q[c]);
        if (before < x->alpha) head += fabs(p[c] - q[c]);
    }
    double a = all > 0 ? head / all : 0.5, forward = a > 0 ? a * mr_kl_logits(t, s, n, x->T) : 0;
    return (x->desc->temperature_squared ? x->T * x->T : 1) * (forward + (a < 1 ? (1 - a) * mr_kl_logits(s, t, n, x->T) : 0));
}

static void wide(kd_loss_distill_desc *d) { d->alpha = 0.9f; }

const method_output method_output_AKL = {
    .row = row,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .options = { { "default", NULL }, { "alpha .9", wide } },
};
