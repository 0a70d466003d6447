/* method_dkd.c - decoupled distillation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 [alpha KL(b_t || b_s) + beta KL(p^ || q^)]; b = (p_y, 1 - p_y), hats over the other classes */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, y = (size_t)x->labels[r], rest = 0;
    double *p = mr_new(n), *q = mr_new(n), *zt = mr_new(n), *zs = mr_new(n), bt[2], bs[2];
    mr_log_softmax(x->teacher + r * n, n, x->T, p);
    mr_log_softmax(x->student + r * n, n, x->T, q);
    bt[0] = p[y], bs[0] = q[y];
    for (size_t c = 0; c < n; c++)
        if (c != y) zt[rest] = p[c], zs[rest++] = q[c];
    bt[1] = mr_log_sum_exp(zt, rest), bs[1] = mr_log_sum_exp(zs, rest);
    int others = rest && isfinite(bt[1]) && isfinite(bs[1]);
    double target = mr_kl_logs(bt, bs, others ? 2 : 1);
    double among = others ? mr_kl_logits(zt, zs, rest, 1) : 0;
    return (x->desc->temperature_squared ? x->T * x->T : 1) * (x->alpha * target + x->beta * among);
}

static void target_only(kd_loss_distill_desc *d) { d->beta = 0; }
static void others_only(kd_loss_distill_desc *d) { d->alpha = 0; }

const method_output method_output_DKD = {
    .row = row,
    .needs = METHOD_LABELS,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER | METHOD_ZERO_AT_TEACHER,
    .options = { { "default", NULL }, { "beta 0", target_only }, { "alpha 0", others_only } },
};
