/* method_nkd.c - the target class, and the others normalised without it.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* - p_y log q_y - gamma T^2 sum_{k != y} p^_k log q^_k */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, y = (size_t)x->labels[r], rest = 0;
    double *p = mr_new(n), *zt = mr_new(n), *zs = mr_new(n), *lq = mr_new(n), sum = 0;
    mr_softmax(x->teacher + r * n, n, 1, p);
    double target = p[y] > 0 ? p[y] * mr_cross_entropy_label(x->student + r * n, n, y) : 0;
    for (size_t c = 0; c < n; c++)
        if (c != y) zt[rest] = x->teacher[r * n + c], zs[rest++] = x->student[r * n + c];
    if (rest && isfinite(mr_log_sum_exp(zt, rest))) {
        mr_softmax(zt, rest, x->T, p);
        mr_log_softmax(zs, rest, x->T, lq);
        for (size_t c = 0; c < rest; c++)
            if (p[c] > 0) sum -= p[c] * lq[c];
    }
    return target + x->gamma * (x->desc->temperature_squared ? x->T * x->T : 1) * sum;
}

static void cifar(kd_loss_distill_desc *d) { d->gamma = 3.5f; }
static void target_only(kd_loss_distill_desc *d) { d->gamma = 0; }

const method_output method_output_NKD = {
    .row = row,
    .needs = METHOD_LABELS,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .options = { { "default", NULL }, { "gamma 3.5", cifar }, { "gamma 0", target_only } },
};
